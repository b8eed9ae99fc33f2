"""`make bench`: measures four designs side by side, the whole path, materialisation and single stages.

It starts servers of its own on free ports, in `var/bench/run`, with the bundle that `var/bundles/current`
points to. Timings are recorded, never asserted; answers are checked, and a wrong one ends the design's part.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from bench import path, plots
from bench.chain import FEW, measure_chain, measure_overhead
from bench.designs import REFERENCE_01, REFERENCE_04, STOCK
from bench.page import PAGE, publish
from bench.record import Record, say
from bench.replies import World, seen_users
from bench.series import CLIENTS, COMPARED_AT, Plan, capacity_of, closed_series, open_series
from bench.servers import BenchError, bench_settings, our_servers
from bench.side_by_side import Bench, N, build, known_users, measure_other
from bench.targets import add_targets
from deploy.local.ports import PortTaken
from deploy.local.settings import LocalSettings, load_settings
from deploy.local.stack import StackError

OTHERS = (STOCK, REFERENCE_01, REFERENCE_04)
PLANS = {
    STOCK: Plan(closed={1: 8.0, 4: 8.0, 16: 12.0, 64: 12.0}, open_s=4.0),
    REFERENCE_01: Plan(),
    REFERENCE_04: Plan(),
}
QUICK_PLANS = {
    STOCK: Plan(closed={1: 2.0, 16: 2.0}, shares=(), warm_s=0.5),
    REFERENCE_01: Plan(dict.fromkeys(CLIENTS, 2.0), open_s=2.0, warm_s=1.0),
    REFERENCE_04: Plan(dict.fromkeys(CLIENTS, 2.0), open_s=2.0, warm_s=1.0),
}
OUR_PLAN = Plan(dict.fromkeys(CLIENTS, 8.0), open_s=12.0, warm_s=3.0)
OUR_QUICK_PLAN = Plan(dict.fromkeys(CLIENTS, 3.0), open_s=3.0)
SAMPLED_S, QUICK_SAMPLED_S = 10, 3


@contextmanager
def kept_in(faults: list[str]) -> Iterator[None]:
    """Lets the run go on without what could not be measured, whatever the reason: it is told at the end."""
    try:
        yield
    except Exception as fault:
        message = str(fault) if isinstance(fault, BenchError) else f"{type(fault).__name__}: {fault}"
        say(f"not measured: {message}")
        faults.append(message)


def bench(given: argparse.Namespace) -> list[str]:
    """Measures everything and records it; gives what could not be measured.

    Raises:
        BenchError: there is no bundle, or the servers do not serve it.
    """
    local, faults = load_settings(), list[str]()
    bundle = local.bundle.resolve()
    try:
        manifest = json.loads((bundle / "manifest.json").read_text())
    except OSError:
        raise BenchError(f"{bundle}: no bundle to measure; run `make train promote` first") from None
    settings = bench_settings(local.var / "bench" / "run", bundle)
    record, dataset = Record(manifest["bundle"]), given.data or manifest["dataset"]
    images = plots.FOLDER if given.publish else local.var / "bench" / "images"
    with our_servers(settings):
        path.materialize(settings, record, dataset)
        saved_models = local.var / "saved_models" / manifest["bundle"]
        folders = {}
        for name in given.designs:
            with kept_in(faults):
                folders[name] = build(settings, name, saved_models, dataset)
        path.serve(settings)
        with kept_in(faults):
            measure_designs(settings, record, manifest, folders, images, given.quick, faults)
    for role in () if given.quick else ("training", "triton", "gateway"):
        with kept_in(faults):
            path.measure_parts(settings, record, role)
    add_targets(record)
    say(f"wrote {record.write(local.var / 'bench')}")
    for picture in plots.draw(record.rows, images):
        say(f"drew {picture}")
    if given.publish:
        publish(record)
        say(f"wrote {PAGE}")
    return faults


def measure_designs(
    settings: LocalSettings,
    record: Record,
    manifest: dict[str, object],
    folders: dict[str, Path],
    images: Path,
    is_quick: bool,
    faults: list[str],
) -> None:
    """Measures ours, then each other design that was built."""
    context, served = tuple(map(str, manifest["context"])), str(manifest["dataset"])  # type: ignore[call-overload]
    users = known_users(*folders.values()) or seen_users(settings.redis, served)
    items = frozenset(np.load(settings.bundle / "item_ids.npy").tolist())
    side = Bench(
        settings,
        record,
        str(manifest["bundle"]),
        World(settings.redis, served, items, users, N),
        context,
        images,
    )
    sampled_s = QUICK_SAMPLED_S if is_quick else SAMPLED_S
    plan, ours, gateway = OUR_QUICK_PLAN if is_quick else OUR_PLAN, side.ours(), side.gateway()
    over_grpc, over_http = closed_series(record, ours, plan), closed_series(record, gateway, plan)
    with kept_in(faults):
        path.add_stages(record, over_http[FEW])
    with kept_in(faults):
        open_series(record, gateway, plan, capacity_of(over_http))
    with kept_in(faults):
        open_series(record, ours, plan, capacity_of(over_grpc))
    for clients in (FEW, COMPARED_AT):
        with kept_in(faults):
            measure_chain(side, clients, sampled_s)
    with kept_in(faults):
        measure_overhead(side, sampled_s)
    for name, folder in folders.items():
        with kept_in(faults):
            plan = (QUICK_PLANS if is_quick else PLANS)[name]
            measure_other(side, name, folder, plan, capacity_of(over_grpc))


def main() -> int:
    """Reads the arguments and runs; 1 where something could not be measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="the data set that the bundle was trained on (default: by its name)")
    parser.add_argument("--designs", nargs="*", default=OTHERS, choices=OTHERS, help="beside ours")
    parser.add_argument("--quick", action="store_true", help="short series, to try the harness")
    parser.add_argument("--publish", action="store_true", help="write docs/performance.md anew")
    try:
        return 1 if bench(parser.parse_args()) else 0
    except (BenchError, StackError, PortTaken, RuntimeError) as error:
        print(f"bench    {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
