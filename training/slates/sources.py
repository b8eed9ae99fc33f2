"""The sources of candidates beside the vectors: fitted, asked as the ensemble asks them, and written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np

from contract import names
from contract.arrays import Floats, Ints
from contract.bundle import NEAREST, SourceSpec
from contract.candidates import Merge, best_first, nearest_first, reached
from contract.dataset import ANY
from contract.item_to_item import UNKNOWN, ItemToItem, Reached
from training.baselines.recent_popularity import RecentPopularity
from training.data.prepared import Prepared
from training.examples.sequences import Sequences
from training.examples.split import HeldOut, interaction_matrix, is_before, is_positive
from training.item_to_item.of_values import of_values
from training.item_to_item.similar import similar
from training.item_to_item.transitions import transitions
from training.slates.search import retrieve

FOLLOWED, SIMILAR, POPULAR, CATEGORIES = "followed", "similar", "popular", "categories"
NEWEST = 50
DECAYS = {FOLLOWED: 0.8, CATEGORIES: 0.95}
"""These are asked with so many of a user's newest items, each counting so much against the next newer."""


@dataclass(frozen=True)
class SourceForm:
    """What is to be chosen of a source: which interactions it learns from and, for what is popular, how fast
    it forgets."""

    name: str
    label: str = ANY
    half_life: float = 1.0
    """As a share of the time that the train part's timed rows span."""


@dataclass(frozen=True, eq=False)
class FittedSource:
    """A source, and what it knows: a table, or the items' scores (I,)."""

    form: SourceForm
    spec: SourceSpec
    table: ItemToItem | None = None
    item_scores: Floats | None = None

    def with_share(self, share: float) -> FittedSource:
        """Gives the same, with another share of the candidates."""
        return replace(self, spec=self.spec.model_copy(update={"share": share}))

    def score(self, histories: Mapping[str, Ints], items: int) -> Floats:
        """Scores the whole catalogue (I,) for a user, by whose lists of positions (H,), newest first."""
        if self.table is None:
            return self.of(histories, np.arange(items))
        found, scores = self._reached(histories), np.zeros(items, dtype=np.float32)
        scores[found.positions] = found.scores
        return scores

    def of(self, histories: Mapping[str, Ints], positions: Ints) -> Floats:
        """Scores some positions for such a user."""
        if self.table is not None:
            return self._reached(histories).of(positions)
        assert self.item_scores is not None
        return self.item_scores[positions]

    def best(
        self, histories: Mapping[str, Ints], seen: Ints, towards: Floats, vectors: Floats, count: int
    ) -> Ints:
        """Gives a user's `count` best positions without those seen; the user's vector is (D,), the
        catalogue's are (I,D)."""
        if self.spec.kind == "new":
            assert self.item_scores is not None
            listed = np.flatnonzero(self.item_scores)
            return listed[nearest_first(vectors[listed], towards, ~np.isin(listed, seen), count)]
        scores = self.score(histories, len(vectors)).copy()
        scores[seen] = 0
        return best_first(scores, count)

    def _reached(self, histories: Mapping[str, Ints]) -> Reached:
        assert self.table is not None
        return reached(self.table, histories[str(self.spec.history)], self.spec)

    def save(self, folder: Path) -> None:
        """Writes what the source knows as its file of a bundle."""
        if self.table is not None:
            self.table.save(folder / str(self.spec.file))
        elif self.item_scores is not None:
            np.save(folder / str(self.spec.file), self.item_scores)


def fit_source(prepared: Prepared, form: SourceForm, until: datetime) -> FittedSource:
    """Fits a source on what happened before an instant."""
    if form.name == POPULAR:
        spec = SourceSpec(name=POPULAR, kind="popular", share=0, file=f"{POPULAR}.npy")
        return FittedSource(form, spec, item_scores=popularity(prepared, form, until))
    is_positive_alone = form.label != ANY
    history = names.USER_RECENT_POSITIVE_ITEM_IDS if is_positive_alone else names.USER_RECENT_ITEM_IDS
    decay = DECAYS.get(form.name)
    shape = {"newest": NEWEST, "decay": decay, "normalisation": "weights"} if decay else {}
    spec = SourceSpec(
        name=form.name,
        kind="item_to_item",
        share=0,
        file=f"{form.name}.npy",
        history=history,
        of_items=form.name == SIMILAR,
        **shape,
    )
    if form.name == FOLLOWED:
        return FittedSource(form, spec, transitions(Sequences.of(prepared, until, form.label)))
    if form.name == CATEGORIES:
        columns = [prepared.items[name] for name in prepared.dataset.affinity]
        counts = np.expm1(popularity(prepared, form, until))
        return FittedSource(form, spec, of_values(columns, counts))
    return FittedSource(
        form, spec, similar(interaction_matrix(prepared, is_before(prepared, until), form.label))
    )


