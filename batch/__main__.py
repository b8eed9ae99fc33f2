"""`python -m batch run|status|rollback|schedule|retraining`: slates for everyone, ahead of time."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from redis import Redis
from rich.console import Console

from batch.display import ProgressDisplay
from batch.errors import INTERRUPTED, BatchError, redis_explained
from batch.runs.lock import RunLock
from batch.runs.records import Trigger
from batch.runs.registry import RunRegistry
from batch.runs.status import Status
from batch.settings import BatchSettings, RetrievalMode, load_batch_settings
from contract.bundle import BundleError, read_manifest
from contract.quiet import quieten
from ensemble.settings import EnsembleSettings, load_settings
from ensemble.stores.client import connect

WIDE = 180
"""Columns of a table that goes to a file or a pipe."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; 0, 1 with one line that says what is wrong, or 2 where a setting or an option is."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or (given[0].startswith("-") and given[0] not in ("-h", "--help")):
        given.insert(0, "run")
    chain, batch = load_settings(), load_batch_settings()
    parser = _parser()
    chosen = parser.parse_args(given)
    if getattr(chosen, "only", False) and not (chosen.users or chosen.active_since or chosen.changed):
        parser.error("--only needs --users, --active-since or --changed: everyone is nobody left out")
    if getattr(chosen, "count", 1) < 1:
        parser.error("--count must be at least 1")
    try:
        with redis_explained(chain.redis_url):
            status: int = chosen.command(chosen, chain, batch)
            return status
    except BatchError as error:
        sys.stderr.write(f"{error}\n")
        return 1


def run(chosen: argparse.Namespace, chain: EnsembleSettings, batch: BatchSettings) -> int:
    """Computes and publishes a run, or goes on with one."""
    quieten()
    from batch.compute.job import BatchJob  # Arrow takes a second, which no other command needs
    from batch.compute.users import Selection
    from batch.runs.plan import write

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    names = ("n", "workers", "address", "retrieval")
    batch = with_options({name: value for name in names if (value := getattr(chosen, name)) is not None})
    selection = Selection(chosen.users or "", chosen.active_since, chosen.changed, chosen.only)
    try:
        with ProgressDisplay() as display:
            job = BatchJob(chain, batch, display.say, display.progress)
            record = job.run(selection, chosen.trigger, chosen.again)
    except (KeyboardInterrupt, SystemExit):  # Ray turns SIGTERM into the latter
        raise BatchError(INTERRUPTED) from None
    if chosen.report:
        write(chosen.report, record.encode())
    return 0


def status(chosen: argparse.Namespace, chain: EnsembleSettings, batch: BatchSettings) -> int:
    """Shows the last runs."""
    redis, dataset = opened(chosen, chain, batch)
    found = Status.read(redis, dataset, chosen.count)
    if chosen.json:
        sys.stdout.write(json.dumps(found.as_json()) + "\n")
        return 0
    console = Console(width=None if sys.stdout.isatty() else WIDE)
    if found.lines:
        console.print(found.table())
    else:
        console.print(f"{dataset}: no batch run yet; `make batch` begins one", markup=False)
    return 0


def rollback(chosen: argparse.Namespace, chain: EnsembleSettings, batch: BatchSettings) -> int:
    """Lets be read what was before the last switch."""
    redis, dataset = opened(chosen, chain, batch)
    registry = RunRegistry(redis, dataset)
    with RunLock(redis, dataset, batch.lock_s) as lock:
        published = registry.rollback(lock)
    record = registry.get(published.lineage[0])
    bundle = f" of bundle {record.bundle}" if record else ""
    sys.stdout.write(
        f"{dataset}: run {published.lineage[0]}{bundle} is read now, no longer {published.former[0]}; "
        f"the same command again undoes it\n"
    )
    return 0


