"""`make bench`: measures the whole path, the stock ensemble, materialisation and single stages.

It starts servers of its own on free ports, in `var/bench/run`, with the bundle that `var/bundles/current`
points to. Timings are recorded, never asserted; answers are checked.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from deploy.local.ports import PortTaken
from deploy.local.settings import load_settings
from deploy.local.stack import StackError
from tests.benchmarks import measure
from tests.benchmarks.record import PAGE, Record, say
from tests.benchmarks.servers import BenchError, bench_settings, our_servers


@contextmanager
def kept_in(faults: list[str]) -> Iterator[None]:
    """Lets the run go on without what could not be measured."""
    try:
        yield
    except BenchError as fault:
        say(f"not measured: {fault}")
        faults.append(str(fault))


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
        raise BenchError(f"{bundle}: no bundle to measure; run `make train` first") from None
    settings = bench_settings(local.var / "bench" / "run", bundle)
    record, dataset = Record(manifest["bundle"]), manifest["dataset"]
    users, context = manifest["sample_user_ids"], manifest["context"]
    with our_servers(settings):
        measure.serve(settings, record, given.data or dataset)
        stock = None
        with kept_in(faults):
            saved_models = local.var / "saved_models" / manifest["bundle"]
            stock = measure.build_stock(settings, saved_models, dataset, given.users)
            users = json.loads((stock / "users.json").read_text())
        with kept_in(faults):
            measure.measure_path(settings, record, users, given.requests)
        if stock:
            with kept_in(faults):
                measure.measure_stock(settings, record, stock, users, context, given.stock_requests)
    for role in ("training", "triton", "gateway"):
        with kept_in(faults):
            measure.measure_parts(settings, record, role)
    say(f"wrote {record.write(local.var / 'bench')}")
    if given.publish:
        record.publish()
        say(f"wrote {PAGE}")
    return faults


def main() -> int:
    """Reads the arguments and runs; 1 where something could not be measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="the data set that the bundle was trained on (default: by its name)")
    parser.add_argument("--users", type=int, default=300, help="users that are asked for (default: 300)")
    parser.add_argument("--requests", type=int, default=1500, help="to the gateway (default: 1500)")
    parser.add_argument(
        "--stock-requests", type=int, default=100, help="to the stock ensemble (default: 100)"
    )
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
