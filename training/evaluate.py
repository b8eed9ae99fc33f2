"""Measures a trained chain on the test part, beside the baselines on the same split.

Features are as of the start of the test part and not updated in it; users without news to find are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from training.heldout import HeldOut
from training.metrics import bootstrap, list_metrics, retrieval_metrics, top_k

Floats = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
PerUser = Mapping[str, Floats]


@dataclass
class Report:
    """Metrics by section, model and name; where asked for, with 95 % intervals over users."""

    is_full: bool
    sections: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    def add(self, section: str, model: str, values: Mapping[str, float | Floats]) -> None:
        """Adds a model's metrics: numbers, or values per user, whose mean counts."""
        row = self.sections.setdefault(section, {}).setdefault(model, {})
        for name, value in values.items():
            if isinstance(value, np.ndarray):
                row[name] = float(np.nanmean(value))
                if self.is_full:
                    row[f"{name}_interval"] = list(bootstrap(value))
            elif np.isfinite(value):
                row[name] = float(value)


def over_seeds(reports: Sequence[Report]) -> dict[str, dict[str, dict[str, Any]]]:
    """Averages the reports of several seeds; `_seeds` is the standard deviation between them."""
    first = reports[0].sections
    merged: dict[str, dict[str, dict[str, Any]]] = {}
    for section, models in first.items():
        merged[section] = {}
        for model, row in models.items():
            rows = [
                report.sections[section][model] for report in reports if model in report.sections[section]
            ]
            merged[section][model] = dict(row)
            for name in row:
                values = np.array([other[name] for other in rows], dtype=np.float64)
                if name.endswith("_interval"):
                    merged[section][model][name] = values.mean(axis=0).tolist()
                    continue
                merged[section][model][name] = float(values.mean())
                if len(rows) > 1 and values.std() > 0:
                    merged[section][model][f"{name}_seeds"] = float(values.std(ddof=1))
    return merged


def vector_scorer(users: Vectors, items: Vectors) -> Any:
    """Scores the whole catalogue for rows of users, by inner product."""
    return lambda rows: users[rows] @ items.T


def evaluate_vectors(held: HeldOut, users: Vectors, items: Vectors) -> PerUser:
    """Takes the vectors of the held-out users and of the catalogue, gives retrieval metrics per user."""
    return retrieval_metrics(vector_scorer(users, items), held.relevant, held.seen)


def evaluate_scores(held: HeldOut, model: Any, history: csr_matrix) -> PerUser:
    """Takes a baseline, and the histories of all users (U,I), gives retrieval metrics per held-out user."""
    return retrieval_metrics(
        lambda rows: model.score(history[held.user_rows[rows]]), held.relevant, held.seen
    )


def retrieve(held: HeldOut, users: Vectors, items: Vectors, k: int, rows: int = 512) -> Ints:
    """Gives the `k` best unseen items of every held-out user, catalogue positions, best first; (U,K)."""
    parts = []
    for start in range(0, max(len(users), 1), rows):
        part = slice(start, start + rows)
        scores = users[part] @ items.T
        scores[held.seen[part].toarray() > 0] = -np.inf
        parts.append(top_k(scores, k))
    return np.concatenate(parts)


def reorder(candidates: Ints, scores: npt.NDArray[np.float32]) -> Ints:
    """Takes candidates (U,K), -1 in the tail, and their ranking scores, gives them best first."""
    sunk = np.where(candidates >= 0, scores, -np.inf)
    return np.take_along_axis(candidates, np.argsort(-sunk, axis=1, kind="stable"), axis=1)


def evaluate_lists(held: HeldOut, lists: Ints) -> PerUser:
    """Takes ready lists of positions (U,N), gives Recall@10 and NDCG@10 per user."""
    return list_metrics(lists, held.relevant, cutoffs=(10,))
