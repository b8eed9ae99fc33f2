"""`python -m bench.asides BUNDLE`: what notes of answers, and a shadow asked after them, cost.

The stack must run; a second gateway, which notes nothing, is started beside its own; both are asked in turns.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median

from bench.chaos.judge import percentile
from bench.load.traffic import Exchange, open_loop
from bench.servers import BenchError, wait_until_ready
from contract.bundle import BundleError, read_manifest
from contract.ids import OwnId
from contract.routing import RoutingError
from deploy.local.routing import ensemble_settings
from deploy.local.settings import LOOPBACK, ROOT, LocalSettings, load_settings, python_of
from ensemble.publish.serve import TIMEOUT_MS, BundleServer
from ensemble.stores.client import connect
from ensemble.triton.repository import LoadError
from tests.builders.ports import free_port

RATE, EACH_S, ROUNDS, READY_S = 100.0, 10.0, 8, 60.0
LOG = "gateway_without_notes.log"
BARE, NOTED, SHADOWED = "neither", "noted", "noted, and a shadow"
Rounds = Mapping[str, Sequence[Sequence[Exchange]]]


@contextmanager
def gateway_without_notes(settings: LocalSettings) -> Iterator[int]:
    """Starts a gateway beside the running one, gives its port.

    Raises:
        BenchError: it is not ready in time.
    """
    port = free_port()
    variables = {"SHORTLIST_PORT": str(port), "SHORTLIST_SHOWN_BUFFER": "0"}
    command = [str(python_of("gateway")), "-m", "service.main"]
    environment = os.environ | settings.environment() | variables
    path = settings.var / "log" / LOG
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        path.open("w") as log,
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log) as gateway,
    ):
        try:
            wait_until_ready(gateway, f"http://{LOOPBACK}:{port}/readyz", log.name, READY_S)
            yield port
        finally:
            gateway.terminate()


def measure(
    settings: LocalSettings,
    shadow: Callable[[bool], object],
    bare_port: int,
    users: Sequence[OwnId],
    rounds: int,
) -> Rounds:
    """Asks in turns, so that what else the machine does is the same for all; `shadow` begins or ends it."""
    found: dict[str, list[Sequence[Exchange]]] = {BARE: [], NOTED: [], SHADOWED: []}
    for at in range(rounds):
        for kind in (BARE, NOTED, SHADOWED) if at % 2 == 0 else (SHADOWED, NOTED, BARE):
            shadow(kind == SHADOWED)
            port = bare_port if kind == BARE else settings.port
            load = open_loop(port, users, rate=RATE, duration_s=EACH_S, seed=at, headers=settings.headers)
            found[kind].append(asyncio.run(load).exchanges)
    shadow(False)
    return found


def lines(found: Rounds) -> list[str]:
    """Says of each kind p50 and p99 of all its answers, and the median of the rounds' ratios to neither."""
    listed = []
    for kind, rounds in found.items():
        every = [one for exchanges in rounds for one in exchanges]
        ratios = {
            percent: median(
                percentile(some, percent) / percentile(bare, percent)
                for some, bare in zip(rounds, found[BARE], strict=True)
            )
            for percent in (50.0, 99.0)
        }
        failed = sum(one.status != 200 for one in every)
        listed.append(
            f"{kind:<20} p50 {percentile(every, 50.0):6.1f} ms ({ratios[50.0]:.2f} times), "
            f"p99 {percentile(every, 99.0):6.1f} ms ({ratios[99.0]:.2f} times), {len(every)} answers, "
            f"{failed} failed"
        )
    return listed


def main() -> int:
    """Measures and prints; 0, or 1 with one line that says what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "bundle", help="the shadow: an indexed and exported bundle, another than the champion"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"each three times {EACH_S:.0f} s")
    chosen, settings = parser.parse_args(), load_settings()
    server = BundleServer(connect(settings.redis, TIMEOUT_MS), ensemble_settings(settings))
    users = read_manifest(settings.bundle, verify=False).sample_user_ids

    def shadow(is_asked: bool) -> None:
        server.shadow(chosen.bundle if is_asked else None, "benchmark")

    try:
        with gateway_without_notes(settings) as port:
            shadow(True)  # loaded before the clock starts
            found = measure(settings, shadow, port, users, chosen.rounds)
    except (BenchError, BundleError, LoadError, RoutingError) as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(lines(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
