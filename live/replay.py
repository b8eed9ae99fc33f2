"""What a bundle that did not serve would have done with the answers of a log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from contract.affinity import LISTS
from contract.arrays import Doubles, Ids, Ints
from contract.names import NULL_INT
from contract.shown import Shown
from contract.tensors import PAD_ID, plain_request
from ensemble.bundle import LoadedBundle
from ensemble.run.recommender import Recommender, redis_stores
from ensemble.settings import EnsembleSettings
from ensemble.stores.exact import ExactVectorIndex
from ensemble.stores.features import FeatureRows, FeatureStore, UserRows
from live.estimates import LoggedSlates, chances_of, means_of

AT_ONCE = 64
COLDEST = 1e-3
"""Temperature of a policy that does not explore: all but the best have next to no chance."""


@dataclass(frozen=True)
class LoggedAnswer:
    """An answer of the log: its note, the items that were clicked in it, and those that its user did
    something with from then on."""

    note: Shown
    clicked: frozenset[int]
    later: frozenset[int]

    @property
    def clicks(self) -> int:
        """How many of its items were clicked."""
        return len(self.clicked & set(self.note.item_ids))


class RewoundFeatures:
    """A feature store as it was: without what users did since. What is counted of them, and of the items, is
    as it is now."""

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self.later: Sequence[frozenset[int]] = ()
        """Of each user of the next reading, the items to leave out."""

    def read_users(self, user_ids: Ids) -> UserRows:
        """Reads users, and leaves items out of their lists."""
        rows = self._store.read_users(user_ids)
        if len(self.later) != len(user_ids):
            return rows
        columns = dict(rows.columns)
        for name in LISTS:
            if name in columns:
                columns[name] = _without(columns[name], self.later, NULL_INT)
        return replace(rows, columns=columns, seen_item_ids=_without(rows.seen_item_ids, self.later, PAD_ID))

    def read_items(self, item_ids: Ids) -> FeatureRows:
        """Reads items."""
        return self._store.read_items(item_ids)


class Replay:
    """Asks a bundle's chain for what it would have answered."""

    def __init__(self, recommender: Recommender, features: RewoundFeatures, temperature: float) -> None:
        self._recommender, self._features = recommender, features
        self._temperature = max(temperature, COLDEST)

    @classmethod
    def open(cls, folder: Path, settings: EnsembleSettings, timeout_ms: int) -> Replay:
        """Opens a bundle, which need not be indexed, then it knows no item that came live; the stores are
        those that serve.

        Raises:
            BundleError: it cannot be served.
            RedisError: Redis does not answer.
        """
        bundle = LoadedBundle.open(folder, settings.provider, settings.ort_threads)
        stores = redis_stores(bundle, settings.model_copy(update={"redis_timeout_ms": timeout_ms}))
        features = RewoundFeatures(stores.features)
        exact = ExactVectorIndex(bundle.item_ids, bundle.item_vectors)
        stores = replace(stores, features=features, vectors=exact, watch=None)
        stores.items.load()
        plain = settings.model_copy(update={"exploration_temperature": 0.0})
        recommender = Recommender(bundle, stores, plain)
        if stores.live is not None:
            stores.live.look(recommender.renew)
        return cls(recommender, features, settings.exploration_temperature)

    def logged(self, answers: Sequence[LoggedAnswer], places: int) -> LoggedSlates:
        """Takes answers of at least so many places, says what the bundle would have done."""
        parts = [
            self._some(answers[start : start + AT_ONCE], places) for start in range(0, len(answers), AT_ONCE)
        ]
        target, expected, of_place = (np.vstack(columns) for columns in zip(*parts, strict=True))
        clicks = np.array(
            [[item in one.clicked for item in one.note.item_ids[:places]] for one in answers], np.float64
        )
        # What the model expects is of an item that is looked at; what it gets by place, the log says.
        total = expected.sum(axis=0)
        looked_at = np.divide(clicks.sum(axis=0), total, out=np.ones(places), where=total > 0)
        return LoggedSlates(
            clicks=clicks,
            chances=np.array([one.note.chances[:places] for one in answers], np.float64),
            target=target,
            expected=expected * looked_at,
            expected_of_place=of_place * looked_at,
            owners=np.array([one.note.user_id for one in answers], np.int64),
        )

    def _some(self, answers: Sequence[LoggedAnswer], places: int) -> tuple[Doubles, Doubles, Doubles]:
        users = np.array([one.note.user_id for one in answers], np.int64)
        request = plain_request(users, places, context := self._recommender.bundle.manifest.context)
        for row, one in enumerate(answers):
            for name, value in (one.note.context or {}).items():
                if name in context:
                    request[name][row] = value
        self._features.later = [one.later for one in answers]
        table = self._recommender.run(request)
        scores = np.where(table["candidate_mask"], table["order_scores"], 0.0).astype(np.float64)
        weights = np.log(np.maximum(scores, 1e-12)) / self._temperature
        weights[~table["candidate_mask"]] = -np.inf
        weights[~table["candidate_mask"].any(axis=1), 0] = 0.0  # of nobody: nothing is shown
        shown = _places_of(table["candidate_ids"], [one.note.item_ids[:places] for one in answers])
        expected = np.where(shown >= 0, np.take_along_axis(scores, np.maximum(shown, 0), axis=1), 0.0)
        return chances_of(weights, shown), expected, means_of(weights, places, scores)


def _places_of(candidates: Ids, slates: Sequence[Sequence[int]]) -> Ints:
    """Finds the candidate (B,K) of each item of slates (B,L); -1 where it is none."""
    found = np.full((len(slates), len(slates[0])), -1)
    for row, (mine, slate) in enumerate(zip(candidates.tolist(), slates, strict=True)):
        at = {item: place for place, item in enumerate(mine) if item != PAD_ID}
        found[row] = [at.get(item, -1) for item in slate]
    return found


def _without(lists: Ids, later: Sequence[frozenset[int]], null: int) -> Ids:
    """Leaves items out of lists (B,S), whose tail is null."""
    remaining = lists.copy()
    for row, gone in enumerate(later):
        if gone:
            mine = [item for item in lists[row].tolist() if item not in gone]
            remaining[row] = [*mine, *[null] * (lists.shape[1] - len(mine))]
    return remaining
