"""The score that orders a slate, of the ranker's and of each source's. The ensemble uses it: numpy only."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from contract import names
from contract.arrays import Doubles, Floats, Ints
from contract.bundle import RANKING, RETRIEVAL, Correction, OrderSpec

_LOG_ODDS_BOUND = 30.0
NO_ORDER = OrderSpec()


def log_odds(probabilities: Floats) -> npt.NDArray[np.float64]:
    """Takes probabilities, gives their log-odds, bounded where they are 0 or 1."""
    p = probabilities.astype(np.float64)
    with np.errstate(divide="ignore"):
        odds = np.log(p) - np.log1p(-p)
    return np.asarray(np.minimum(np.maximum(odds, -_LOG_ODDS_BOUND), _LOG_ODDS_BOUND))


def named_scores(
    ranking_scores: Floats,
    retrieval_scores: Floats,
    source_scores: Mapping[str, Floats],
    wanted: Collection[str],
) -> dict[str, Doubles]:
    """Gives those of the wanted scores that are there, by their names, as the order weighs them."""
    of_sources = _of_sources(retrieval_scores, source_scores, wanted)
    return {RANKING: log_odds(ranking_scores), **of_sources} if RANKING in wanted else of_sources


def _of_sources(
    retrieval_scores: Floats, source_scores: Mapping[str, Floats], wanted: Collection[str]
) -> dict[str, Doubles]:
    by_name: dict[str, Doubles] = {}
    if RETRIEVAL in wanted:
        by_name[RETRIEVAL] = np.where(np.isfinite(retrieval_scores), retrieval_scores, 0).astype(np.float64)
    return by_name | {name: s.astype(np.float64) for name, s in source_scores.items() if name in wanted}


def _blend(by_name: Mapping[str, Doubles], spec: OrderSpec, shape: tuple[int, ...]) -> Doubles:
    if not by_name:
        return np.zeros(shape)
    blend = spec.blend
    summed: Doubles = np.tensordot([blend.get(name, 0.0) for name in by_name], [*by_name.values()], 1)
    return summed


def known_items(recent_item_ids: Ints) -> Ints:
    """Takes users' recent items (B,S), padded, gives how many there are, (B,1)."""
    return np.asarray((recent_item_ids != names.NULL_INT).sum(axis=1, keepdims=True), dtype=np.int64)


def corrected(scores: Sequence[Doubles], known: Ints, specs: Sequence[Correction]) -> Doubles:
    """Takes scores of the order (N,B,K), how many items of each user are known (B,1), and each score's
    correction, gives what is added for all of them, (B,K); it is linear in the weights."""
    stacked = np.asarray(scores)
    weights = [(one.plain, one.few, one.many, one.bent, one.knee) for one in specs]
    plain, few, many, bent, knee = np.array(weights).T[:, :, None, None]
    added: Doubles = (stacked * (plain + few / (1 + known) + many * np.log1p(known))).sum(axis=0)
    (bends,) = bent[:, 0, 0].nonzero()
    if len(bends):
        added += (bent[bends] * np.log1p(np.maximum(stacked[bends], 0) / knee[bends])).sum(axis=0)
    return added


def order_scores(
    ranking_scores: Floats,
    retrieval_scores: Floats,
    spec: OrderSpec,
    source_scores: Mapping[str, Floats] = MappingProxyType({}),
    known: Ints | None = None,
    columns: Floats | None = None,
) -> Floats:
    """Gives P(click) of retrieved items, in [0,1]: a logistic regression on the scores of the ranker, of the
    vectors and, by their names, of the further sources; all of one shape.

    The ranker tells clicked from shown best; the retrieval tells what a user comes across at all from the
    rest of the catalogue. A slate needs both. A score of the vectors that is not finite, as in the padding of
    a short list, counts as 0; so does a source whose scores are not there, because it failed. An order with
    corrections needs (B,K) and how many items are `known` (B,1), without which nothing is corrected and all
    have everyone's order; one with columns needs those as well, (B,K,C), as `OrderSpec.numeric` names them.
    Source: Platt 1999, Probabilistic Outputs for Support Vector Machines, with more than one score.
    """
    by_name = named_scores(ranking_scores, retrieval_scores, source_scores, spec.weighed)
    z = _blend(by_name, spec, retrieval_scores.shape) + spec.intercept
    if known is not None:
        is_known = known >= spec.least_known
        if there := [name for name in spec.corrections if name in by_name]:
            added = corrected([by_name[name] for name in there], known, [spec.corrections[n] for n in there])
            z += np.where(is_known, added, 0)
        if spec.columns and columns is not None:
            own = np.array([*spec.columns.values()], dtype=np.float32)
            z += np.where(is_known, columns[..., : len(own)] @ own, 0)
    scores = (1 / (1 + np.exp(-z))).astype(np.float32)
    for rows, order in _rows_of_few(spec, known):
        places = [spec.numeric.index(name) for name in order.columns]
        scores[rows] = order_scores(
            ranking_scores[rows],
            retrieval_scores[rows],
            order,
            _of_rows(source_scores, rows),
            None if known is None else known[rows],
            None if columns is None else columns[rows][..., places],
        )
    return scores


def _rows_of_few(spec: OrderSpec, known: Ints | None) -> Iterator[tuple[Ints, OrderSpec]]:
    """Gives each order of users of whom little is known, with their rows, where there are such."""
    if known is None:
        return
    for one in spec.of_few:
        (rows,) = ((known[:, 0] >= one.least) & (known[:, 0] <= one.most)).nonzero()
        if len(rows):
            yield rows, one.order


def _of_rows(scores: Mapping[str, Floats], rows: Ints) -> dict[str, Floats]:
    return {name: of_all[rows] for name, of_all in scores.items()}


def unranked_scores(
    retrieval_scores: Floats,
    spec: OrderSpec = NO_ORDER,
    source_scores: Mapping[str, Floats] = MappingProxyType({}),
    known: Ints | None = None,
) -> Floats:
    """Gives scores in [0,1] that order candidates as the sources do: a logistic function of what they alone
    say; of the vectors' scores, where no other source counts. `known` as that of `order_scores`.

    They are no probabilities: no ranker said how likely a click is.
    """
    z: Doubles = retrieval_scores.astype(np.float64)
    by_name = _of_sources(retrieval_scores, source_scores, spec.weighed)
    if spec.sources:
        z = _blend(by_name, spec, z.shape)
    with np.errstate(over="ignore"):
        scores = (1 / (1 + np.exp(-z))).astype(np.float32)
    for rows, order in _rows_of_few(spec, known):
        scores[rows] = unranked_scores(retrieval_scores[rows], order, _of_rows(source_scores, rows))
    return scores


def likeness(cosines: Floats, spec: OrderSpec, source_scores: Mapping[str, Floats]) -> Floats:
    """Gives what orders the items like another: the cosine of their vectors, and what each further source
    says of them, as much against it as in a user's order."""
    likeness = cosines
    for name, weight in spec.sources.items():
        likeness = likeness + np.float32(weight / (spec.retrieval or 1.0)) * source_scores[name]
    return likeness
