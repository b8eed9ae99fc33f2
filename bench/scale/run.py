"""`make bench-scale`: what serving costs as the catalogue grows.

Every size has a folder of its own in `var/bench/scale`, with its bundle, its Redis and one JSON file per
finished phase: a run that was interrupted goes on where it was, and `--again PHASE` repeats a phase.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import redis

from bench.record import commit, machine, write_json
from bench.scale.phases import PHASES
from bench.scale.stand import ScaleError, Stand
from bench.servers import BenchError
from deploy.local.ports import PortTaken
from deploy.local.settings import load_settings
from deploy.local.stack import StackError

SIZES = (10_000, 100_000, 1_000_000)
MEASURING = ("serve", "restart")


def say(line: str) -> None:
    """Prints one line of progress at once."""
    print(f"scale    {line}", flush=True)


def measure(stand: Stand, again: Sequence[str], only: Sequence[str]) -> None:
    """Runs the phases that a size still lacks.

    Raises:
        ScaleError, StackError, BenchError: one failed; what is finished stays.
    """
    stand.folder.mkdir(parents=True, exist_ok=True)
    for name, phase in PHASES.items():
        if name not in only:
            continue
        path = stand.folder / f"{name}.json"
        if path.is_file() and name not in again:
            say(f"{stand.items:,} items: {name}: kept, {path}")
            continue
        say(f"{stand.items:,} items: {name} ...")
        started = time.monotonic()
        figures = {
            "items": stand.items,
            "users": stand.users,
            "machine": machine(),
            "commit": commit(),
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        } | phase(stand)
        write_json(path, figures)
        say(f"{stand.items:,} items: {name}: {time.monotonic() - started:.0f} s")


def sizes(value: str) -> list[int]:
    """Reads numbers of items: `10000,100000`."""
    try:
        found = [int(part.replace("_", "")) for part in value.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{value}: write numbers of items, such as 10000,100000") from None
    if min(found) < 1000:
        raise argparse.ArgumentTypeError(f"{value}: a size is at least 1000 items")
    return sorted(found)


def main() -> int:
    """Reads the arguments and runs; 1 where a size could not be measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=sizes, default=list(SIZES), help="items, by commas")
    parser.add_argument("--users", type=int, help="users at every size (default: as many as items)")
    parser.add_argument("--folder", type=Path, help="default: var/bench/scale")
    parser.add_argument(
        "--again", choices=(*PHASES, "measuring"), nargs="*", default=[], help="phases that are done anew"
    )
    parser.add_argument("--only", choices=tuple(PHASES), nargs="*", help="phases that are looked at at all")
    parser.add_argument("--publish", action="store_true", help="write docs/growth.md anew")
    chosen = parser.parse_args()
    again = {*chosen.again, *(MEASURING if "measuring" in chosen.again else ())}
    folder = (chosen.folder or load_settings().var / "bench" / "scale").resolve()
    failed = False
    for items in chosen.sizes:
        try:
            measure(
                Stand.of(items, chosen.users or items, folder / str(items)),
                sorted(again),
                chosen.only or list(PHASES),
            )
        except (ScaleError, BenchError, StackError, PortTaken, redis.RedisError) as error:
            print(f"scale    {items:,} items: {error}", file=sys.stderr)
            failed = True
    if chosen.publish:
        from bench.scale.report import publish

        for path in publish(folder):
            say(f"wrote {path}")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
