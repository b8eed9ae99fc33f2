"""Fits how a slate is ordered, on the validation part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from contract.arrays import Array, Bools, Doubles, Floats, Ints
from contract.bundle import OrderSpec
from contract.ordering import log_odds
from training.metrics.lists import ndcg_at

FEWEST_CLICKS = 30
"""Clicks under which nothing is fitted: the numbers would follow noise."""
RIDGE = 1e-3
FOLDS = 4
RANKING, RETRIEVAL = "ranking", "retrieval"


@dataclass(frozen=True, eq=False)
class Judged:
    """Candidates of users, (U,K) each: both models' scores, the other sources' by name, what was clicked, and
    where there is a candidate at all. `relevant` (U,) counts what there was to click, retrieved or not."""

    ranking: Floats
    retrieval: Floats
    sources: Mapping[str, Floats]
    clicked: Bools
    live: Bools
    relevant: Ints


def fit_ordering(judged: Judged) -> OrderSpec:
    """Chooses by NDCG@10 on users whom a blend was not fitted on: a blend of the sources' scores, with the
    ranker's if that is better, or, where it is better by more than the standard error, one without the
    vectors', or a single score.

    A blend's weights, none negative, are the likeliest to have drawn a user's clicks from their candidates, a
    softmax over the list; so a user with many clicks counts no more than another. The chosen sum is scaled to
    a probability. With too few clicks the slate keeps the ranker's order.
    Source: Cao et al. 2007, ListNet, top one; Platt 1999.
    """
    clicked = judged.clicked & judged.live
    if clicked.sum() < FEWEST_CLICKS or clicked[judged.live].all():
        return OrderSpec()
    names = [RANKING, RETRIEVAL, *judged.sources]
    scores: list[Array] = [log_odds(judged.ranking), judged.retrieval, *judged.sources.values()]
    features = np.stack([np.where(judged.live, score, 0).astype(np.float64) for score in scores], axis=2)
    scale = np.maximum(features[judged.live].std(axis=0), 1e-6)
    features /= scale
    weights = _choose(features, judged, clicked)
    slope, intercept = _calibrated((features @ weights)[judged.live], clicked[judged.live])
    by_name = dict(zip(names, (slope * weights / scale).tolist(), strict=True))
    return OrderSpec(
        ranking=by_name.pop(RANKING),
        retrieval=by_name.pop(RETRIEVAL),
        sources={name: weight for name, weight in by_name.items() if weight > 0},
        intercept=intercept,
    )


def _choose(features: Doubles, judged: Judged, clicked: Bools) -> Doubles:
    """Gives the weights (F,) of the best order: the ranker's and the vectors' come first among them."""
    count = features.shape[2]
    weights, gains = _blended(features, judged, clicked, [*range(1, count)])
    with_ranker, gains_with = _blended(features, judged, clicked, [*range(count)])
    if gains_with.mean() > gains.mean():
        weights, gains = with_ranker, gains_with
    others = [(single, _ndcg(features @ single, judged, clicked)) for single in np.eye(count)]
    if count > 3:
        others.append(_blended(features, judged, clicked, [*range(2, count)]))
    for simpler, of_users in sorted(others, key=lambda other: -float(other[1].mean())):
        better = of_users - gains
        if better.mean() > better.std() / np.sqrt(len(better)):
            return simpler
    return weights


def _blended(
    features: Doubles, judged: Judged, clicked: Bools, kept: Sequence[int]
) -> tuple[Doubles, Doubles]:
    """Gives the weights (F,) of a blend of the `kept` scores, and NDCG@10 of users in an order of others."""
    folds = np.arange(len(features)) % FOLDS
    scores = np.zeros(features.shape[:2])
    for fold in range(FOLDS):
        rest = folds != fold
        scores[~rest] = features[~rest] @ _listwise(features[rest], clicked[rest], judged.live[rest], kept)
    return _listwise(features, clicked, judged.live, kept), _ndcg(scores, judged, clicked)


def _ndcg(scores: Doubles, judged: Judged, clicked: Bools) -> Doubles:
    """Gives NDCG@10 of each user (U,) in the order of the scores (U,K).

    Equal scores are taken in the worst order: one that says nothing must not look like the order in which
    the candidates came.
    """
    order = np.lexsort((clicked, np.where(judged.live, -scores, np.inf)))
    return np.nan_to_num(ndcg_at(np.take_along_axis(clicked, order, axis=1), judged.relevant, 10))


def _listwise(features: Doubles, clicked: Bools, live: Bools, kept: Sequence[int]) -> Doubles:
    """Fits weights (F,), 0 but for `kept`, none negative, to what was clicked of each list."""
    some = clicked.any(axis=1)
    weights = np.zeros(features.shape[2])
    if not some.any():
        weights[list(kept)] = 1.0
        return weights
    lists, live = features[some][:, :, kept], live[some]
    wanted = clicked[some] / clicked[some].sum(axis=1, keepdims=True)

    def loss(point: Doubles) -> tuple[float, Doubles]:
        z = np.where(live, lists @ point, -np.inf)
        z -= z.max(axis=1, keepdims=True)
        chances = np.exp(z)
        total = chances.sum(axis=1, keepdims=True)
        slope = (chances / total - wanted) / len(lists)
        value = (np.log(total[:, 0]) - (wanted * np.where(live, z, 0)).sum(axis=1)).mean()
        gradient = np.einsum("uk,ukf->f", slope, lists) + RIDGE * point
        return float(value + RIDGE / 2 * point @ point), gradient

    start = np.full(len(kept), 0.1)
    bounds = [(0.0, None)] * len(kept)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    weights[list(kept)] = found if found.any() else 1.0
    return weights


def _calibrated(sums: Doubles, clicked: Bools) -> tuple[float, float]:
    """Gives the slope, above 0, and the intercept that make sums (N,) the log-odds of a click."""
    spread = max(float(sums.std()), 1e-6)
    z = sums / spread

    def loss(point: Doubles) -> tuple[float, Doubles]:
        odds = point[0] * z + point[1]
        slope = (1 / (1 + np.exp(-odds)) - clicked) / len(z)
        value = float(np.mean(np.logaddexp(0, odds) - clicked * odds))
        return value, np.array([z @ slope, slope.sum()])

    rate = np.clip(clicked.mean(), 1e-6, 1 - 1e-6)
    start = np.array([1.0, np.log(rate / (1 - rate))])
    bounds = [(1e-3, None), (None, None)]
    slope, intercept = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return float(slope / spread), float(intercept)
