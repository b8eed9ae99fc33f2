"""The score that orders a slate, of the ranker's and of each source's. The ensemble uses it: numpy only."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from contract.arrays import Floats
from contract.bundle import OrderSpec

_LOG_ODDS_BOUND = 30.0
NO_ORDER = OrderSpec()


def log_odds(probabilities: Floats) -> npt.NDArray[np.float64]:
    """Takes probabilities, gives their log-odds, bounded where they are 0 or 1."""
    p = probabilities.astype(np.float64)
    with np.errstate(divide="ignore"):
        odds = np.log(p) - np.log1p(-p)
    return np.asarray(np.clip(odds, -_LOG_ODDS_BOUND, _LOG_ODDS_BOUND))


def order_scores(
    ranking_scores: Floats,
    retrieval_scores: Floats,
    spec: OrderSpec,
    source_scores: Mapping[str, Floats] = MappingProxyType({}),
) -> Floats:
    """Gives P(click) of retrieved items, in [0,1]: a logistic regression on the scores of the ranker, of the
    vectors and, by their names, of the further sources; all of one shape.

    The ranker tells clicked from shown best; the retrieval tells what a user comes across at all from the
    rest of the catalogue. A slate needs both. A score of the vectors that is not finite, as in the padding of
    a short list, counts as 0; so does a source whose scores are not there, because it failed.
    Source: Platt 1999, Probabilistic Outputs for Support Vector Machines, with more than one score.
    """
    z = retrieval_part(retrieval_scores, spec, source_scores) + spec.intercept
    if spec.ranking:
        z += spec.ranking * log_odds(ranking_scores)
    return (1 / (1 + np.exp(-z))).astype(np.float32)


def retrieval_part(
    retrieval_scores: Floats, spec: OrderSpec, source_scores: Mapping[str, Floats]
) -> npt.NDArray[np.float64]:
    """Gives what the sources alone contribute to the log-odds."""
    retrieved = np.where(np.isfinite(retrieval_scores), retrieval_scores, 0)
    z = np.multiply(retrieved, spec.retrieval, dtype=np.float64)
    for name, weight in spec.sources.items():
        if name in source_scores:
            z += weight * source_scores[name]
    return z


def unranked_scores(
    retrieval_scores: Floats,
    spec: OrderSpec = NO_ORDER,
    source_scores: Mapping[str, Floats] = MappingProxyType({}),
) -> Floats:
    """Gives scores in [0,1] that order candidates as the sources do: a logistic function of what they alone
    say; of the vectors' scores, where no other source counts.

    They are no probabilities: no ranker said how likely a click is.
    """
    z = retrieval_part(retrieval_scores, spec, source_scores) if spec.sources else retrieval_scores
    with np.errstate(over="ignore"):
        return (1 / (1 + np.exp(-z.astype(np.float64)))).astype(np.float32)


def likeness(cosines: Floats, spec: OrderSpec, source_scores: Mapping[str, Floats]) -> Floats:
    """Gives what orders the items like another: the cosine of their vectors, and what each further source
    says of them, as much against it as in a user's order."""
    likeness = cosines
    for name, weight in spec.sources.items():
        likeness = likeness + np.float32(weight / (spec.retrieval or 1.0)) * source_scores[name]
    return likeness
