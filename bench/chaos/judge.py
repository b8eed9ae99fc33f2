"""Reads what came back, after the clock: who made each answer, whether it says so, and when it was late."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from bench.load.traffic import Exchange
from contract.slates import Degradation, SlateSource

TOLERANCE_MS = 10.0
WINDOW_S, STEP_S = 1.0, 0.1
AS_BEFORE = 0.99
LADDER = {
    str(flag)
    for flag in (
        *(Degradation.FEWER_CANDIDATES, Degradation.SCORE_CANDIDATES, Degradation.LATE),
        Degradation.PARTIAL_INDEX,
    )
}
"""What an answer of the ensemble says when it was made with less than everything: to be in time, or because
Redis, restarted, does not have all items in its index yet."""


class Made(StrEnum):
    """Who made an answer."""

    FULL = "full"  # the ensemble, with every candidate and every stage
    LESS = "less"  # the ensemble, with fewer candidates or items, or without the ranker
    CHEAP = "cheap"  # the gateway, from a list
    REFUSED = "refused"  # 503 with Retry-After
    WRONG = "wrong"  # anything else: another status, no answer, or an answer that does not say what it is


@dataclass(frozen=True)
class Judged:
    """One request, when it was due and how long its answer took; `why` says what it lacks."""

    due_s: float
    latency_ms: float
    made: Made
    why: tuple[str, ...] = ()


def judge(exchange: Exchange) -> Judged:
    """Reads one exchange."""

    def judged(made: Made, *why: str) -> Judged:
        return Judged(exchange.due_s, exchange.latency_ms, made, why)

    if exchange.status == 503 and exchange.retry_after:
        return judged(Made.REFUSED)
    if exchange.status != 200:
        said = exchange.body[:120].decode(errors="replace")
        return judged(Made.WRONG, f"{exchange.status or 'no answer'}: {said}")
    try:
        answer = json.loads(exchange.body)
        source, degraded, items = answer["source"], answer["degraded"], answer["items"]
    except (ValueError, KeyError, TypeError):
        return judged(Made.WRONG, "the body is no answer")
    if source == SlateSource.ENSEMBLE:
        return judged(Made.LESS if LADDER & set(degraded) else Made.FULL, *degraded)
    if source not in set(SlateSource) or not any(reason.startswith("ensemble_") for reason in degraded):
        return judged(Made.WRONG, f"source {source} without a reason")
    return judged(Made.CHEAP if items else Made.WRONG, *degraded)


def share(judged: Sequence[Judged], *made: Made) -> float:
    """The share of the answers that were made so; 0 where there is none."""
    return sum(one.made in made for one in judged) / len(judged) if judged else 0.0


def in_time(judged: Sequence[Judged], budget_ms: float) -> float:
    """The share of the requests answered within the budget and the tolerance; refusals are answers."""
    good = (one for one in judged if one.made is not Made.WRONG)
    return sum(one.latency_ms <= budget_ms + TOLERANCE_MS for one in good) / len(judged) if judged else 0.0


def percentile(answers: Sequence[Judged] | Sequence[Exchange], percent: float) -> float:
    """The latency in ms below which that many percent of the answers stay; 100 is the maximum."""
    ordered = sorted(one.latency_ms for one in answers)
    return ordered[min(int(len(ordered) * percent / 100.0), len(ordered) - 1)] if ordered else 0.0


def reasons(judged: Sequence[Judged]) -> dict[str, int]:
    """What answers lacked, and how often, most frequent first."""
    return dict(Counter(reason for one in judged for reason in one.why).most_common())


def recovered_s(
    judged: Sequence[Judged], since_s: float, before: float, window_s: float = WINDOW_S
) -> float | None:
    """Seconds from `since_s` until the ensemble answers as before.

    0 where it never ceased, None where it does not within the run. As before: in a window, the share of its
    full answers is `before`, or 0.99 where that is more. It is back with the first full answer of the first
    such window after the first that is none.
    """
    later = sorted((one for one in judged if one.due_s >= since_s), key=lambda one: one.due_s)
    due, wanted, was_bad = [one.due_s for one in later], min(before, AS_BEFORE), False
    at = since_s
    while later and at + window_s <= due[-1]:
        window = later[bisect_left(due, at) : bisect_left(due, at + window_s)]
        at += STEP_S
        if not window:
            continue
        is_good = share(window, Made.FULL) >= wanted
        if was_bad and is_good and window[0].made is Made.FULL:
            return window[0].due_s - since_s
        was_bad |= not is_good
    return None if was_bad or not later else 0.0
