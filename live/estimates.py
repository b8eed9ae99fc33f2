"""What a log of slates tells: the rate of clicks, and what it would have been with another policy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contract.arrays import Doubles, Ints

Z = 1.959964
"""Of a normal distribution, 95 % lie within so many standard deviations."""
SAMPLES = 400
"""Of users, drawn with replacement, from whose spread an interval comes."""


@dataclass(frozen=True)
class Estimate:
    """A rate and its interval of 95 %; `effective`: how many answers would tell as much of it, if each came
    from what is estimated."""

    value: float
    low: float
    high: float
    effective: float


def click_rate(clicks: Ints, places: Ints, owners: Ints) -> Estimate:
    """Takes per answer its clicks and places, (N,), and whose it is; gives clicks per place.

    The places of one user are alike, so the interval is Wilson's with as many independent places as would
    have the variance that the users show.
    Source: Wilson 1927; Korn and Graubard 1998, Confidence intervals for proportions with small counts.
    """
    _, user = np.unique(owners, return_inverse=True)
    of_user = np.bincount(user, clicks), np.bincount(user, places)
    total = of_user[1].sum()
    if not total:
        return Estimate(np.nan, 0.0, 1.0, 0.0)
    rate = of_user[0].sum() / total
    variance = ((of_user[0] - rate * of_user[1]) ** 2).sum() / total**2
    independent = min(float(total), rate * (1 - rate) / variance) if variance > 0 else float(total)
    low, high = wilson(rate, independent)
    return Estimate(float(rate), low, high, independent)


def wilson(rate: float, count: float) -> tuple[float, float]:
    """Gives Wilson's interval of 95 % for a rate of `count` independent tries."""
    middle = (rate + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z * np.sqrt(rate * (1 - rate) / count + Z**2 / (4 * count**2)) / (1 + Z**2 / count)
    return float(max(0.0, middle - half)), float(min(1.0, middle + half))


@dataclass(frozen=True, eq=False)
class LoggedSlates:
    """N answers of L places, all (N,L) but `owners` (N,): what was clicked; the chance that the place got its
    item, given those before, with the policy that served, `chances`, and with the one in question, `target`;
    what the model in question expects of the item, `expected`, and of the place, whatever that policy would
    show there, `expected_of_place`."""

    clicks: Doubles
    chances: Doubles
    target: Doubles
    expected: Doubles
    expected_of_place: Doubles
    owners: Ints

    @property
    def ratios(self) -> Doubles:
        """How much likelier the places up to each are with the policy in question."""
        return np.asarray(np.cumprod(self.target / self.chances, axis=1))


def snips(logged: LoggedSlates) -> Estimate:
    """Estimates the clicks per place of the policy in question by weighing what was clicked; the weights are
    divided by their sum, place by place.

    It takes for granted that a click depends on the items up to its place, and on none behind.
    Source: Swaminathan and Joachims 2015, The Self-Normalized Estimator for Counterfactual Learning; of
    slates, McInerney et al. 2020, Counterfactual Evaluation of Slate Recommendations with Sequential Reward
    Interactions.
    """
    weights = logged.ratios
    return _of_sums([(weights * logged.clicks, weights)], weights, logged.owners)


def doubly_robust(logged: LoggedSlates) -> Estimate:
    """Estimates the same from what the model in question expects, and weighs only where it is mistaken: right
    if either the chances are, or what is expected.

    Source: Dudik, Langford, Li 2011, Doubly Robust Policy Evaluation and Learning, of one place's click at a
    time, with the weights of `snips`.
    """
    weights = logged.ratios
    mistaken = weights * (logged.clicks - logged.expected)
    terms = [(mistaken, weights), (logged.expected_of_place, np.ones_like(weights))]
    return _of_sums(terms, weights, logged.owners)


def _of_sums(terms: list[tuple[Doubles, Doubles]], weights: Doubles, owners: Ints) -> Estimate:
    """Adds up quotients of sums over answers, and takes the mean over places; the interval comes from drawing
    users anew."""
    _, user = np.unique(owners, return_inverse=True)
    users = int(user.max(initial=-1)) + 1
    last = weights[:, -1]
    squares = float((last**2).sum())
    effective = float(last.sum() ** 2 / squares) if squares else 0.0
    if not squares:
        return Estimate(float("nan"), float("nan"), float("nan"), 0.0)
    summed = [(_by_user(top, user, users), _by_user(bottom, user, users)) for top, bottom in terms]

    def value(counts: npt.NDArray[np.int64]) -> Doubles:
        total = np.zeros((len(counts), weights.shape[1]))
        for top, bottom in summed:
            below = counts @ bottom
            total += np.divide(counts @ top, below, out=np.full_like(below, np.nan), where=below > 0)
        return np.asarray(np.nanmean(total, axis=1))

    draws = np.random.default_rng(0).multinomial(users, np.full(users, 1 / users), SAMPLES)
    low, high = np.nanpercentile(value(draws), [2.5, 97.5])
    return Estimate(float(value(np.ones((1, users), np.int64))[0]), float(low), float(high), effective)


def _by_user(values: Doubles, user: Ints, users: int) -> Doubles:
    summed = np.zeros((users, values.shape[1]))
    np.add.at(summed, user, values)
    return summed


def chances_of(weights: Doubles, shown: Ints) -> Doubles:
    """Takes log-weights of candidates (N,K), -inf for none, and the candidate of each place (N,L), -1 for one
    that is none; gives the chance of each place's candidate, given those before, (N,L).

    Source: Plackett-Luce, as `ensemble.stages.order.propensities_of`.
    """
    left = np.exp(weights - weights.max(axis=1, keepdims=True))
    rows = np.arange(len(left))
    chances = np.zeros(shown.shape)
    for place in range(shown.shape[1]):
        at, total = shown[:, place], left.sum(axis=1)
        mass = np.where(at >= 0, left[rows, at], 0.0)
        chances[:, place] = np.divide(mass, total, out=np.zeros_like(mass), where=total > 0)
        left[rows[at >= 0], at[at >= 0]] = 0.0
    return chances


def means_of(weights: Doubles, places: int, values: Doubles, draws: int = 16) -> Doubles:
    """Takes log-weights and values of candidates (N,K), gives the mean value of what stands on each place of
    the slates that a policy draws, (N,L): of `draws` slates each, so with chance in it, and no bias."""
    rng, total = np.random.default_rng(0), np.zeros((len(weights), places))
    for _ in range(draws):
        drawn = np.argsort(-(weights + rng.gumbel(size=weights.shape)), axis=1)[:, :places]
        total += np.take_along_axis(np.where(np.isfinite(weights), values, 0.0), drawn, axis=1)
    return np.asarray(total / draws)
