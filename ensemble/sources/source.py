"""Where candidates come from: the protocol, and what a source is told of the users."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np

from contract import names
from contract.arrays import Array, Bools, Floats, Ids, Ints
from contract.bundle import SourceSpec
from contract.filters import Filters
from contract.ordering import known_items
from contract.tensors import PAD_ID


@dataclass(frozen=True)
class Users:
    """What is known of the users (B) who are to get candidates.

    `vectors` (B,D) are theirs; `features` the raw columns of the user views and of the context, (B,1) or for
    lists (B,S), each with its own null; `seen_item_ids` and `exclude_item_ids` are padded with `PAD_ID`, and
    `like_item_ids` (B,) are `PAD_ID` but where items like another are wanted instead. `survivors` (B,) says
    how many candidates are wanted that survive the filter.
    """

    vectors: Floats
    features: Mapping[str, Array]
    filters: Sequence[Filters]
    seen_item_ids: Ids
    exclude_item_ids: Ids
    like_item_ids: Ids
    survivors: Ints
    eligible_of: Callable[[Users], Bools]
    worked_out: dict[str, Any] = field(default_factory=dict)
    """What a source has computed for these users, by its name, so that it is computed once."""

    @cached_property
    def eligible(self) -> Bools:
        """The items that survive the filter, by position, (B,I+1), the last for `UNKNOWN`, which does not:
        available, neither seen nor excluded, and passing the user's filters; as far as is known, where the
        items were not read yet."""
        return self.eligible_of(self)

    @cached_property
    def are_like(self) -> Bools:
        """Whether items like another are wanted, (B,)."""
        are_like: Bools = self.like_item_ids != PAD_ID
        return are_like

    @cached_property
    def are_unknown(self) -> Bools:
        """Whether no recent item is known, of those who ask for themselves, (B,)."""
        recent = self.features.get(names.USER_RECENT_ITEM_IDS)
        if recent is None:
            return np.zeros(len(self.vectors), dtype=np.bool_)
        are_unknown: Bools = (known_items(recent)[:, 0] == 0) & ~self.are_like
        return are_unknown

    def some(self, rows: Sequence[int]) -> Users:
        """Gives the users in these rows alone."""
        at = np.asarray(rows, dtype=np.intp)
        return Users(
            self.vectors[at],
            {name: column[at] for name, column in self.features.items()},
            [self.filters[row] for row in rows],
            self.seen_item_ids[at],
            self.exclude_item_ids[at],
            self.like_item_ids[at],
            self.survivors[at],
            self.eligible_of,
        )


@runtime_checkable
class Source(Protocol):
    """Gives candidates for a batch of users, as positions in the catalogue."""

    @property
    def spec(self) -> SourceSpec:
        """Its name, its share and how it is asked."""
        ...

    @property
    def is_whole(self) -> bool:
        """Whether every item can be found now."""
        ...

    def candidates(self, users: Users, counts: Sequence[int], width: int) -> Ints:
        """Gives each user at most as many items as `counts` says, positions (B,width).

        Best first, each once, the tail `UNKNOWN`; every item passes the user's filters. What the user has
        seen or excludes may be among them: it is filtered later, and `counts` asks for it in addition; a
        source that leaves it out itself need give no more than `users.survivors`. A user's candidates do not
        depend on the others.
        """
        ...

    def scores(self, users: Users, positions: Ints) -> Floats:
        """Gives what it says of each of these items (B,R), whoever retrieved them; 0 for `UNKNOWN`, and of
        what it knows nothing."""
        ...
