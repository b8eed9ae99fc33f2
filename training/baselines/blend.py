"""Two models' scores as one, however different their scales."""

from __future__ import annotations

from contract.arrays import Floats


def blend(one: Floats, other: Floats, weight: float) -> Floats:
    """Adds `weight` times the other's scores to the one's, (B,I) each, both as z-scores of their row."""
    return z_scores(one) + weight * z_scores(other)


def z_scores(scores: Floats) -> Floats:
    """Takes scores (B,I), gives them with mean 0 and standard deviation 1 per row; 0 where all are alike."""
    centred = scores - scores.mean(axis=1, keepdims=True)
    deviation = centred.std(axis=1, keepdims=True)
    standard: Floats = centred / (deviation + (deviation == 0))
    return standard