def schedule(_: argparse.Namespace, chain: EnsembleSettings, batch: BatchSettings) -> int:
    """Runs what is due, by the clock and by events, until SIGTERM or SIGINT."""
    from batch.schedule.schedule import Schedule

    asyncio.run(Schedule(chain, batch).keep())
    return 0


def retraining(chosen: argparse.Namespace, chain: EnsembleSettings, batch: BatchSettings) -> int:
    """Begins trainings that are due, by the clock, by drift or by events, until SIGTERM or SIGINT."""
    from batch.schedule.retraining import Retraining
    from batch.schedule.schedule import say

    redis, dataset = opened(chosen, chain, batch)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    Retraining(redis, chain.redis_url, dataset, chain.var_dir, batch, say).keep(stop)
    return 0


def with_options(options: dict[str, Any]) -> BatchSettings:
    """Reads the settings, some of them set on the command line; a wrong one ends with status 2."""
    try:
        return BatchSettings(**options)
    except ValidationError as error:
        wrong = error.errors()[0]
        sys.stderr.write(f"--{wrong['loc'][0]} {wrong['input']}: {wrong['msg']}\n")
        raise SystemExit(2) from None


def opened(chosen: argparse.Namespace, chain: EnsembleSettings, batch: BatchSettings) -> tuple[Redis, str]:
    """Connects, and finds out which data set is meant: that of the current bundle, or the one named.

    Raises:
        BatchError: there is no bundle, and none is named.
    """
    try:
        dataset = chosen.dataset or read_manifest(chain.bundle, verify=False).dataset
    except BundleError as error:
        raise BatchError(f"{error}; or name the data set by --dataset") from None
    return connect(chain.redis_url, batch.redis_timeout_ms), dataset


def instant(text: str) -> datetime:
    """Reads a date or a time, UTC where it does not say; used by argparse."""
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: write it as 2026-11-21 or 2026-11-21T08:00") from None
    return read if read.tzinfo else read.replace(tzinfo=UTC)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m batch", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="run|status|rollback|schedule|retraining")

    def command(does: Any, help_: str) -> argparse.ArgumentParser:
        added = commands.add_parser(does.__name__, help=help_, description=does.__doc__)
        added.set_defaults(command=does)
        return added

    added = command(run, "compute and publish slates, for everyone or for some (the default command)")
    users = added.add_mutually_exclusive_group()
    users.add_argument("--users", metavar="URL", help="Parquet file or folder with a column user_id")
    users.add_argument("--active-since", type=instant, metavar="DATE", help="users who did something since")
    users.add_argument("--changed", action="store_true", help="users who changed since they were computed")
    added.add_argument("--only", action="store_true", help="publish these users alone: all others have none")
    added.add_argument("--retrieval", choices=[str(mode) for mode in RetrievalMode], help="what finds items")
    added.add_argument("--n", type=int, help="items stored per user")
    added.add_argument("--workers", type=int, help="processes that run the chain; 0: one per core")
    added.add_argument("--address", metavar="HOST:PORT", help="a Ray cluster (default: this machine)")
    added.add_argument("--again", action="store_true", help="begin anew, even where a run may be resumed")
    added.add_argument("--report", type=Path, metavar="FILE", help="write the run's record there, as JSON")
    added.add_argument(
        "--trigger", type=Trigger, choices=list(Trigger), default=Trigger.HAND, help=argparse.SUPPRESS
    )
    added = command(status, "show the last runs")
    added.add_argument("--json", action="store_true", help="for programs")
    added.add_argument("--count", type=int, default=10, help="runs shown (default: 10)")
    added.add_argument("--dataset", help="default: that of the current bundle")
    added = command(rollback, "let be read what was before the last switch")
    added.add_argument("--dataset", help="default: that of the current bundle")
    added = command(retraining, "begin trainings that are due, by the clock, by drift, by events")
    added.add_argument("--dataset", help="default: that of the current bundle")
    command(schedule, "run what is due, by the clock and by events, until SIGTERM or SIGINT")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
