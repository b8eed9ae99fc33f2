"""Invariants of what decides how much the ensemble is asked for, whatever it answers and when."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from contract.tensors import FULL_QUALITY
from service.limits.adaptive import STEPS, AdaptiveLimit, AdaptiveQuality

latencies = st.lists(
    st.tuples(st.floats(0, 1), st.floats(0, 10), st.booleans()), max_size=300
)  # seconds since the last one, seconds that it took, whether fewer in flight are not tried any more


@given(latencies, st.integers(1, 40), st.integers(1, 40))
def test_the_limit_stays_within_its_bounds_and_moves_a_little_at_a_time(
    answers: list[tuple[float, float, bool]], least: int, most: int
) -> None:
    now = 0.0
    limit = AdaptiveLimit(0.05, least, most, lambda: now)
    for gap_s, latency_s, is_asked in answers:
        now += gap_s
        before = limit.value
        if is_asked and limit.try_enter():
            assert limit.in_flight <= before
            limit.leave()
        limit.took(latency_s)
        assert min(least, most) <= limit.value <= max(most, least)
        assert before * 0.9 - 1 <= limit.value <= before + 1
    assert limit.in_flight == 0


@given(latencies)
def test_the_quality_moves_one_step_at_a_time(answers: list[tuple[float, float, bool]]) -> None:
    now = 0.0
    quality = AdaptiveQuality(0.07, lambda: now)
    for gap_s, latency_s, is_last_resort in answers:
        now += gap_s
        before = STEPS.index(quality.value)
        quality.took(latency_s, is_last_resort)
        assert abs(STEPS.index(quality.value) - before) <= 1


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.034)), max_size=300))
def test_quick_answers_never_cost_quality_or_places(answers: list[tuple[float, float]]) -> None:
    now = 0.0
    limit, quality = AdaptiveLimit(0.05, 4, 64, lambda: now), AdaptiveQuality(0.07, lambda: now)
    before = limit.value
    for gap_s, latency_s in answers:
        now += gap_s
        limit.took(latency_s)
        quality.took(latency_s, limit.is_lowest)
    assert limit.value >= before
    assert quality.value == FULL_QUALITY
