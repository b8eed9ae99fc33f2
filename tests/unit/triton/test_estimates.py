"""What a log of slates tells of clicks, against a simulated truth."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest

from live.estimates import (
    Estimate,
    LoggedSlates,
    chances_of,
    click_rate,
    doubly_robust,
    means_of,
    snips,
    wilson,
)

K, PLACES, ANSWERS, USERS = 6, 3, 10_000, 1_000
LOOKED_AT = np.array([1.0, 0.6, 0.4])
"""The chance that a user looks at a place."""


class Simulated:
    """Users who click by their own taste, of the items of slates that a policy draws."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.owners = np.sort(self.rng.integers(0, USERS, ANSWERS))
        taste = self.rng.beta(1, 4, (USERS, K))
        self.p = taste[self.owners]
        self.served = np.log(self.rng.beta(2, 2, (USERS, K)))[self.owners]
        self.other = 1.5 * np.log(taste)[self.owners]

    def slates(self, weights: Any) -> Any:
        """Draws a slate per answer, with the chances that Plackett and Luce give."""
        noise = self.rng.gumbel(size=weights.shape)
        return np.argsort(-(weights + noise), axis=1)[:, :PLACES]

    def clicked(self, slates: Any) -> Any:
        p = np.take_along_axis(self.p, slates, axis=1) * LOOKED_AT
        return (self.rng.random(p.shape) < p).astype(float)

    def truth(self, weights: Any) -> float:
        """The clicks per place of a policy, of all slates that it could draw, without chance."""
        total = np.zeros(len(weights))
        for slate in permutations(range(K), PLACES):
            shown = np.broadcast_to(np.array(slate), (len(weights), PLACES))
            chance = chances_of(weights, shown).prod(axis=1)
            total += chance * (self.p[:, slate] * LOOKED_AT).mean(axis=1)
        return float(total.mean())

    def logged(self, expected: Any) -> LoggedSlates:
        """Serves with one policy, and says of the other what it would have done; `expected` (N,K)."""
        slates = self.slates(self.served)
        return LoggedSlates(
            clicks=self.clicked(slates),
            chances=chances_of(self.served, slates),
            target=chances_of(self.other, slates),
            expected=np.take_along_axis(expected, slates, axis=1) * LOOKED_AT,
            expected_of_place=means_of(self.other, PLACES, expected) * LOOKED_AT,
            owners=self.owners,
        )


def within(estimate: Estimate, truth: float) -> bool:
    """Whether the truth lies in the interval, or as far outside again as half of it is wide."""
    half = (estimate.high - estimate.low) / 2
    return estimate.low - half <= truth <= estimate.high + half


@pytest.mark.parametrize("seed", [1, 2])
def test_both_estimates_find_what_another_policy_would_have_got(seed: int) -> None:
    world = Simulated(seed)
    truth, served = world.truth(world.other), world.truth(world.served)
    logged = world.logged(expected=world.p)
    weighed, robust = snips(logged), doubly_robust(logged)
    assert within(weighed, truth)
    assert within(robust, truth)
    assert weighed.low > served, "what served is told apart from what would have"
    assert robust.high - robust.low < 1.1 * (weighed.high - weighed.low)
    assert 1 < weighed.effective < ANSWERS


def test_an_estimate_is_doubly_robust() -> None:
    world = Simulated(3)
    truth = world.truth(world.other)
    wrong = np.full((ANSWERS, K), 0.5)
    assert within(doubly_robust(world.logged(wrong)), truth), "the chances are right"
    logged = world.logged(world.p)
    untrue = replace(logged, chances=logged.target)
    assert abs(doubly_robust(untrue).value - truth) < 0.05 * truth, "what is expected is right"
    assert abs(snips(untrue).value - truth) > 0.1 * truth


def test_the_policy_that_served_gets_what_it_got() -> None:
    world = Simulated(4)
    logged = world.logged(world.p)
    own = replace(logged, target=logged.chances)
    assert snips(own).value == pytest.approx(logged.clicks.mean())
    assert snips(own).effective == ANSWERS


def test_a_policy_that_would_show_nothing_of_the_log_is_not_estimated() -> None:
    logged = Simulated(5).logged(np.zeros((ANSWERS, K)))
    estimate = snips(replace(logged, target=np.zeros_like(logged.target)))
    assert np.isnan(estimate.value)
    assert estimate.effective == 0


def test_the_interval_of_a_rate_knows_that_the_places_of_a_user_are_alike() -> None:
    rng = np.random.default_rng(0)
    owners, places = np.repeat(np.arange(400), 10), np.full(4000, 10)
    covered, widths = 0, []
    for _ in range(100):
        taste = rng.beta(0.5, 4.5, 400)[owners]
        rate = click_rate(rng.binomial(places, taste), places, owners)
        covered += rate.low <= 0.1 <= rate.high
        widths.append(rate.high - rate.low)
    assert 0.9 <= covered / 100 <= 0.99
    naive = np.subtract(*wilson(0.1, 40_000)[::-1])
    assert np.mean(widths) > 3 * naive


def test_no_click_and_no_place_have_an_interval_too() -> None:
    none = click_rate(np.zeros(50, np.int64), np.full(50, 2), np.arange(50))
    assert (none.value, none.low) == (0.0, 0.0)
    assert 0.02 < none.high < 0.05
    assert click_rate(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64)).high == 1.0
