"""`python -m live consume`: gives what the gateway accepted its effect, until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Sequence
from datetime import UTC, datetime

from contract.bundle import BundleError, read_dataset, read_manifest
from contract.dataset import DatasetError
from ensemble.settings import EnsembleSettings, load_settings
from ensemble.stores.client import connect
from live.consumer import Consumer
from live.events import EventHandler
from live.settings import LiveSettings, load_live_settings


def say(line: str) -> None:
    """Writes a line with its time."""
    sys.stdout.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {line}\n")
    sys.stdout.flush()


def consume(chain: EnsembleSettings, live: LiveSettings) -> int:
    """Works on the streams of the current bundle's data set; 1 with one line where there is no bundle."""
    try:
        read_manifest(chain.bundle, verify=False)
        dataset = read_dataset(chain.bundle)
    except (BundleError, DatasetError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    redis = connect(chain.redis_url, live.redis_timeout_ms)
    handlers = [EventHandler(dataset, chain.var_dir)]
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    say(f"{dataset.name}: at work, Redis at {chain.redis_url.address}")
    Consumer(redis, dataset.name, handlers, live, say).keep(stop)
    say("ended")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command."""
    parser = argparse.ArgumentParser(prog="python -m live", description=__doc__)
    parser.add_argument("command", choices=("consume",))
    parser.parse_args(arguments)
    return consume(load_settings(), load_live_settings())


if __name__ == "__main__":
    raise SystemExit(main())
