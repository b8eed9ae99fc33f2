"""The score that orders a slate, of the ranker's and the retrieval's. The ensemble uses it: numpy only."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from contract.arrays import Floats
from contract.bundle import OrderSpec

_LOG_ODDS_BOUND = 30.0


def log_odds(probabilities: Floats) -> npt.NDArray[np.float64]:
    """Takes probabilities, gives their log-odds, bounded where they are 0 or 1."""
    p = probabilities.astype(np.float64)
    with np.errstate(divide="ignore"):
        odds = np.log(p) - np.log1p(-p)
    return np.asarray(np.clip(odds, -_LOG_ODDS_BOUND, _LOG_ODDS_BOUND))


def order_scores(ranking_scores: Floats, retrieval_scores: Floats, spec: OrderSpec) -> Floats:
    """Gives P(click) of retrieved items, in [0,1]: a logistic regression on both models' scores.

    The ranker tells clicked from shown best; the retrieval tells what a user comes across at all from the
    rest of the catalogue. A slate needs both. A retrieval score that is not finite, as in the padding of a
    short list, counts as 0.
    Source: Platt 1999, Probabilistic Outputs for Support Vector Machines, with a second score.
    """
    retrieved = np.where(np.isfinite(retrieval_scores), retrieval_scores, 0)
    z = spec.ranking * log_odds(ranking_scores) + spec.retrieval * retrieved + spec.intercept
    return (1 / (1 + np.exp(-z))).astype(np.float32)
