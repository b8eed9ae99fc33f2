"""Where candidates come from: the protocol, the search for the nearest items, and how several are merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from contract.arrays import Array, Floats, Ids
from contract.filters import Filters
from contract.tensors import PAD_ID
from ensemble.stores.vectors import VectorIndex


@dataclass(frozen=True)
class Users:
    """What is known of the users (B) who are to get candidates.

    `vectors` (B,D) are theirs; `features` the raw columns of the user views and of the context, (B,1) or for
    lists (B,S), each with its own null; `seen_item_ids` and `exclude_item_ids` are padded with `PAD_ID`.
    """

    vectors: Floats
    features: Mapping[str, Array]
    filters: Sequence[Filters]
    seen_item_ids: Ids
    exclude_item_ids: Ids

    def some(self, rows: Sequence[int]) -> Users:
        """Gives the users in these rows alone."""
        at = np.asarray(rows, dtype=np.intp)
        return Users(
            self.vectors[at],
            {name: column[at] for name, column in self.features.items()},
            [self.filters[row] for row in rows],
            self.seen_item_ids[at],
            self.exclude_item_ids[at],
        )


@runtime_checkable
class Source(Protocol):
    """Gives candidates for a batch of users."""

    @property
    def is_whole(self) -> bool:
        """Whether every item can be found now."""
        ...

    def candidates(self, users: Users, counts: Sequence[int], width: int) -> tuple[Ids, Floats]:
        """Gives each user as many items as asked for, where it has them: ids and scores (B,width).

        Best first, each id once, the tail `PAD_ID` and -inf; every item passes the user's filters. What the
        user has seen or excludes may be among them: it is filtered later, and asked for in addition. A score
        is the inner product of the user's vector and the item's, whatever the item was chosen for, so that
        candidates of several sources can be compared. A user's candidates do not depend on the others.
        """
        ...


class NearestItems:
    """The items whose vectors are nearest to the user's."""

    def __init__(self, index: VectorIndex) -> None:
        self.index = index

    @property
    def is_whole(self) -> bool:
        """Whether the index holds every item."""
        return self.index.is_whole

    def candidates(self, users: Users, counts: Sequence[int], width: int) -> tuple[Ids, Floats]:
        """Searches the index."""
        return self.index.search(users.vectors, counts, users.filters, width)


def merge(found: Sequence[tuple[Ids, Floats]], width: int) -> tuple[Ids, Floats]:
    """Takes the candidates of several sources, each (B,width), gives those of all, (B,width): the best of
    each, then the second best of each, and so on; an item that several gave comes once, where it came first.
    """
    if len(found) == 1:
        return found[0]
    ids, scores = (
        np.stack(arrays, axis=2).reshape(len(arrays[0]), -1) for arrays in zip(*found, strict=True)
    )
    is_kept = np.zeros(ids.shape, dtype=np.bool_)
    for row, of_user in enumerate(ids):
        is_kept[row, np.unique(of_user, return_index=True)[1]] = True
    is_kept &= ids != PAD_ID
    order = np.argsort(~is_kept, axis=1, kind="stable")[:, :width]
    is_there = np.take_along_axis(is_kept, order, axis=1)
    merged_ids: npt.NDArray[np.int64] = np.where(is_there, np.take_along_axis(ids, order, axis=1), PAD_ID)
    merged_scores = np.where(is_there, np.take_along_axis(scores, order, axis=1), np.float32(-np.inf))
    return merged_ids, merged_scores
