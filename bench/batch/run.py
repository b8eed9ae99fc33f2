"""`make bench-batch`: what recommendations for everyone cost, and what serving them costs.

It measures the bundle that `var/bundles/current` points to, and a million users of the growth benchmark's
world, on servers of its own on free ports. Everything lies in `var/bench/batch`, one JSON file per finished
phase: a run that was interrupted goes on where it was, and `--again PHASE` repeats a phase. Timings are
recorded, never asserted; what is wrong ends its phase.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import redis

from bench.batch import phases
from bench.batch.place import Figures
from bench.record import commit, machine, say, write_json
from bench.servers import BenchError
from deploy.local.ports import PortTaken
from deploy.local.settings import load_settings
from deploy.local.stack import StackError

FAULTS = (BenchError, StackError, PortTaken, redis.RedisError, OSError)
NAMES = (*phases.OF_BUNDLE, *phases.AT_SCALE)
T = TypeVar("T")


def measure(
    folder: Path,
    it: T,
    known: Mapping[str, Callable[[T], Figures]],
    facts: Figures,
    again: Sequence[str],
    only: Sequence[str],
) -> list[str]:
    """Runs the phases that are not finished; gives what failed. A phase that fails does not end the others,
    which say themselves what they lack."""
    faults = []
    folder.mkdir(parents=True, exist_ok=True)
    for name, phase in known.items():
        if name not in only:
            continue
        path = folder / f"{name}.json"
        if path.is_file() and name not in again:
            say(f"{name}: kept, {path}")
            continue
        say(f"{name} ...")
        started = time.monotonic()
        result = facts | {
            "machine": machine(),
            "commit": commit(),
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        try:
            result |= phase(it)
        except FAULTS as fault:
            say(f"{name}: {fault}")
            faults.append(f"{name}: {fault}")
            continue
        write_json(path, result)
        say(f"{name}: {time.monotonic() - started:.0f} s")
    return faults


def bench(chosen: argparse.Namespace) -> list[str]:
    """Measures what is asked for; gives what failed.

    Raises:
        BenchError: there is no bundle, or it is of another data set.
    """
    local = load_settings()
    plan = phases.QUICK if chosen.quick else phases.Plan()
    if chosen.users_at_scale:
        plan = replace(plan, users_at_scale=chosen.users_at_scale)
    folder = (chosen.folder or local.var / "bench" / ("batch-quick" if chosen.quick else "batch")).resolve()
    only, faults = chosen.only or NAMES, []
    command = f"make bench-batch{' QUICK=1' if chosen.quick else ''}"
    command += f" USERS={chosen.users_at_scale}" if chosen.users_at_scale else ""
    if set(only) & set(phases.OF_BUNDLE):
        measured = phases.Measured.of(local, folder, plan)
        manifest = measured.place.manifest
        if "/" not in chosen.data and chosen.data not in ("", manifest["dataset"]):
            raise BenchError(
                f"the bundle {manifest['bundle']} is of {manifest['dataset']}, not of {chosen.data}; run "
                f"`make train promote DATA={chosen.data}` first"
            )
        facts = {"bundle": manifest["bundle"], "dataset": manifest["dataset"], "command": command}
        place = measured.place.folder
        faults += measure(place, measured, phases.OF_BUNDLE, facts, chosen.again, only)
    if set(only) & set(phases.AT_SCALE):
        grown = phases.Grown.of(folder, plan.users_at_scale)
        facts = {"bundle": grown.stand.bundle, "dataset": "scale", "command": command}
        faults += measure(grown.stand.folder, grown, phases.AT_SCALE, facts, chosen.again, only)
    if chosen.publish:
        from bench.batch.report import publish

        say(f"wrote {publish(folder)}")
    return faults


def main() -> int:
    """Reads the arguments and runs; 1 where something could not be measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="", help="the data set that the bundle was trained on, to be sure")
    parser.add_argument("--quick", action="store_true", help="small sizes, to try it; figures of its own")
    parser.add_argument("--users-at-scale", type=int, help="users of the large world (default: 1000000)")
    parser.add_argument("--folder", type=Path, help="default: var/bench/batch")
    parser.add_argument("--again", choices=NAMES, nargs="*", default=[], help="phases that are done anew")
    parser.add_argument("--only", choices=NAMES, nargs="*", help="phases that are looked at at all")
    parser.add_argument("--publish", action="store_true", help="write docs/batch-performance.md anew")
    try:
        return 1 if bench(parser.parse_args()) else 0
    except (*FAULTS, ValueError) as error:
        print(f"bench    {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
