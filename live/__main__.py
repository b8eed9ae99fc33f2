"""`python -m live consume|watch|report`: gives what the gateway accepted its effect; says what came of it."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # idle threads spin, beside those who answer

from redis.exceptions import RedisError

from contract.bundle import BundleError, read_dataset, read_manifest
from contract.bundles import bundles_folder
from contract.dataset import Dataset, DatasetError
from contract.drift import Reference
from contract.environment import explain_redis
from contract.errors import StageError
from contract.keys import watched_key
from contract.live_files import live_folder
from contract.quiet import quieten
from contract.watched import Watched
from ensemble.settings import EnsembleSettings, load_settings
from ensemble.stores.client import connect
from live.catalogue import CatalogueHandler
from live.consumer import Consumer
from live.events import EventHandler
from live.handler import Handler
from live.settings import LiveSettings, load_live_settings
from live.shown import ShownHandler

LOOK_S = 2.0
"""Seconds between two looks at the current bundle."""


def say(line: str) -> None:
    """Writes a line with its time."""
    sys.stdout.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {line}\n")
    sys.stdout.flush()


def consume(_: argparse.Namespace, chain: EnsembleSettings, live: LiveSettings) -> int:
    """Works on the streams of the current bundle's data set until SIGTERM or SIGINT."""
    read_manifest(chain.bundle, verify=False)
    dataset = read_dataset(chain.bundle)
    redis = connect(chain.redis_url, live.redis_timeout_ms)
    catalogue = CatalogueHandler(dataset, chain.var_dir, chain.provider, chain.redis_url)
    handlers: list[Handler] = [
        EventHandler(dataset, chain.var_dir),
        ShownHandler(dataset, chain.var_dir),
        catalogue,
    ]
    stop = _until_told()
    threading.Thread(target=_end_with, args=(dataset, chain.bundle, stop), daemon=True).start()
    say(f"{dataset.name}: at work, Redis at {chain.redis_url.address}")
    with suppress(RedisError):  # one that is away lost nothing
        if restored := catalogue.restore(redis):
            say(f"{restored} items that were put live are in Redis again")
    Consumer(redis, dataset.name, handlers, live, say).keep(stop)
    say("ended")
    return 0


def watch(_: argparse.Namespace, chain: EnsembleSettings, live: LiveSettings) -> int:
    """Watches ages and drift of what is served, until SIGTERM or SIGINT."""
    from live.watch import ServedWatch

    read_manifest(chain.bundle, verify=False)
    dataset = read_dataset(chain.bundle)
    redis = connect(chain.redis_url, live.redis_timeout_ms)
    stop = _until_told()
    threading.Thread(target=_end_with, args=(dataset, chain.bundle, stop), daemon=True).start()
    ServedWatch(redis, chain, live, dataset.name, say).keep(stop)
    return 0


def _end_with(dataset: Dataset, bundle: Path, stop: threading.Event) -> None:
    """Ends the process where the bundle that is current declares the data set otherwise: whoever runs the
    process starts it anew. A bundle of another data set is none of this one's: what is served goes on."""
    current = dataset
    while not stop.wait(LOOK_S):
        former = current
        try:
            current = read_dataset(bundle)
        except DatasetError:
            continue  # a link is being moved
        if current.name != dataset.name:
            if current.name != former.name:
                say(f"{bundle} is of {current.name} now; {dataset.name} goes on until all are started anew")
        elif current != dataset:
            say(f"the bundle in {bundle} declares its data set otherwise; to be started anew")
            stop.set()


def report(chosen: argparse.Namespace, chain: EnsembleSettings, live: LiveSettings) -> int:
    """Prints what came of what was shown, and writes the page."""
    read_manifest(chain.bundle, verify=False)
    quieten()
    from live.replay import Replay
    from live.report import clicks_of, estimate_other, join, lines_of
    from live.report_page import click_sections, freshness_sections, write_page
    from live.watch import reference_of

    dataset = read_dataset(chain.bundle)
    answers = join(dataset, chain.var_dir)
    clicks = clicks_of(dataset, answers)
    for name in chosen.bundle if answers else ():
        folder = bundles_folder(chain.var_dir) / name
        if read_manifest(folder, verify=False).dataset != dataset.name:
            raise BundleError(f"{folder}: is not of {dataset.name}, whose answers these are")
        estimate_other(clicks, name, Replay.open(folder, chain, live.redis_timeout_ms), answers)
    for line in lines_of(clicks):
        sys.stdout.write(f"{line}\n")
    page = chosen.write or live_folder(chain.var_dir, dataset.name) / "report.html"
    value: Any = connect(chain.redis_url, live.redis_timeout_ms).get(watched_key(dataset.name))
    found = Watched.found(value)
    reference = reference_of(chain.bundle.resolve().with_name(found.bundle)) if found else Reference()
    for line in found.lines() if found else ():
        sys.stdout.write(f"  {line}\n")
    sections = [*click_sections(clicks), *freshness_sections(found, reference)]
    write_page(page, f"{dataset.name}: what came of what was shown", sections)
    sys.stdout.write(f"{page}: written\n")
    return 0


def _until_told() -> threading.Event:
    """Gives what SIGTERM and SIGINT set."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; 0, or 1 with one line that says what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m live", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="consume|watch|report")
    added = commands.add_parser("consume", help="give what the gateway accepted its effect")
    added.set_defaults(run=consume)
    added = commands.add_parser("watch", help="watch how old what is served is, and whether it drifts")
    added.set_defaults(run=watch)
    added = commands.add_parser("report", help="say what came of what was shown, and write a page")
    added.add_argument(
        "--bundle", action="append", default=[], help="estimate it by the log, though it did not serve"
    )
    added.add_argument("--write", type=Path, help="the page (default: report.html beside the archive)")
    added.set_defaults(run=report)
    chosen = parser.parse_args(arguments)
    chain = load_settings()
    try:
        status: int = chosen.run(chosen, chain, load_live_settings())
    except (BundleError, DatasetError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except RedisError as error:
        sys.stderr.write(f"Redis at {chain.redis_url.address}: {explain_redis(error)}\n")
        return 1
    except StageError as error:
        sys.stderr.write(f"{error.message}; Redis is at {chain.redis_url.address}\n")
        return 1
    return status


if __name__ == "__main__":
    raise SystemExit(main())
