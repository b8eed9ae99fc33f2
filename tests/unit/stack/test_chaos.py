"""What `make chaos` and `make overload` make of an answer, and when they call a service well again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench.chaos.judge import Judged, Made, in_time, judge, percentile, recovered_s, share
from bench.chaos.run import PAGE, publish
from bench.load.traffic import Exchange
from bench.servers import BenchError

ITEMS = [{"item_id": 1, "score": 0.5}]


def exchange(status: int = 200, retry_after: str = "", **answer: object) -> Exchange:
    body = json.dumps({"source": "ensemble", "degraded": [], "items": ITEMS} | answer).encode()
    return Exchange(7, 1.0, 1.001, 1.02, status, body, retry_after)


@pytest.mark.parametrize(
    ("one", "made"),
    [
        (exchange(), Made.FULL),
        (exchange(degraded=["unknown_user", "short"]), Made.FULL),
        (exchange(degraded=["fewer_candidates"]), Made.LESS),
        (exchange(degraded=["score_candidates"]), Made.LESS),
        (exchange(degraded=["partial_index"]), Made.LESS),
        (exchange(source="popular", degraded=["ensemble_late", "seen"]), Made.CHEAP),
        (exchange(source="batch", degraded=["ensemble_busy"]), Made.CHEAP),
        (exchange(source="popular"), Made.WRONG),
        (exchange(source="popular", degraded=["seen"]), Made.WRONG),
        (exchange(source="popular", degraded=["ensemble_late"], items=[]), Made.WRONG),
        (exchange(source="guess", degraded=["ensemble_late"]), Made.WRONG),
        (exchange(status=503, retry_after="1"), Made.REFUSED),
        (exchange(status=503), Made.WRONG),
        (exchange(status=500), Made.WRONG),
        (replace(exchange(), status=0, body=b"timeout"), Made.WRONG),
        (replace(exchange(), body=b"{"), Made.WRONG),
        (replace(exchange(), body=b"[]"), Made.WRONG),
    ],
)
def test_an_answer_is_what_it_says_or_wrong(one: Exchange, made: Made) -> None:
    assert judge(one).made is made
    assert judge(one).latency_ms == pytest.approx(20.0)


def steady(made: Made, start_s: float, end_s: float, ms: float = 5.0) -> list[Judged]:
    return [Judged(start_s + step / 100, ms, made) for step in range(round((end_s - start_s) * 100))]


def test_an_answer_that_is_wrong_is_never_in_time() -> None:
    judged = [
        Judged(0.0, 89.0, Made.FULL),
        Judged(0.0, 91.0, Made.FULL),
        Judged(0.0, 5.0, Made.WRONG),
        Judged(0.0, 5.0, Made.REFUSED),
    ]
    assert in_time(judged, 80.0) == 0.5
    assert share(judged, Made.FULL) == 0.5
    assert (percentile(judged, 50.0), percentile(judged, 100.0)) == (89.0, 91.0)


def test_recovery_is_counted_to_the_first_full_answer_that_others_follow() -> None:
    outage = [*steady(Made.FULL, 0.0, 5.0), *steady(Made.CHEAP, 5.0, 9.0), *steady(Made.FULL, 9.0, 15.0)]
    assert recovered_s(outage, 5.0, before=1.0) == pytest.approx(4.0, abs=0.1)


def test_a_flicker_is_no_recovery() -> None:
    outage = [*steady(Made.CHEAP, 5.0, 9.0), *steady(Made.FULL, 9.0, 9.5), *steady(Made.CHEAP, 9.5, 12.0)]
    assert recovered_s(outage, 5.0, before=1.0) is None
    assert recovered_s([*outage, *steady(Made.FULL, 12.0, 15.0)], 5.0, before=1.0) == pytest.approx(
        7.0, abs=0.1
    )


def test_what_never_ceased_recovered_at_once() -> None:
    assert recovered_s(steady(Made.FULL, 0.0, 10.0), 5.0, before=1.0) == 0.0
    assert recovered_s([], 5.0, before=1.0) is None


def test_the_harm_may_be_felt_late() -> None:
    late = [*steady(Made.FULL, 5.0, 7.0), *steady(Made.CHEAP, 7.0, 8.0), *steady(Made.FULL, 8.0, 12.0)]
    assert recovered_s(late, 5.0, before=1.0) == pytest.approx(3.0, abs=0.1)


def test_the_tables_have_their_place_in_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text())
    for what in ("chaos", "overload"):
        publish(what, [f"| {what} |"], page)
        publish(what, [f"| {what} again |"], page)
    text = page.read_text()
    assert "| chaos again |" in text
    assert "| overload again |" in text
    assert "| chaos |" not in text
    with pytest.raises(BenchError, match="are missing"):
        publish("nothing", [], page)
