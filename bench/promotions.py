"""`python -m bench.promotions BUNDLE`: promotes a bundle and rolls it back, again and again, under load; says
what callers get meanwhile, beside a quiet run. The stack must run; the champion is afterwards what it was."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from bench.chaos.judge import percentile
from bench.load.traffic import Exchange, Run, open_loop
from contract.bundle import BundleError, read_manifest
from contract.ids import OwnId
from contract.routing import RoutingError
from contract.slates import SlateSource
from deploy.local.routing import ensemble_settings
from deploy.local.settings import LocalSettings, load_settings
from ensemble.publish.serve import TIMEOUT_MS, BundleServer
from ensemble.stores.client import connect
from ensemble.triton.repository import LoadError

RATE, QUIET_S, EVERY_S, SWITCHES = 100.0, 10.0, 1.5, 20
ROUNDS, EACH = 4, 6
"""Rounds of the benchmark, and the switches of each: as many promotions as rollbacks."""
LEAST_FULL, MOST_SLOWER, SEEN_WITHIN_S = 0.99, 1.5, 2.0
"""What is promised while the champion changes: the share of full answers, p99 as a multiple of the quiet one,
and seconds from the write of the record until no request gets the former bundle any more."""
USERS_OWN = frozenset({"unknown_user", "short", "unknown_item", "caps", "user_features"})
"""What an answer may lack by the user or the request, and is full nevertheless."""


@dataclass(frozen=True)
class Switch:
    """One change of the champion: when it was written, seconds from the start of the load, and to what."""

    at_s: float
    bundle: str


@dataclass
class Switched:
    """What callers got while the champion changed."""

    bundles: tuple[str, str]
    switches: list[Switch] = field(default_factory=list)
    run: Run = field(default_factory=Run)

    @property
    def failed(self) -> int:
        """Answers that are none."""
        return sum(one.status != 200 for one in self.run.exchanges)

    @property
    def misnamed(self) -> int:
        """Answers that name another bundle than the two."""
        return sum(named not in self.bundles for _, named in self._named())

    @property
    def full_share(self) -> float:
        """Of the answers, how many are full."""
        return full_share(self.run.exchanges)

    @property
    def seen_after_s(self) -> list[float]:
        """Of each switch, seconds from its write until the last request that still got the former bundle."""
        ends = [*(one.at_s for one in self.switches[1:]), self.run.seconds]
        return [
            max(
                (
                    sent_s - switch.at_s
                    for sent_s, named in self._named()
                    if sent_s < end_s and switch.at_s <= sent_s and named != switch.bundle
                ),
                default=0.0,
            )
            for switch, end_s in zip(self.switches, ends, strict=True)
        ]

    def _named(self) -> list[tuple[float, str]]:
        return [
            (one.sent_s, json.loads(one.body)["bundle"]) for one in self.run.exchanges if one.status == 200
        ]


def full_share(exchanges: Sequence[Exchange]) -> float:
    """Of the answers, how many are the ensemble's and lack nothing but what the user lacks."""
    full = 0
    for one in exchanges:
        answer = json.loads(one.body) if one.status == 200 else {"source": "", "degraded": []}
        full += answer["source"] == SlateSource.ENSEMBLE and not {*answer["degraded"]} - USERS_OWN
    return full / max(1, len(exchanges))


def switch_under_load(
    settings: LocalSettings,
    server: BundleServer,
    other: str,
    users: Sequence[OwnId],
    switches: int = SWITCHES,
    every_s: float = EVERY_S,
) -> Switched:
    """Promotes `other` and the champion in turns while `RATE` requests come each second."""
    champion = server.routing().champion
    made = Switched((champion, other))
    duration_s, began = (switches + 2) * every_s, time.perf_counter()

    def change() -> None:
        for place in range(switches):
            time.sleep(max(0.0, began + (place + 1) * every_s - time.perf_counter()))
            bundle = (other, champion)[place % 2]
            routing = server.promote(bundle, "promote" if place % 2 == 0 else "rollback")
            written_s = datetime.fromisoformat(routing.at).timestamp()  # the command waits for the gateways
            made.switches.append(Switch(written_s - time.time() + time.perf_counter(), bundle))

    changing = threading.Thread(target=change)
    changing.start()
    headers = settings.headers
    made.run = asyncio.run(open_loop(settings.port, users, rate=RATE, duration_s=duration_s, headers=headers))
    changing.join()
    made.switches = [Switch(one.at_s - made.run.started_s, one.bundle) for one in made.switches]
    return made


def main() -> int:
    """Measures on the running stack and prints it; 0, or 1 where a promise was broken, or with one line that
    says what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", help="an indexed and exported bundle, another than the champion")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"each quiet, then {EACH} switches")
    chosen, settings = parser.parse_args(), load_settings()
    server = BundleServer(connect(settings.redis, TIMEOUT_MS), ensemble_settings(settings))
    users = read_manifest(settings.bundle, verify=False).sample_user_ids
    champion = server.routing().champion
    try:
        server.promote(chosen.bundle, "loaded before the clock starts")
        server.promote(champion, "rollback")
    except (BundleError, LoadError, RoutingError) as error:
        print(error, file=sys.stderr)
        return 1
    quiet: list[Exchange] = []
    rounds: list[Switched] = []
    for _ in range(chosen.rounds):  # in turns: what else the machine does is the same for both
        load = open_loop(settings.port, users, rate=RATE, duration_s=QUIET_S, headers=settings.headers)
        quiet += asyncio.run(load).exchanges
        rounds.append(switch_under_load(settings, server, chosen.bundle, users, EACH))
    return tell(quiet, rounds)


def tell(quiet: Sequence[Exchange], rounds: Sequence[Switched]) -> int:
    """Prints the figures, then each promise that they break; 0, or 1 where one is broken."""
    exchanges = [one for made in rounds for one in made.run.exchanges]
    failed, misnamed = sum(made.failed for made in rounds), sum(made.misnamed for made in rounds)
    seen_s = max(one for made in rounds for one in made.seen_after_s)
    full, p99 = full_share(exchanges), [percentile(one, 99.0) for one in (quiet, exchanges)]
    slower = p99[1] / p99[0]
    print(f"switches            {sum(len(made.switches) for made in rounds)}, {len(exchanges)} answers")
    print(f"failed, misnamed    {failed}, {misnamed}")
    print(f"full                {full:.2%}, quiet {full_share(quiet):.2%}")
    print(f"p99 ms              {p99[1]:.1f}, quiet {p99[0]:.1f}: {slower:.2f} times")
    print(f"switch seen after s {seen_s:.2f} at most")
    is_broken = {
        "an answer failed, or named a bundle that was not served": failed + misnamed > 0,
        f"less than {LEAST_FULL:.0%} of the answers are full": full < LEAST_FULL,
        f"p99 is more than {MOST_SLOWER:g} times the quiet one": slower > MOST_SLOWER,
        f"a switch was seen later than after {SEEN_WITHIN_S:g} s": seen_s > SEEN_WITHIN_S,
    }
    for what in (what for what, is_so in is_broken.items() if is_so):
        print(f"broken              {what}")
    return int(any(is_broken.values()))


if __name__ == "__main__":
    sys.exit(main())
