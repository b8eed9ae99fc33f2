"""What is known of candidates of users who were asked, and of what they clicked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from contract.arrays import Bools, Doubles, Floats, Ints
from training.metrics.lists import ndcg_at


@dataclass(frozen=True, eq=False)
class Judged:
    """Candidates of users, (U,K) each: both models' scores, the other sources' and the numeric columns by
    name, what was clicked, and where there is a candidate at all. `relevant` (U,) counts what there was to
    click, retrieved or not, `known` (U,1) the user's recent items."""

    ranking: Floats
    retrieval: Floats
    sources: Mapping[str, Floats]
    clicked: Bools
    live: Bools
    relevant: Ints
    known: Ints
    columns: Mapping[str, Floats]

    @property
    def chosen(self) -> Bools:
        """What was clicked of the candidates, (U,K)."""
        return self.clicked & self.live

    def some(self, users: Bools) -> Judged:
        """Keeps some users, (U,)."""
        return Judged(**{field.name: _some(getattr(self, field.name), users) for field in fields(self)})

    def and_those_of(self, other: Judged) -> Judged:
        """Puts others' candidates behind, as many for each, and of the same sources and columns."""
        names = [field.name for field in fields(self)]
        return Judged(**{name: _joined(getattr(self, name), getattr(other, name)) for name in names})

    def ndcg(self, scores: Doubles) -> Doubles:
        """Gives NDCG@10 of each user (U,) in the order of the scores (U,K), 0 where nothing was to click.

        Equal scores are taken in the worst order: one that says nothing must not look like the order in which
        the candidates came.
        """
        chosen = self.chosen
        order = np.lexsort((chosen, np.where(self.live, -scores, np.inf)))
        return np.nan_to_num(ndcg_at(np.take_along_axis(chosen, order, axis=1), self.relevant, 10))


def _some(values: Any, users: Bools) -> Any:
    if isinstance(values, Mapping):
        return {name: of_name[users] for name, of_name in values.items()}
    return values[users]


def _joined(values: Any, others: Any) -> Any:
    if isinstance(values, Mapping):
        return {name: np.concatenate([of_name, others[name]]) for name, of_name in values.items()}
    return np.concatenate([values, others])
