"""What a run is expected to take."""

from __future__ import annotations

import pytest

from ensemble.run.pace import Pace


class Clock:
    """A time that a test sets."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    """Gives a clock that stands still."""
    return Clock()


@pytest.fixture
def pace(clock: Clock) -> Pace:
    """Gives a pace that saw nothing yet."""
    return Pace(clock)


def test_nothing_is_expected_of_what_never_ran(pace: Pace) -> None:
    assert pace.of(32) == 0


def test_more_rows_take_longer(pace: Pace) -> None:
    pace.note(4, 0.008)
    assert pace.of(4) == pytest.approx(0.008)
    assert pace.of(16) == pytest.approx(0.032)


def test_slower_runs_count_sooner_than_faster_ones(pace: Pace) -> None:
    pace.note(1, 0.010)
    pace.note(1, 0.018)
    slower = pace.of(1)
    assert slower == pytest.approx(0.014)
    pace.note(1, 0.010)
    assert 0.013 < pace.of(1) < slower


def test_a_single_stall_at_most_doubles_the_expectation(pace: Pace) -> None:
    pace.note(1, 0.002)
    pace.note(1, 5.0)
    assert 0.002 < pace.of(1) <= 0.004


def test_steadily_slow_runs_are_expected_to_stay_slow(pace: Pace) -> None:
    for _ in range(20):
        pace.note(8, 0.080)
    assert pace.of(8) == pytest.approx(0.080)


def test_what_does_not_run_is_forgotten_so_that_it_is_tried_again(pace: Pace, clock: Clock) -> None:
    pace.note(1, 1.0)
    clock.now_s = 0.9
    assert pace.of(1) == 1.0
    clock.now_s = 10.0
    assert pace.of(1) < 0.001
