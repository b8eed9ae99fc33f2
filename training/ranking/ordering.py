"""Fits how a slate is ordered, on the validation part."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from scipy.optimize import minimize

from contract.arrays import Bools, Doubles, Floats
from contract.bundle import RANKING, RETRIEVAL, OrderSpec
from contract.ordering import named_scores
from training.ranking.corrections import Terms, fit_corrections
from training.ranking.judged import Judged
from training.ranking.listwise import FOLDS, fit_listwise

FEWEST_CLICKS = 30
"""Clicks under which nothing is fitted: the numbers would follow noise."""


def fit_ordering(judged: Judged, otherwise: OrderSpec, among: Collection[str] | None = None) -> OrderSpec:
    """Chooses by NDCG@10 on users whom a blend was not fitted on: a blend of the sources' scores, with the
    ranker's if that is better, or, where it is better by more than the standard error, one without the
    vectors', or a single score. Corrections come on top, where they are better by that much.

    A blend's weights, none negative, are fitted listwise; only scores `among` the named have any. The chosen
    sum is scaled to a probability. With too few clicks it is the order `otherwise`.
    Source: Platt 1999.
    """
    return _fitted(judged, among)[0] if _can_be_fitted(judged) else otherwise


def order_of_few(judged: Judged, served: Floats, among: Collection[str]) -> OrderSpec | None:
    """Gives users of whom few items are known an order of their own, fitted to such users, where it is better
    than the order `served` (U,K) to everyone, by more than the standard error."""
    if not _can_be_fitted(judged):
        return None
    order, gains = _fitted(judged, among)
    return order if _are_surely_above(gains, judged.ndcg(served.astype(np.float64))) else None


def _fitted(judged: Judged, among: Collection[str] | None) -> tuple[OrderSpec, Doubles]:
    """Gives the order, and NDCG@10 of each user (U,) in its blend, fitted on others."""
    clicked = judged.chosen
    names = [name for name in (RANKING, RETRIEVAL, *judged.sources) if among is None or name in among]
    scores = named_scores(judged.ranking, judged.retrieval, judged.sources, names)
    scores = {name: np.where(judged.live, scores[name], 0) for name in names}
    features = np.stack([*scores.values()], axis=2)
    scale = np.maximum(features[judged.live].std(axis=0), 1e-6)
    features /= scale
    weights, gains = _choose(features, judged, names)
    nonzero = np.flatnonzero(weights)
    terms = Terms.of(judged, {names[at]: scores[names[at]] for at in nonzero})
    corrected = fit_corrections(features[:, :, nonzero], terms.values, judged)
    sums, of_terms = features @ weights, None
    if corrected is not None:
        weights[nonzero], of_terms = corrected
        sums = features @ weights + terms.values @ of_terms
    slope, intercept = _calibrated(sums[judged.live], clicked[judged.live])
    by_name = {RANKING: 0.0, RETRIEVAL: 0.0} | dict(
        zip(names, (slope * weights / scale).tolist(), strict=True)
    )
    corrections, columns = ({}, {}) if of_terms is None else terms.spec(slope * of_terms)
    order = OrderSpec(
        ranking=by_name.pop(RANKING),
        retrieval=by_name.pop(RETRIEVAL),
        sources={name: weight for name, weight in by_name.items() if weight > 0},
        corrections=corrections,
        columns=columns,
        least_known=0 if of_terms is None else _least_known(judged),
        intercept=intercept,
    )
    return order, gains


def _can_be_fitted(judged: Judged) -> bool:
    clicked = judged.chosen
    return clicked.sum() >= FEWEST_CLICKS and not clicked[judged.live].all()


def _are_surely_above(values: Doubles, others: Doubles) -> bool:
    """Whether the users' values (U,) are better by more than the standard error."""
    better = values - others
    return bool(better.mean() > better.std() / np.sqrt(len(better)))


def order_of_unknown(judged: Judged, served: Floats, alone: Judged, popular: str) -> OrderSpec | None:
    """Gives users of whom nothing is known an order of their own: by what is popular alone, where that is
    better than the order `served` (U,K) to everyone, by more than the standard error.

    `judged` are such users with everyone's candidates, `alone` with the most popular ones. To them the towers
    say what was popular when these were trained.
    """
    if not _can_be_fitted(alone):
        return None
    scores = alone.sources[popular].astype(np.float64)
    if not _are_surely_above(alone.ndcg(scores), judged.ndcg(served.astype(np.float64))):
        return None
    slope, intercept = _calibrated(scores[alone.live], alone.chosen[alone.live])
    return OrderSpec(ranking=0, retrieval=0, sources={popular: slope}, intercept=intercept)


def _least_known(judged: Judged) -> int:
    """Gives the fewest recent items of which corrections say something: `FEWEST_CLICKS` of the users who
    clicked have no more."""
    known = np.sort(judged.known[judged.chosen.any(axis=1), 0])
    return int(known[min(FEWEST_CLICKS, len(known)) - 1])


def _choose(features: Doubles, judged: Judged, names: Sequence[str]) -> tuple[Doubles, Doubles]:
    """Gives the weights (F,) of the best order of the scores of these names, and NDCG@10 of each user (U,) in
    one of its kind."""
    unranked = [at for at, name in enumerate(names) if name != RANKING]
    of_sources = [at for at in unranked if names[at] != RETRIEVAL]
    weights, gains = _blended(features, judged, unranked)
    if RANKING in names:
        with_ranker, gains_with = _blended(features, judged, [*range(len(names))])
        if gains_with.mean() > gains.mean():
            weights, gains = with_ranker, gains_with
    others = [(single, judged.ndcg(features @ single)) for single in np.eye(len(names))]
    if len(of_sources) > 1:
        others.append(_blended(features, judged, of_sources))
    for simpler, of_users in sorted(others, key=lambda other: -float(other[1].mean())):
        if _are_surely_above(of_users, gains):
            return simpler, of_users
    return weights, gains


def _blended(features: Doubles, judged: Judged, columns: Sequence[int]) -> tuple[Doubles, Doubles]:
    """Gives the weights (F,) of a blend of these columns, and NDCG@10 of users in an order of others."""
    clicked, live, lists = judged.chosen, judged.live, features[:, :, columns]
    folds = np.arange(len(features)) % FOLDS
    scores = np.zeros(live.shape)
    for fold in range(FOLDS):
        rest = folds != fold
        scores[~rest] = lists[~rest] @ fit_listwise(lists[rest], clicked[rest], live[rest])
    weights = np.zeros(features.shape[2])
    found = fit_listwise(lists, clicked, live)
    weights[columns] = found if found.any() else 1.0
    return weights, judged.ndcg(scores)


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
