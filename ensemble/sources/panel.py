"""All sources together: who is asked for whom, what becomes of one that fails, and what each says of all."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from contract.arrays import Bools, Floats, Ints, filled
from contract.candidates import Merge, unknown_shares
from contract.item_to_item import UNKNOWN
from ensemble.sources.nearest import NearestItems
from ensemble.sources.source import Source, Users
from ensemble.stores.catalogue import Catalogue

LOG = logging.getLogger(__name__)


@dataclass(eq=False)
class Found:
    """What was found for users (B). `lists` are what each source gave, (B,sources,R), best first, none longer
    than `depth`, `positions` (B,R) all of it merged; `queried` (B,sources) says who was asked for whom and
    did not fail, `failed` (B,1) has a bit for each source that did."""

    lists: Ints
    queried: Bools
    depth: int
    positions: Ints = field(init=False)
    failed: Ints = field(init=False)

    def __post_init__(self) -> None:
        self.positions, self.failed = self.lists[:, 0], np.zeros((len(self.lists), 1), dtype=np.int64)


class Panel:
    """The sources of a bundle, asked together.

    A user's candidates come from those that are for users; where items like another are wanted, from those
    that are for items, which take turns evenly: no share was chosen for them.
    """

    def __init__(
        self, sources: Sequence[Source], catalogue: Catalogue, of_unknown: Collection[str] = ()
    ) -> None:
        """Takes the sources that alone order users of whom nothing is known, by name, where there are such:
        they give these users' candidates."""
        self.sources, self.catalogue = tuple(sources), catalogue
        specs = [source.spec for source in self.sources]
        self._are_for_users = np.array([spec.is_for_users for spec in specs])
        self._are_for_items = np.array([spec.is_for_items for spec in specs])
        shares, shares_of_unknown = [spec.share for spec in specs], unknown_shares(specs, of_unknown)
        self._have_shares = np.array(shares) > 0
        self._have_shares_of_unknown = np.array(shares_of_unknown) > 0
        are_nearest = np.array([spec.kind == "nearest" for spec in specs])
        self.is_merged = len(specs) > 1 or not are_nearest.all()
        """Whether it is not the nearest items alone."""
        items = len(catalogue.item_ids)
        self._merge_users, self._merge_unknown = Merge(shares, items), Merge(shares_of_unknown, items)
        self._merge_like = Merge(self._are_for_items.tolist(), items)

    @property
    def is_whole(self) -> bool:
        """Whether every source can find every item now."""
        return all(source.is_whole for source in self.sources)

    def survives(self, positions: Ints, users: Users) -> Bools:
        """Marks what the filter will leave, (B,W)."""
        rows = np.arange(len(positions))[:, None]
        survives: Bools = users.eligible[rows, positions]
        return survives

    def ask(self, users: Users, counts: Sequence[int], width: int) -> Found:
        """Lets the sources that have a share list candidates, and the others where those do not find enough;
        gives R or more columns, `width`.

        Raises:
            Exception: as the first source raised it, where no source is left for anybody.
        """
        queried, depth = self._asked(users), min(max(counts), width)
        found = Found(filled((len(counts), len(self.sources), width), UNKNOWN), queried, depth)
        of_users = np.where(users.are_unknown[:, None], self._have_shares_of_unknown, self._have_shares)
        is_due = queried & (of_users | users.are_like[:, None])
        first = self._list(found, users, counts, is_due)
        if self.is_merged:
            lacks = self._merge(found, users)
            if (rest := queried & ~is_due & lacks[:, None]).any():
                first = self._list(found, users, counts, rest) or first
                self._merge(found, users)
        if first is not None and not queried.any():
            raise first
        return found

    def _list(self, found: Found, users: Users, counts: Sequence[int], is_due: Bools) -> Exception | None:
        """Lets each source list candidates for whom it `is_due`, (B,sources); gives why the first that failed
        did."""
        first: Exception | None = None
        for at, source in enumerate(self.sources):
            are_due = is_due[:, at]
            if not are_due.any():
                continue
            of_source = [count if is_so else 0 for count, is_so in zip(counts, are_due.tolist(), strict=True)]
            try:
                listed = source.candidates(users, of_source, found.depth)
            except Exception as error:  # whatever it is: the others answer
                first = first or error
                self._fail(found, at)
                continue
            np.copyto(found.lists[:, at, : found.depth], listed, where=are_due[:, None])
        return first

    def scores(self, found: Found, users: Users) -> tuple[Floats, Floats]:
        """Gives the vectors' score of each item (B,R), -inf where there is none, and what each source says of
        it, whoever retrieved it, (B,sources,R); 0 of a source that was not asked, or failed."""
        positions, rows = found.positions, len(found.positions)
        width = int((positions != UNKNOWN).sum(axis=1).max(initial=0))  # what stands behind is padding
        live = positions[:, :width]
        products = self.catalogue.products(users.vectors, live)
        vectors = filled(positions.shape, -np.inf, np.float32)
        np.copyto(vectors[:, :width], products, where=live != UNKNOWN)
        scores = np.zeros((rows, len(self.sources), positions.shape[1]), dtype=np.float32)
        for at, source in enumerate(self.sources):
            are_asked = found.queried[:, at]
            if not are_asked.any():
                continue
            try:
                of_source = products if isinstance(source, NearestItems) else source.scores(users, live)
            except Exception:  # as above
                self._fail(found, at)
                continue
            np.copyto(scores[:, at, :width], of_source, where=are_asked[:, None])
        return vectors, scores

    def _merge(self, found: Found, users: Users) -> Bools:
        """Merges what survives, each source's best `survivors`, and puts behind it what does not, so that it
        is told; says for whom that is less than is wanted, (B,)."""
        lists, width = found.lists[:, :, : found.depth], found.lists.shape[2]
        is_gone = (lists != UNKNOWN) & ~users.eligible[np.arange(len(lists))[:, None, None], lists]
        gone, ends = lists[is_gone], np.cumsum(is_gone.sum(axis=(1, 2))).tolist()
        of_sources = is_gone.any(axis=(0, 2)).nonzero()[0].tolist()
        best = lists.copy()
        for at in of_sources:
            best[:, at] = _moved_up(lists[:, at], ~is_gone[:, at])
        merged, start = filled((len(lists), width), UNKNOWN), 0
        lacks = np.zeros(len(lists), dtype=np.bool_)
        are_like, are_unknown = users.are_like.tolist(), users.are_unknown.tolist()
        for row, survivors in enumerate(users.survivors.tolist()):
            of_users = self._merge_unknown if are_unknown[row] else self._merge_users
            merge = self._merge_like if are_like[row] else of_users
            best_of_all = merge.merged(best[row, :, :survivors], min(survivors, width))
            merged[row, : len(best_of_all)] = best_of_all
            lacks[row] = best_of_all[-1] == UNKNOWN
            if start < ends[row]:
                removed = gone[start : ends[row]]
                if len(of_sources) > 1:
                    removed = np.array(list(dict.fromkeys(removed.tolist())))
                behind = int(best_of_all.argmin()) if lacks[row] else len(best_of_all)
                removed = removed[: width - behind]
                merged[row, behind : behind + len(removed)] = removed
            start = ends[row]
        found.positions = merged
        return lacks

    def _asked(self, users: Users) -> Bools:
        """Says which source is asked for whom, (B,sources)."""
        queried: Bools = np.where(users.are_like[:, None], self._are_for_items, self._are_for_users)
        return queried

    def _fail(self, found: Found, at: int) -> None:
        """Leaves a source out for those who asked it. To be called where it was caught."""
        LOG.warning("went on without the source %s", self.sources[at].spec.name, exc_info=True)
        found.failed[:, 0] |= found.queried[:, at].astype(np.int64) << at
        found.queried[:, at] = False


def _moved_up(positions: Ints, mask: Bools) -> Ints:
    """Takes lists (B,W), and what is kept of them; gives what is kept, in order, the tail `UNKNOWN`."""
    found = filled(positions.shape, UNKNOWN)
    rows, columns = np.nonzero(mask)
    places = np.cumsum(mask, axis=1)[rows, columns] - 1
    found[rows, places] = positions[rows, columns]
    return found
