"""All sources together: who is asked for whom, what becomes of one that fails, and what each says of all."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from contract.arrays import Bools, Floats, Ints
from contract.candidates import Merge
from contract.item_to_item import UNKNOWN
from ensemble.sources.nearest import NearestItems
from ensemble.sources.source import Source, Users
from ensemble.stores.vectors import Catalogue

LOG = logging.getLogger(__name__)


@dataclass
class Found:
    """Candidates of users (B): positions (B,R) of all, and what each source gave, (B,sources,R), best first.
    `failed` has a bit for each source that failed."""

    positions: Ints
    lists: Ints
    failed: int = 0


class Panel:
    """The sources of a bundle, asked together.

    A user's candidates come from those that are for users; where items like another are wanted, from those
    that are for items: of such, the nearest have what share the others leave.
    """

    def __init__(self, sources: Sequence[Source], catalogue: Catalogue) -> None:
        self.sources, self.catalogue = tuple(sources), catalogue
        specs = [source.spec for source in self.sources]
        self._are_for_users = np.array([spec.is_for_users for spec in specs])
        self._are_for_items = np.array([spec.is_for_items for spec in specs])
        are_nearest = np.array([spec.kind == "nearest" for spec in specs])
        self.is_merged = len(specs) > 1 or not are_nearest.all()
        """Whether it is not the nearest items alone."""
        shares = np.array([spec.share for spec in specs])
        of_like = np.where(self._are_for_items & ~are_nearest, shares, 0.0)
        of_like[are_nearest] = max(1 - of_like.sum(), 0.0)
        items = len(catalogue.item_ids)
        self._merge_users, self._merge_like = Merge(shares.tolist(), items), Merge(of_like.tolist(), items)

    @property
    def is_whole(self) -> bool:
        """Whether every source can find every item now."""
        return all(source.is_whole for source in self.sources)

    def survives(self, positions: Ints, users: Users) -> Bools:
        """Marks what the filter will leave, (B,W)."""
        rows = np.arange(len(positions))[:, None]
        survives: Bools = users.eligible[rows, positions] & (positions != UNKNOWN)
        return survives

    def ask(self, users: Users, counts: Sequence[int], width: int) -> Found:
        """Asks every source that has something to say; gives R or more columns, `width`.

        Raises:
            Exception: as the first source raised it, where no source is left for anybody.
        """
        lists = np.full((len(counts), len(self.sources), width), UNKNOWN, dtype=np.int64)
        asked = self._asked(users)
        failed, first = 0, None
        for at, source in enumerate(self.sources):
            of_source = np.where(asked[:, at], counts, 0)
            if not of_source.any():
                continue
            try:
                lists[:, at] = source.candidates(users, of_source.tolist(), width)
            except Exception as error:  # whatever it is: the others answer
                first = first or error
                failed |= self._fail(at)
        if first is not None and not (asked & ~self._bits(failed)).any():
            raise first
        if not self.is_merged:
            return Found(lists[:, 0], lists, failed)
        return Found(self._merged(lists, users, width), lists, failed)

    def scores(self, found: Found, users: Users) -> tuple[Floats, Floats]:
        """Gives the vectors' score of each item (B,R), -inf where there is none, and what each source says of
        it, whoever retrieved it, (B,sources,R); 0 of a source that was not asked, or failed."""
        positions = found.positions
        width = int((positions != UNKNOWN).sum(axis=1).max(initial=0))  # what stands behind is padding
        live = positions[:, :width]
        scores = np.zeros((len(positions), len(self.sources), positions.shape[1]), dtype=np.float32)
        vectors = np.full(positions.shape, -np.inf, dtype=np.float32)
        products = self.catalogue.products(users.vectors, live)
        vectors[:, :width] = np.where(live != UNKNOWN, products, np.float32(-np.inf))
        asked = self._asked(users) & ~self._bits(found.failed)
        for at, source in enumerate(self.sources):
            if isinstance(source, NearestItems):
                scores[:, at, :width] = np.where(asked[:, at, None], products, np.float32(0))
            elif asked[:, at].any():
                try:
                    of_source = source.scores(users, live)
                except Exception:  # as above
                    found.failed |= self._fail(at)
                    continue
                scores[:, at, :width] = np.where(asked[:, at, None], of_source, np.float32(0))
        return vectors, scores

    def failed_of(self, found: Found, users: Users) -> Ints:
        """Gives for each user a bit per source that was asked and failed, (B,1)."""
        bits = np.where(self._asked(users), 1 << np.arange(len(self.sources)), 0)
        failed: Ints = bits.sum(axis=1, dtype=np.int64, keepdims=True) & found.failed
        return failed

    def _merged(self, lists: Ints, users: Users, width: int) -> Ints:
        """Merges what survives, each source's best `kept`, and puts behind it what does not, so that it is
        told."""
        survives = users.eligible[np.arange(len(lists))[:, None, None], lists] & (lists != UNKNOWN)
        merged = np.full((len(lists), width), UNKNOWN, dtype=np.int64)
        for row, is_like in enumerate(users.are_like.tolist()):
            kept = int(users.kept[row])
            best = np.full((len(self.sources), kept), UNKNOWN, dtype=np.int64)
            for at, of_source in enumerate(lists[row]):
                first = of_source[survives[row, at]][:kept]
                best[at, : len(first)] = first
            merge = self._merge_like if is_like else self._merge_users
            found = merge.merged(best, min(kept, width))
            found = found[found != UNKNOWN]
            merged[row, : len(found)] = found
            gone = lists[row][~survives[row] & (lists[row] != UNKNOWN)]
            if len(gone):
                gone = gone[np.sort(np.unique(gone, return_index=True)[1])][: width - len(found)]
                merged[row, len(found) : len(found) + len(gone)] = gone
        return merged

    def _asked(self, users: Users) -> Bools:
        """Says which source is asked for whom, (B,sources)."""
        are_like = users.are_like[:, None]
        asked: Bools = np.where(are_like, self._are_for_items, self._are_for_users)
        return asked

    def _bits(self, failed: int) -> Bools:
        return np.array([bool(failed >> at & 1) for at in range(len(self.sources))])

    def _fail(self, at: int) -> int:
        LOG.warning("went on without the source %s", self.sources[at].spec.name, exc_info=True)
        return 1 << at