def fitted_again(prepared: Prepared, source: FittedSource, until: datetime) -> FittedSource:
    """Fits the same on what happened before another instant; which items are new, the vectors decide."""
    if source.spec.kind == "new":
        return source
    return fit_source(prepared, source.form, until).with_share(source.spec.share)


def popularity(prepared: Prepared, form: SourceForm, until: datetime) -> Floats:
    """Gives each item the logarithm of 1 and its interactions before an instant, which fade, (I,).

    Those of histories count where no other is known.
    """
    counted = is_before(prepared, until) & is_positive(prepared, form.label)
    is_timed = prepared.interactions[prepared.dataset.timestamp].notna().to_numpy()
    item_ids = prepared.items[names.ITEM_ID].to_numpy(np.int64)
    counted &= np.isin(prepared.interactions[names.ITEM_ID].to_numpy(np.int64), item_ids)
    if (counted & is_timed).any():
        counted &= is_timed
    model = RecentPopularity.of(prepared, counted, form.half_life, until)
    return np.log1p(model.counts)


@dataclass(frozen=True, eq=False)
class RecentLists:
    """Every user's lists of recent items as positions in the catalogue, as they are stored at an instant."""

    sequences: Mapping[str, Sequences]
    most: int

    @classmethod
    def of(cls, prepared: Prepared, instant: datetime) -> RecentLists:
        """Makes both lists."""
        target = prepared.dataset.target
        of_label = {names.USER_RECENT_ITEM_IDS: ANY, names.USER_RECENT_POSITIVE_ITEM_IDS: target}
        most = prepared.dataset.user_activity_stored[names.USER_RECENT_ITEM_IDS].max_length
        sequences = {name: Sequences.of(prepared, instant, label) for name, label in of_label.items()}
        return cls(sequences, most)

    def of_user(self, row: int) -> dict[str, Ints]:
        """Gives the lists of a row of `all_user_ids`, (H,) each, newest first."""
        lists = {}
        for name, of_all in self.sequences.items():
            start, stop = np.searchsorted(of_all.users, [row, row + 1])
            lists[name] = of_all.items[max(start, stop - self.most) : stop][::-1]
        return lists


@dataclass(frozen=True, eq=False)
class SourceLists:
    """What each source gives users (U), the vectors first: unseen positions (U,S,K), best first, `UNKNOWN` in
    the tail."""

    positions: Ints
    items: int

    def merged(self, shares: Sequence[float]) -> Ints:
        """Merges them by the shares of the sources beside the vectors, which have the rest; (U,K)."""
        merge = Merge([max(1 - sum(shares), 0.0), *shares], self.items)
        users, _, k = self.positions.shape
        found = np.full((users, k), UNKNOWN, dtype=np.int64)
        for row, of_user in enumerate(self.positions):
            found[row] = merge.merged(of_user, k)
        return found


def lists_of(
    sources: Sequence[FittedSource],
    lists: RecentLists,
    held: HeldOut,
    vectors: tuple[Floats, Floats],
    k: int,
) -> SourceLists:
    """Asks each source for `k` items that held-out users have not seen, of whom the vectors are (U,D), the
    catalogue's (I,D)."""
    items = len(vectors[1])
    k = min(k, items)
    positions = np.full((len(held.user_rows), len(sources) + 1, k), UNKNOWN, dtype=np.int64)
    if len(positions):
        positions[:, 0] = retrieve(held, *vectors, k)
    for at, row in enumerate(held.user_rows.tolist()):
        of_user = lists.of_user(row)
        seen = held.seen.indices[held.seen.indptr[at] : held.seen.indptr[at + 1]]
        for place, source in enumerate(sources, start=1):
            best = source.best(of_user, seen, vectors[0][at], vectors[1], k)
            positions[at, place, : len(best)] = best
    return SourceLists(positions, items)


def scores_of(
    sources: Sequence[FittedSource], lists: RecentLists, held: HeldOut, candidates: Ints
) -> dict[str, Floats]:
    """Says what each source says of held-out users' candidates (U,K), whoever gave them; 0 in the tail."""
    scores = {one.spec.name: np.zeros(candidates.shape, dtype=np.float32) for one in sources}
    for at, row in enumerate(held.user_rows.tolist()):
        of_user, live = lists.of_user(row), candidates[at] != UNKNOWN
        for one in sources:
            scores[one.spec.name][at, live] = one.of(of_user, candidates[at, live])
    return scores


def specs(sources: Sequence[FittedSource]) -> tuple[SourceSpec, ...]:
    """Names all sources of a bundle, the vectors first with what share remains."""
    rest = max(0.0, 1 - sum(one.spec.share for one in sources))
    return (NEAREST.model_copy(update={"share": rest}), *(one.spec for one in sources))
