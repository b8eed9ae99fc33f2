"""A circuit: open after repeated failures, one try at a time, closed by an answer."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from contract.errors import ErrorCode, StageError
from service.failures import DependencyUnavailable
from service.limits.circuits import ALL_LATE_S, FAILURES, TOGETHER_S, Circuit, CircuitOpen

DOWN = DependencyUnavailable("redis", "connection refused")
LATE = DependencyUnavailable("redis", "no answer in time", is_late=True)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time of the circuit and of the library that counts for it."""
    clock = Clock()
    monkeypatch.setattr("circuitbreaker.monotonic", clock)
    return clock


def clock_of(circuit: Circuit) -> Clock:
    assert isinstance(circuit._clock, Clock)
    return circuit._clock


def call(circuit: Circuit, error: BaseException | None = None) -> None:
    with circuit.guard():
        if error is not None:
            raise error


def fail(circuit: Circuit, error: Exception = DOWN, times: int = FAILURES) -> None:
    for _ in range(times):
        clock_of(circuit).now += 2 * TOGETHER_S
        with pytest.raises(type(error)):
            call(circuit, error)


def test_repeated_failures_open_it_and_then_nobody_is_asked(clock: Clock) -> None:
    circuit = Circuit("redis", clock)
    fail(circuit, times=FAILURES - 1)
    assert circuit.state == "closed"
    fail(circuit, times=1)
    assert circuit.state == "open"
    asked = []
    with pytest.raises(CircuitOpen), circuit.guard():
        asked.append(1)
    assert asked == []


def test_requests_that_fail_with_the_call_they_share_are_one_failure(clock: Clock) -> None:
    circuit = Circuit("triton", clock)
    for _ in range(10 * FAILURES):
        with pytest.raises(DependencyUnavailable):
            call(circuit, DOWN)
    assert circuit.state == "closed"


def test_an_answer_in_between_starts_the_count_anew(clock: Clock) -> None:
    circuit = Circuit("redis", clock)
    for _ in range(5):
        fail(circuit, times=FAILURES - 1)
        call(circuit)
    assert circuit.state == "closed"


def test_after_a_while_one_call_tries_and_its_answer_closes_it(clock: Clock) -> None:
    circuit = Circuit("redis", clock)
    fail(circuit)
    clock.now += 1
    assert circuit.state == "half_open"
    with circuit.guard(), pytest.raises(CircuitOpen):
        call(circuit)  # only one at a time
    assert circuit.state == "closed"
    call(circuit)


def test_a_try_that_fails_opens_it_again_at_once(clock: Clock) -> None:
    for error in (DOWN, LATE):
        circuit = Circuit("redis", clock)
        fail(circuit)
        clock.now += 1
        fail(circuit, error, times=1)
        assert circuit.state == "open"
        with pytest.raises(CircuitOpen):
            call(circuit)
        clock.now += 1
        call(circuit)
        assert circuit.state == "closed"


def test_late_answers_open_it_only_where_all_are_late(clock: Clock) -> None:
    circuit = Circuit("triton", clock)
    for _ in range(20):  # busy: every other answer comes in time
        fail(circuit, LATE, times=FAILURES)
        clock.now += ALL_LATE_S / 2
        call(circuit)
    assert circuit.state == "closed"
    clock.now += ALL_LATE_S
    fail(circuit, LATE, times=FAILURES)
    assert circuit.state == "open"


def test_that_an_impatient_caller_was_not_answered_in_time_tells_nothing(clock: Clock) -> None:
    circuit = Circuit("redis", clock)
    for _ in range(10 * FAILURES):
        clock.now += ALL_LATE_S
        with pytest.raises(DependencyUnavailable), circuit.guard(is_patient=False):
            raise LATE
    assert circuit.state == "closed"
    for _ in range(FAILURES):
        clock.now += ALL_LATE_S
        with pytest.raises(DependencyUnavailable), circuit.guard(is_patient=False):
            raise DOWN
    assert circuit.state == "open", "what is down is down for everyone"


def test_the_try_of_an_impatient_caller_keeps_no_patient_one_from_trying(clock: Clock) -> None:
    circuit = Circuit("triton", clock)
    fail(circuit)
    clock.now += 1
    with suppress(DependencyUnavailable), circuit.guard(is_patient=False):
        with pytest.raises(CircuitOpen), circuit.guard(is_patient=False):
            pass
        with circuit.guard():
            pass
        raise LATE
    assert circuit.state == "closed"


def test_a_refusal_is_an_answer(clock: Clock) -> None:
    circuit = Circuit("triton", clock)
    fail(circuit, times=FAILURES - 1)
    with pytest.raises(StageError):
        call(circuit, StageError(ErrorCode.BAD_REQUEST, "filter_candidates", "no such column"))
    fail(circuit, times=FAILURES - 1)
    assert circuit.state == "closed"


def test_a_cancelled_try_tells_nothing_and_lets_the_next_one_try(clock: Clock) -> None:
    circuit = Circuit("triton", clock)
    fail(circuit)
    clock.now += 1
    with pytest.raises(asyncio.CancelledError):
        call(circuit, asyncio.CancelledError())
    assert circuit.state == "half_open"
    call(circuit)
    assert circuit.state == "closed"
