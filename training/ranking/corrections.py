"""What the order adds to a blend of scores: their bends, the user's history, the candidates' columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from contract.arrays import Bools, Doubles, Floats
from contract.bundle import Correction
from contract.ordering import corrected
from training.ranking.judged import Judged
from training.ranking.listwise import FOLDS, fit_listwise

SHAPES = ("plain", "few", "many", "bent")
"""The weights of a `Correction`."""
PRECISION = 50.0
"""Ridge of the corrections, over the users who clicked: so much evidence they need. Lower: they say more."""


@dataclass(frozen=True, eq=False)
class Terms:
    """What corrections weigh: `values` (U,K,F), 0 where there is no candidate: the shapes of the scores,
    whose knees are by name, then the columns.

    `scale` (F,) is what they were divided by: a shape's deviation, and 1 for a column, which is encoded to
    one spread; one that hardly varies shall not be blown up.
    """

    values: Floats
    scale: Doubles
    knees: Mapping[str, float]
    columns: Sequence[str]

    @classmethod
    def of(cls, judged: Judged, scores: Mapping[str, Doubles]) -> Terms:
        """Makes the terms of the scores (U,K) that the blend weighs, and of all columns."""
        live = judged.live[:, :, None]
        knees = {name: max(float(score[judged.live].std()), 1e-6) for name, score in scores.items()}
        parts = [
            corrected([score], judged.known, [Correction(knee=knees[name], **{shape: 1.0})])
            for name, score in scores.items()
            for shape in SHAPES
        ]
        both = np.stack([*parts, *judged.columns.values()], axis=2)
        values: Floats = np.where(live, both, 0).astype(np.float32)
        scale = np.ones(values.shape[2])
        of_scores = values[judged.live][:, : len(parts)]
        scale[: of_scores.shape[1]] = np.maximum(of_scores.std(axis=0, dtype=np.float64), 1e-6)
        values /= scale.astype(np.float32)
        return cls(values, scale, knees, tuple(judged.columns))

    def spec(self, weights: Doubles) -> tuple[dict[str, Correction], dict[str, float]]:
        """Takes the terms' weights (F,), gives the order's corrections and columns."""
        own = (weights / self.scale).tolist()
        corrections = {}
        for at, (name, knee) in enumerate(self.knees.items()):
            of_score = own[at * len(SHAPES) : (at + 1) * len(SHAPES)]
            corrections[name] = Correction(knee=knee, **dict(zip(SHAPES, of_score, strict=True)))
        return corrections, dict(zip(self.columns, own[len(self.knees) * len(SHAPES) :], strict=True))


def fit_corrections(features: Doubles, terms: Floats, judged: Judged) -> tuple[Doubles, Doubles] | None:
    """Takes the features of the blend (U,K,B) and the terms (U,K,F), gives the weights of both; None where
    the corrections are not better, by more than the standard error, on users whom they were not fitted on."""
    clicked, live = judged.chosen, judged.live

    def fitted(users: Bools) -> tuple[Doubles, Doubles]:
        blend = fit_listwise(features[users], clicked[users], live[users])
        ridge = PRECISION / max(int(clicked[users].any(axis=1).sum()), 1)
        offset = features[users] @ blend
        of_terms = fit_listwise(
            terms[users], clicked[users], live[users], offset=offset, ridge=ridge, least=None
        )
        return blend, of_terms

    folds = np.arange(len(features)) % FOLDS
    plain, corrected = np.zeros(live.shape), np.zeros(live.shape)
    for fold in range(FOLDS):
        held = folds == fold
        blend, of_terms = fitted(~held)
        plain[held] = features[held] @ blend
        corrected[held] = plain[held] + terms[held] @ of_terms
    better = judged.ndcg(corrected) - judged.ndcg(plain)
    if better.mean() <= better.std() / np.sqrt(len(better)):
        return None
    return fitted(np.ones(len(folds), dtype=np.bool_))
