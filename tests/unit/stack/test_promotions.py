"""What the benchmarks of promotions, of notes and of the shadow count."""

from __future__ import annotations

import json

import pytest

from bench.asides import BARE, NOTED, SHADOWED, lines
from bench.load.traffic import Exchange, Run
from bench.promotions import Switch, Switched, full_share, tell


def exchange(
    sent_s: float,
    bundle: str,
    source: str = "ensemble",
    *degraded: str,
    status: int = 200,
    latency_s: float = 0.01,
) -> Exchange:
    body = json.dumps({"bundle": bundle, "source": source, "degraded": degraded}).encode()
    return Exchange(7, sent_s, sent_s, sent_s + latency_s, status, body)


def test_a_switch_is_seen_once_nobody_gets_the_former_bundle_any_more() -> None:
    seen = [(0.5, "one"), (1.1, "one"), (1.3, "one"), (1.4, "two"), (2.2, "two"), (2.5, "one"), (9.0, "one")]
    run = Run([exchange(*each) for each in seen], seconds=10.0)
    made = Switched(("one", "two"), [Switch(1.0, "two"), Switch(2.0, "one")], run)
    assert [round(seconds, 6) for seconds in made.seen_after_s] == [0.3, 0.2]
    assert (made.failed, made.misnamed) == (0, 0)


def test_what_failed_is_of_another_bundle_or_is_not_full_is_counted() -> None:
    run = Run(
        [
            exchange(0.1, "one"),
            exchange(0.2, "three"),
            exchange(0.3, "", status=503),
            exchange(0.4, "one", "popular", "ensemble_late"),
            exchange(0.5, "one", "ensemble", "fewer_candidates"),
            exchange(0.6, "one", "ensemble", "unknown_user"),
        ],
        seconds=1.0,
    )
    made = Switched(("one", "two"), [], run)
    assert (made.failed, made.misnamed) == (1, 1)
    assert full_share(run.exchanges) == 3 / 6


@pytest.mark.parametrize(
    ("seen_after_s", "latency_s", "status", "source", "broken"),
    [
        (1.9, 0.014, 200, "ensemble", ""),
        (1.9, 0.016, 200, "ensemble", "p99 is more than 1.5 times the quiet one"),
        (2.1, 0.014, 200, "ensemble", "a switch was seen later than after 2 s"),
        (1.9, 0.014, 503, "ensemble", "an answer failed"),
        (1.9, 0.014, 200, "popular", "less than 99% of the answers are full"),
    ],
)
def test_a_promise_that_is_broken_is_told_and_fails(
    seen_after_s: float,
    latency_s: float,
    status: int,
    source: str,
    broken: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = [exchange(1.0 + seen_after_s, "one", latency_s=latency_s)]
    asked.append(exchange(5.0, "two", source, status=status, latency_s=latency_s))
    made = Switched(("one", "two"), [Switch(1.0, "two")], Run(asked, seconds=6.0))
    assert tell([exchange(0.0, "one")], [made]) == bool(broken)
    printed = capsys.readouterr().out
    assert ("\nbroken  " in printed) == bool(broken)
    assert broken in printed


def test_what_notes_and_shadow_cost_is_a_ratio_of_each_round() -> None:
    def asked(latency_s: float, status: int = 200) -> list[Exchange]:
        return [Exchange(7, 0.0, 0.0, latency_s, status, b"{}")]

    bare, noted = [asked(0.01), asked(0.02), asked(0.01)], [asked(0.02), asked(0.02), asked(0.03)]
    listed = lines({BARE: bare, NOTED: noted, SHADOWED: [asked(0.01, 503)] * 3})
    assert "(1.00 times)" in listed[0]
    assert "(2.00 times), 3 answers, 0 failed" in listed[1]
    assert "3 failed" in listed[2]
