"""The adaptive limit and the adaptive quality, against simulated servers with a clock of their own."""

from __future__ import annotations

import heapq

import pytest

from service.limits.adaptive import STEPS, AdaptiveLimit, AdaptiveQuality

TARGET_S = 0.05
LEAST, MOST = 4, 64


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Server:
    """Answers one after the other, `service_s` each, whatever waits: a queue as every server has one."""

    def __init__(self, clock: Clock, service_s: float) -> None:
        self.clock, self.service_s, self.free_s = clock, service_s, 0.0
        self.under_way: list[tuple[float, float]] = []  # end, start

    def begin(self) -> None:
        self.free_s = max(self.free_s, self.clock.now) + self.service_s
        heapq.heappush(self.under_way, (self.free_s, self.clock.now))

    def ended(self) -> list[float]:
        """Latencies of what has ended by now."""
        done = []
        while self.under_way and self.under_way[0][0] <= self.clock.now:
            end, start = heapq.heappop(self.under_way)
            done.append(end - start)
        return done


def offer(
    limit: AdaptiveLimit, server: Server, clock: Clock, rate: float, seconds: float
) -> tuple[int, list[float]]:
    """Sends `rate` requests a second; gives how many were turned away, and the latencies of the others."""
    turned_away, latencies, until = 0, [], clock.now + seconds
    while clock.now < until:
        clock.now += 1 / rate
        for latency_s in server.ended():
            limit.leave()
            limit.took(latency_s)
            latencies.append(latency_s)
        if limit.try_enter():
            server.begin()
        else:
            turned_away += 1
    return turned_away, latencies


def test_below_capacity_nobody_is_turned_away() -> None:
    clock = Clock()
    limit, server = AdaptiveLimit(TARGET_S, LEAST, MOST, clock), Server(clock, service_s=0.0025)
    turned_away, _ = offer(limit, server, clock, rate=200, seconds=10)
    assert turned_away == 0


@pytest.mark.parametrize("capacity", [100, 400, 1200])
@pytest.mark.parametrize("times", [2, 3, 10])
def test_under_overload_the_server_stays_busy_and_its_answers_stay_in_time(capacity: int, times: int) -> None:
    clock = Clock()
    limit, server = AdaptiveLimit(TARGET_S, LEAST, MOST, clock), Server(clock, 1 / capacity)
    offer(limit, server, clock, rate=times * capacity, seconds=5)  # time to find the limit
    turned_away, latencies = offer(limit, server, clock, rate=times * capacity, seconds=20)
    assert len(latencies) >= 0.95 * capacity * 20
    assert sorted(latencies)[int(0.95 * len(latencies))] <= TARGET_S * 1.2
    assert turned_away > 0
    assert limit.in_flight == len(server.under_way)


def test_a_server_that_becomes_slow_is_asked_for_less_and_for_more_when_it_is_quick_again() -> None:
    clock = Clock()
    limit, server = AdaptiveLimit(TARGET_S, LEAST, MOST, clock), Server(clock, 1 / 400)
    offer(limit, server, clock, rate=800, seconds=5)
    before = limit.value
    server.service_s = 1 / 100
    offer(limit, server, clock, rate=800, seconds=5)
    assert limit.value < before / 2
    server.service_s = 1 / 400
    offer(limit, server, clock, rate=800, seconds=2)
    assert limit.value > 0.8 * before


def test_the_limit_keeps_its_bounds_and_is_not_raised_for_nothing() -> None:
    clock = Clock()
    limit = AdaptiveLimit(TARGET_S, LEAST, MOST, clock)
    before = limit.value
    for _ in range(5000):
        clock.now += 0.01
        limit.took(0.001)  # quick, but never at the limit
    assert limit.value == before
    for _ in range(5000):
        clock.now += 0.01
        limit.took(1.0)
    assert limit.value == LEAST
    assert limit.is_lowest
    for _ in range(20_000):
        clock.now += 0.01
        while limit.try_enter():
            pass
        limit.took(0.001)
    assert limit.value == MOST == limit.in_flight


def test_one_slow_answer_among_many_does_not_lower_the_limit() -> None:
    clock = Clock()
    limit = AdaptiveLimit(TARGET_S, LEAST, MOST, clock)
    before = limit.value
    for number in range(10_000):
        clock.now += 0.002
        limit.took(1.0 if number % 50 == 0 else 0.01)
    assert limit.value >= before


def feed(
    quality: AdaptiveQuality, clock: Clock, latency_s: float, seconds: float, is_last_resort: bool = True
) -> None:
    until = clock.now + seconds
    while clock.now < until:
        clock.now += 0.01
        quality.took(latency_s, is_last_resort)


def test_quality_goes_down_in_steps_as_answers_near_the_budget_and_up_again() -> None:
    clock = Clock()
    quality = AdaptiveQuality(0.07, clock)
    assert quality.value == 1.0
    seen = []
    for _ in range(8):
        feed(quality, clock, 0.065, 0.6)
        seen.append(quality.value)
    assert seen == sorted(seen, reverse=True)
    assert set(seen) <= set(STEPS)
    assert seen[-1] == 0.0
    feed(quality, clock, 0.01, 1.2)
    assert 0 < quality.value < 1
    feed(quality, clock, 0.01, 10)
    assert quality.value == 1.0


def test_quality_is_left_alone_between_the_two_thresholds_and_while_fewer_in_flight_would_help() -> None:
    clock = Clock()
    quality = AdaptiveQuality(0.07, clock)
    feed(quality, clock, 0.069, 10, is_last_resort=False)
    assert quality.value == 1.0
    feed(quality, clock, 0.069, 0.6)
    feed(quality, clock, 0.055, 0.5)  # ends the window that holds both
    lowered = quality.value
    assert 0 < lowered < 1.0
    feed(quality, clock, 0.055, 20)
    assert quality.value == lowered
    assert lowered == 0.75
    feed(quality, clock, 0.045, 1)
    assert quality.value == 1.0, "0.06 at the most, which is within nine tenths of the time"


def test_a_moment_of_slowness_costs_no_quality() -> None:
    clock = Clock()
    quality = AdaptiveQuality(0.07, clock)
    for _ in range(20):
        feed(quality, clock, 0.069, 0.25)
        feed(quality, clock, 0.02, 0.25)
    assert quality.value == 1.0
