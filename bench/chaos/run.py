"""`make chaos` and `make overload`: harms the servers, or asks too much of them, and tells what callers get.

It starts servers of its own on free ports, in `var/chaos/run`, with the bundle that `var/bundles/current`
points to. Timings are recorded, never asserted; it fails where a request was not answered as promised.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.chaos import faults, overload, report
from bench.chaos.stand import Stand
from bench.load.load import LoadError, own_ids
from bench.record import commit, machine, write_json
from bench.servers import BenchError, bench_settings, our_servers
from contract.ids import OwnId
from contract.marked import put_between
from deploy.local.ports import PortTaken
from deploy.local.settings import ROOT, load_settings
from deploy.local.stack import StackError
from service.settings import Settings as GatewaySettings

PAGE = ROOT / "docs" / "operations.md"
USERS, CAPACITY_S, WARM_S = 5000, 10.0, 3.0


def say(line: str) -> None:
    """Prints one line at once."""
    print(line, flush=True)


def facts(command: str, bundle: str) -> str:
    """What was measured, on what, and when."""
    on = machine()
    return (
        f"`{command}` on {datetime.now(UTC):%Y-%m-%d}, commit `{commit()[:10]}`, bundle `{bundle}`, on "
        f"{on['cpu']}, {on['cores']} cores, {on['memory_gib']} GiB, {on['system']}, everything and the load "
        f"generator on the one machine; load average before the run {on['load']}."
    )


def write(folder: Path, what: str, content: dict[str, Any]) -> Path:
    """Writes what was seen as JSON, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{what}-{datetime.now(UTC):%Y-%m-%dT%H-%M-%SZ}.json"
    write_json(path, content)
    return path


def publish(what: str, lines: list[str], page: Path = PAGE) -> None:
    """Puts the lines between the page's two marks of that name.

    Raises:
        BenchError: the marks are not there.
    """
    try:
        put_between(page, what, "\n".join(lines))
    except ValueError as error:
        raise BenchError(str(error)) from None


def run_faults(
    stand: Stand, users: Sequence[OwnId], budget_ms: float, given: argparse.Namespace
) -> dict[str, Any]:
    """Measures capacity, then does each harm at half of it."""
    can = measured_capacity(stand, users)
    outcomes = []
    for one in faults.HARMS:
        if given.only in one.name:
            say(f"{one.name}, at {can.rate / 2:.0f} requests/s for {one.load_s(given.seconds):g} s")
            done = faults.harm(
                stand, users, one, rate=can.rate / 2, seconds=given.seconds, budget_ms=budget_ms
            )
            say(f"    {done}")
            outcomes.append(done)
    are_kept = all(one.is_promise_kept for one in outcomes if "gateway" not in one.name)
    lines = report.of_faults(outcomes, budget_ms)
    return {
        "kept": are_kept,
        "lines": lines,
        "capacity": asdict(can),
        "outcomes": [asdict(one) for one in outcomes],
    }


def run_overload(
    stand: Stand, users: Sequence[OwnId], budget_ms: float, given: argparse.Namespace
) -> dict[str, Any]:
    """Measures capacity and the cost of a popular slate, then each overload, then starts."""
    can = measured_capacity(stand, users)
    cheap_ms = overload.cheap_cost(stand, users, can.rate)
    say(f"a popular slate costs {cheap_ms} CPU ms")
    outcomes = []
    for factor in given.factors:
        say(f"{factor:g} times capacity, {factor * can.rate:.0f} requests/s for {given.seconds:g} s")
        outcomes.append(overload.overload(stand, users, can, factor, given.seconds, budget_ms))
        say(f"    {outcomes[-1]}")
    say("restarting Triton and the gateway, and timing the first request")
    starts = overload.first_requests(stand, users)
    lines = report.of_overload(can, cheap_ms, outcomes, starts)
    result = {"capacity": asdict(can), "cheap_ms": cheap_ms, "starts": starts}
    are_kept = all(one.is_promise_kept for one in outcomes)
    return {"kept": are_kept, "lines": lines, **result, "outcomes": [asdict(one) for one in outcomes]}


def measured_capacity(stand: Stand, users: Sequence[OwnId]) -> overload.Capacity:
    """Warms up, measures what the servers can do, and says it."""
    overload.capacity(stand, users, WARM_S)
    can = overload.capacity(stand, users, CAPACITY_S)
    say(f"capacity {can.rate:.0f} full answers/s, p95 {can.p95_ms:.1f} ms, CPU ms per answer {can.cpu_ms}")
    return can


def run(given: argparse.Namespace) -> bool:
    """Starts the servers, measures, prints and writes; says whether the promise was kept.

    Raises:
        BenchError: there is no bundle, or the servers do not serve it.
    """
    local = load_settings()
    bundle = local.bundle.resolve()
    try:
        manifest = json.loads((bundle / "manifest.json").read_text())
    except OSError:
        raise BenchError(f"{bundle}: no bundle to serve; run `make train promote` first") from None
    settings = bench_settings(local.var / "chaos" / "run", bundle)
    budget_ms = float(GatewaySettings().latency_budget_ms)
    measure = {"chaos": run_faults, "overload": run_overload}[given.what]
    header = facts(f"make {given.what}", manifest["bundle"])
    with our_servers(settings):
        stand = Stand(settings)
        say("materialising features, building the index, starting the servers")
        stand.serve(given.data or manifest["dataset"])
        users = own_ids(settings, USERS, seed=0)
        result = measure(stand, users, budget_ms, given)
    lines = [header, "", *result.pop("lines")]
    say("\n" + "\n".join(lines) + "\n")
    say(f"wrote {write(local.var / 'chaos', given.what, {'facts': header, **result})}")
    if given.publish:
        publish(given.what, lines)
        say(f"wrote {PAGE}")
    return bool(result["kept"])


def main() -> int:
    """Reads the arguments and runs; 1 where a promise was not kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("chaos", "overload"))
    parser.add_argument("--data", help="the data set that the bundle was trained on (default: by its name)")
    parser.add_argument("--seconds", type=float, help="of each load, at least (default: 30 and 60)")
    parser.add_argument("--only", default="", help="chaos: only the faults whose name has this in it")
    parser.add_argument("--factors", type=float, nargs="+", default=[2.0, 3.0], help="overload: of capacity")
    parser.add_argument("--publish", action="store_true", help="write the tables of docs/operations.md anew")
    given = parser.parse_args()
    given.seconds = given.seconds or {"chaos": 30.0, "overload": 60.0}[given.what]
    try:
        if run(given):
            return 0
        print("a promise was not kept: see the table", file=sys.stderr)
        return 1
    except (BenchError, LoadError, StackError, PortTaken, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
