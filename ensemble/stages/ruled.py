"""The rules of the order as the chain keeps them: what is asked for a user, and the slate that follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from contract.arrays import Array, Floats, Ids
from contract.bundle import Manifest
from contract.filters import Filters, decode_filters
from contract.ordering import unranked_scores
from contract.rules.attributes import ItemAttributes
from contract.rules.boosts import Boosted, boosted, factors
from contract.rules.diversity import Likeness, relevance
from contract.rules.order_rules import CheckedRules, check_defaults, check_rules, decode_rules, merged
from contract.rules.places import BIT, CappedColumn, Exploration, Mover, SharedPlaces, Wishes, fill_places
from contract.rules.shares import places_due
from contract.tensors import PAD_ID
from ensemble.settings import EnsembleSettings
from ensemble.stages.lookup import SEEN_ITEM_IDS
from ensemble.stages.offer import Offers
from ensemble.stores.items import ItemTable


@dataclass(frozen=True)
class RuledSlate:
    """One user's slate: ids, scores and chances of its places, `n` or fewer. Of each candidate (K,) its place
    by score alone, from 1, 0 for none, and what moved it, a bit mask of `Mover`; and whether a cap is
    broken."""

    item_ids: Ids
    item_scores: Floats
    chances: Floats
    plain_places: npt.NDArray[np.int64]
    moved_by: npt.NDArray[np.int8]
    breaks_cap: bool


class RuledOrder:
    """Keeps the rules of the settings and of requests, for one user at a time: the candidates are few, and
    each place depends on those before it."""

    def __init__(
        self,
        settings: EnsembleSettings,
        manifest: Manifest,
        offers: Offers,
        items: ItemTable,
    ) -> None:
        """Takes the settings' rules, what there is to retrieve, and what is known of the items.

        Raises:
            BundleError: a rule of the settings names what this bundle does not have.
        """
        self.defaults, self.temperature = settings.order, settings.exploration_temperature
        self.manifest, self.offers, self.items = manifest, offers, items
        self.has_defaults = not check_defaults(self.defaults, manifest).is_none
        self._asked = lru_cache(maxsize=1024)(self._read)

    def users(self, rules: npt.NDArray[np.uint8]) -> list[int]:
        """Lists the users, of (B,P), for whom there may be rules."""
        if self.has_defaults:
            return list(range(len(rules)))
        return np.nonzero(rules.any(axis=1))[0].tolist() if rules.any() else []

    def slate(self, user: Mapping[str, Array], scores: Floats) -> RuledSlate | None:
        """Takes the tensors of one user, each (width,), and the scores of the candidates (K,), in [-1,1] for
        items like another, else in [0,1]; None where no rule counts."""
        rules, shown = self._asked(user["rules"].tobytes())
        if rules.is_none:
            return None
        return _User(self, rules, shown, user, scores).slate()

    def _read(self, data: bytes) -> tuple[CheckedRules, int]:
        row = np.frombuffer(data, dtype=np.uint8)
        rules, shown = decode_rules(row, self.manifest.filters, self.manifest.item_id_dtype)
        whole = merged(rules, self.defaults)
        return check_rules(whole, self.manifest.filters, self.manifest.item_id_dtype), shown


class _User:
    """One user's candidates, best first by score alone, while the rules are kept."""

    def __init__(
        self, order: RuledOrder, rules: CheckedRules, shown: int, user: Mapping[str, Array], scores: Floats
    ) -> None:
        self.ruled, self.rules, self.shown, self.user, self.scores = order, rules, shown, user, scores
        self.offer = order.offers.current
        self.positions = self.offer.catalogue.positions
        self.is_like = bool(user["like_item_id"][0] != PAD_ID)
        live = (user["candidate_mask"] & np.isfinite(scores)).nonzero()[0]
        self.live = live[np.argsort(-scores[live], kind="stable")]

    def slate(self) -> RuledSlate:
        """Fills the places."""
        user, live = self.user, self.live
        rows = self.positions.rows_of(user["candidate_ids"][live])
        times = factors(self.rules.boosts, self.attributes, rows) if self.rules.boosts else None
        boosts = boosted(self._chances(), times)
        ids = user["candidate_ids"][live[boosts.order]]
        pins, extra = self._pins(ids.tolist())
        rows = rows[boosts.order]
        if len(extra):
            rows = np.append(rows, self.positions.rows_of(extra))
        placed = fill_places(self._wishes(boosts, rows, pins))
        ids, scores = np.append(ids, extra), np.append(self.scores[live[boosts.order]], self._scores(extra))
        moved_by = np.zeros(len(self.scores), dtype=np.int8)
        moved_by[live[boosts.order]] = placed.moved_by[: len(live)]
        moved_by[live[boosts.is_moved]] |= BIT[Mover.BOOST]
        plain_places = np.zeros(len(self.scores), dtype=np.int64)
        plain_places[live] = np.arange(1, len(live) + 1)
        return RuledSlate(
            ids[placed.order],
            scores[placed.order].astype(np.float32),
            np.array(placed.chances, dtype=np.float32),
            plain_places,
            moved_by,
            placed.breaks_cap,
        )

    @property
    def attributes(self) -> ItemAttributes:
        """What the catalogue's items hold; the last row is no item."""
        return self.offer.attributes

    def _chances(self) -> npt.NDArray[np.float64]:
        scores = self.scores[self.live].astype(np.float64)
        return ((1 + scores) / 2 if self.is_like else scores).clip(0, 1)

    def _pins(self, candidates: list[int]) -> tuple[dict[int, int], Ids]:
        """Gives the candidate of each place, from 0 on this page, and the items that are no candidates and
        may be shown all the same: they stand behind the candidates."""
        pins: dict[int, int] = {}
        extra: list[int] = []
        for place, item_id in self.rules.pins:
            if place <= self.shown:
                continue
            if item_id in candidates:
                pins[place - self.shown - 1] = candidates.index(item_id)
            elif self._may_be_shown(item_id):
                pins[place - self.shown - 1] = len(candidates) + len(extra)
                extra.append(item_id)
        return pins, np.array(extra, dtype=np.int64)

    def _may_be_shown(self, item_id: int) -> bool:
        """Whether the filter would have kept the item, had it been retrieved."""
        ids, user, items = np.array([item_id]), self.user, self.ruled.items.snapshot
        row, gone = self.positions.rows_of(ids), (SEEN_ITEM_IDS, "exclude_item_ids")
        if (
            row[0] == len(self.positions)
            or not items.is_available[items.rows_of(ids)][0]
            or any((user[one] == item_id).any() for one in gone)
        ):
            return False
        filters = decode_filters(user["filters"], self.ruled.manifest.filters)
        return not filters or bool(self.attributes.passing(filters)[row[0]])

    def _scores(self, item_ids: Ids) -> Floats:
        """What the retrieval alone says of items that are no candidates."""
        if not len(item_ids):
            return np.empty(0, dtype=np.float32)
        products = self.offer.catalogue.scores(item_ids, self.user["user_vector"])
        return products if self.is_like else unranked_scores(products)

    def _wishes(self, boosts: Boosted, rows: Array, pins: dict[int, int]) -> Wishes:
        rules, ruled, places = self.rules, self.ruled, int(self.user["n"][0])
        values, scale = boosts.values, ruled.temperature
        before = self._shown_rows()
        likeness = None
        if rules.diversity:
            ahead, width = relevance(values[: boosts.buried])
            behind, _ = relevance(values[boosts.buried :])
            values = (1 - rules.diversity) * np.append(ahead, behind)
            scale *= (1 - rules.diversity) / width
            likeness = Likeness(self._vectors(rows), self._vectors(before))
        exploration = None
        if ruled.temperature:
            exploration = Exploration(scale, np.random.default_rng(abs(int(self.user["seed"][0]))))
        return Wishes(
            np.append(values, np.zeros(len(rows) - len(values))) if pins else values,
            places,
            boosts.buried,
            len(values),
            pins,
            [CappedColumn.of(cap, self.attributes, rows, before) for cap in rules.caps],
            [self._shared(filters, share, rows, places) for filters, share in rules.shares],
            rules.diversity,
            likeness,
            exploration,
        )

    def _shared(self, filters: Filters | None, share: float, rows: Array, places: int) -> SharedPlaces:
        user_id = int(self.user["user_id"][0])
        members = self.offer.is_new[rows] if filters is None else self.attributes.passing(filters)[rows]
        seed = int(self.user["seed"][0]) if user_id == PAD_ID else user_id
        return SharedPlaces(members.tolist(), places_due(share, seed, self.shown, places))

    def _shown_rows(self) -> Array:
        """The rows of the items that the pages before this one showed: the last that are excluded."""
        if not self.shown:
            return np.empty(0, dtype=np.intp)
        excluded = self.user["exclude_item_ids"]
        return self.positions.rows_of(excluded[excluded != PAD_ID][-self.shown :])

    def _vectors(self, rows: Array) -> Floats:
        """The items' own vectors, without the prior; zeros for no item."""
        is_item = rows < len(self.positions)
        found: Floats = self.offer.catalogue.vectors_of(rows)[:, :-1]
        return found if is_item.all() else found * is_item[:, None]
