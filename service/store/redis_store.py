"""The store that serves: Redis, as the materialisation, the bundle's publication and batch runs wrote it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from copy import copy
from typing import Generic, TypeVar

import structlog

from contract.bundle import Manifest
from contract.environment import RedisUrl
from contract.feast import AVAILABILITY_FIELD, UNAVAILABLE, feature_key
from contract.filters import Filters, passes
from contract.ids import OwnId
from contract.keys import (
    batch_key,
    decode_card,
    decode_seen,
    decode_tags,
    gateways_key,
    item_card_key,
    item_vector_key,
    live_changes_key,
    live_items_key,
    live_version_key,
    materialized_at_key,
    routing_key,
    seen_key,
    shown_key,
    slate_key,
    watched_key,
)
from contract.names import ITEM_ID
from contract.routing import REPLACE, GatewayReport
from contract.shown import Shown
from contract.slates import Published, StoredSlate
from contract.watched import Watched
from service.failures import DependencyUnavailable
from service.limits.deadline import Clock
from service.settings import Settings
from service.store.redis_reader import REDIS, RedisReader
from service.store.store import Card

log = structlog.get_logger()

V = TypeVar("V")

POINTER_S, AVAILABILITY_S = 1.0, 5.0
SHOWN_KEPT = 500_000


class Cache(Generic[V]):
    """What was read lately, by id: a bounded dict whose entries age; beyond the bound the oldest go.

    No entry is moved when it is read: a dict remembers the order in which keys came, and that is enough.
    """

    def __init__(self, most: int, seconds: float = math.inf, clock: Clock = time.monotonic) -> None:
        self._most, self._seconds, self._clock = most, seconds, clock
        self._held: dict[int, tuple[float, V]] = {}

    def empty(self) -> Cache[V]:
        """Makes another of the same bounds."""
        return Cache(self._most, self._seconds, self._clock)

    def get(self, ids: Iterable[int]) -> dict[int, V]:
        """Gives those that are held and not too old, in the order of the ids."""
        held, since_s = self._held, self._clock() - self._seconds
        found = {}
        for one in ids:
            entry = held.get(one)
            if entry is not None and entry[0] > since_s:
                found[one] = entry[1]
        return found

    def put(self, values: Mapping[int, V]) -> None:
        """Keeps these, from now on."""
        held, now_s = self._held, self._clock()
        for one, value in values.items():
            held.pop(one, None)  # so that it comes last
            held[one] = (now_s, value)
        while len(held) > self._most:
            del held[next(iter(held))]

    def drop(self, ids: Iterable[int]) -> None:
        """Holds these no more."""
        for one in ids:
            self._held.pop(one, None)


class RedisStore:
    """Reads over one reader, in one round trip each.

    Kept in this process are cards, which never change within a bundle, for `pointer_s` seconds which run is
    read, and for `availability_s` whether an item is available.
    """

    def __init__(
        self,
        url: RedisUrl,
        bundle: str,
        timeout_s: float,
        kept_cards: int,
        *,
        dataset: str,
        pointer_s: float = POINTER_S,
        availability_s: float = AVAILABILITY_S,
        shown_kept: int = SHOWN_KEPT,
        clock: Clock = time.monotonic,
    ) -> None:
        """Takes the bundle whose cards and columns are read, and the data set."""
        self._bundle, self._dataset, self._shown_kept = bundle, dataset, shown_kept
        self._reader = RedisReader(url, timeout_s)
        self._cards = Cache[Card](kept_cards)
        self._is_unavailable = Cache[bool](kept_cards, availability_s, clock)
        self._has_rows = Cache[bool](1, availability_s, clock)
        self._pointer = Cache[Published](1, pointer_s, clock)
        self.circuit = self._reader.circuit

    @classmethod
    def of(cls, manifest: Manifest, settings: Settings) -> RedisStore:
        """The store of one bundle, as the settings say."""
        return cls(
            settings.redis_url,
            manifest.bundle,
            settings.store_timeout_ms / 1000,
            settings.kept_cards,
            dataset=manifest.dataset,
            pointer_s=settings.pointer_ms / 1000,
            availability_s=settings.availability_ms / 1000,
            shown_kept=settings.shown_kept,
        )

    async def open(self) -> None:
        """Makes the client; it connects when needed."""
        await self._reader.open()

    async def close(self) -> None:
        """Closes all connections."""
        await self._reader.close()

    async def seen(self, user_id: int, timeout_s: float) -> list[int]:
        """Reads one key."""
        key = seen_key(self._dataset, user_id)
        (value,) = await self._reader.get([key], timeout_s)
        return _decode_seen(key, value)

    async def cards(self, item_ids: Sequence[int], timeout_s: float) -> dict[int, Card]:
        """Reads in one MGET the cards that are not at hand."""
        found = self._cards.get(item_ids)
        missing = [item_id for item_id in item_ids if item_id not in found]
        if not missing:
            return found
        keys = [item_card_key(self._bundle, item_id) for item_id in missing]
        values = await self._reader.get(keys, timeout_s)
        read = {}
        for item_id, key, value in zip(missing, keys, values, strict=True):
            try:
                if value is not None:
                    read[item_id] = decode_card(value)
            except ValueError as error:
                raise _damaged(key, error) from None
        self._cards.put(read)
        return found | read

    async def published(self, timeout_s: float) -> Published:
        """Reads the pointer, unless that was done a moment ago."""
        cached = self._pointer.get((0,))
        if cached:
            return cached[0]
        key = batch_key(self._dataset)
        (value,) = await self._reader.get([key], timeout_s)
        try:
            published = Published.decode(value)
        except ValueError as error:
            raise _damaged(key, error) from None
        self._pointer.put({0: published})
        return published

    async def stored(
        self, runs: Sequence[str], user_id: int, timeout_s: float
    ) -> tuple[StoredSlate | None, list[int]]:
        """Reads the user's key in every run, and what was seen, in one MGET."""
        keys = [slate_key(run, user_id) for run in runs]
        keys.append(seen_key(self._dataset, user_id))
        *values, seen = await self._reader.get(keys, timeout_s)
        slate = None
        for key, value in zip(keys, values, strict=False):
            if value is not None:
                try:
                    slate = StoredSlate.decode(value)
                except ValueError as error:
                    raise _damaged(key, error) from None
                break
        return slate, _decode_seen(keys[-1], seen)

    async def unavailable(self, item_ids: Sequence[int], timeout_s: float) -> set[int]:
        """Reads in one pipeline the items that were not looked at a few seconds ago.

        An item without a row is not available either: it was removed. Where, as far as was seen of late, no
        item has a row, Redis was emptied, and that tells nothing.
        """
        known = self._is_unavailable.get(item_ids)
        unknown = [item_id for item_id in item_ids if item_id not in known]
        if unknown:
            field, dataset = AVAILABILITY_FIELD, self._dataset
            hashes = [(feature_key("item_id", item_id, dataset), field) for item_id in unknown]
            replies = await self._reader.get_fields(hashes, timeout_s)
            values = [value for (value,) in replies]
            if any(value is not None for value in values):
                self._has_rows.put({0: True})
            gone = (UNAVAILABLE, None) if self._has_rows.get((0,)) else (UNAVAILABLE,)
            read = {item_id: value in gone for item_id, value in zip(unknown, values, strict=True)}
            self._is_unavailable.put(read)
            known |= read
        return {item_id for item_id, is_unavailable in known.items() if is_unavailable}

    async def passing(self, item_ids: Sequence[int], filters: Filters, timeout_s: float) -> set[int]:
        """Compares what `held` reads."""
        held = await self.held(item_ids, tuple(filters), timeout_s)
        return {item_id for item_id, values in held.items() if passes(filters, values)}

    async def held(
        self, item_ids: Sequence[int], columns: Sequence[str], timeout_s: float
    ) -> dict[int, Mapping[str, AbstractSet[str]]]:
        """Reads in one pipeline the columns as the bundle's index holds them."""
        keys = [item_vector_key(self._bundle, item_id) for item_id in item_ids]
        hashes = [(key, *columns) for key in keys]
        replies = await self._reader.get_fields(hashes, timeout_s) if hashes else []
        held: dict[int, Mapping[str, AbstractSet[str]]] = {}
        for item_id, key, values in zip(item_ids, keys, replies, strict=True):
            try:
                pairs = zip(columns, values, strict=True)
                held[item_id] = {column: decode_tags(tags) for column, tags in pairs if tags is not None}
            except ValueError as error:
                raise _damaged(key, error) from None
        return held

    async def materialized_at(self, timeout_s: float) -> float:
        """Reads one key."""
        key = materialized_at_key(self._dataset)
        (value,) = await self._reader.get([key], timeout_s)
        try:
            return math.nan if value is None else float(value)
        except ValueError as error:
            raise _damaged(key, error) from None

    async def live_items(self, since: int, timeout_s: float) -> tuple[int, dict[int, OwnId | None]]:
        """Reads one key, and where it rose, which items changed and their rows."""
        key = live_version_key(self._dataset)
        (value,) = await self._reader.get([key], timeout_s)
        version = int(value or 0)
        if version == since:
            return version, {}
        since = since if version > since else 0  # Redis was emptied
        changes, items = live_changes_key(self._dataset), live_items_key(self._dataset)
        changed = await self._reader.between(changes, since, version, timeout_s)
        (rows,) = await self._reader.get_fields([(items, *changed)], timeout_s) if changed else ([],)
        own_ids: dict[int, OwnId | None] = {}
        for number, row in zip(changed, rows, strict=True):
            try:
                own_ids[int(number)] = json.loads(row)[ITEM_ID] if row else None
            except (ValueError, LookupError, TypeError) as error:
                raise _damaged(items, ValueError(str(error))) from None
        return version, own_ids

    def drop(self, item_ids: Iterable[int]) -> None:
        """Reads the cards of these items, and whether they are available, anew."""
        for cache in (self._cards, self._is_unavailable):
            cache.drop(item_ids)

    async def watched(self, timeout_s: float) -> Watched | None:
        """Reads one key."""
        key = watched_key(self._dataset)
        (value,) = await self._reader.get([key], timeout_s)
        try:
            return None if value is None else Watched.model_validate_json(value)
        except ValueError as error:
            raise _damaged(key, error) from None

    async def note_shown(self, notes: Sequence[Shown], timeout_s: float) -> None:
        """Appends them to the stream, in one pipeline; beyond `shown_kept` its oldest go."""
        entries = [note.entry() for note in notes]
        await self._reader.append(shown_key(self._dataset), entries, self._shown_kept, timeout_s)

    async def routing(self, timeout_s: float) -> bytes | None:
        """Reads one key."""
        (value,) = await self._reader.get([routing_key(self._dataset)], timeout_s)
        return value

    async def replace_routing(self, before: str, after: str, timeout_s: float) -> bool:
        """Runs one script."""
        key = routing_key(self._dataset)
        return bool(await self._reader.run(REPLACE, key, before, after, timeout_s=timeout_s))

    async def report(self, gateway: str, report: GatewayReport, timeout_s: float) -> None:
        """Writes one field."""
        key = gateways_key(self._dataset)
        await self._reader.put_field(key, gateway, report.model_dump_json(), timeout_s)

    def beside(self, bundle: str) -> RedisStore:
        """Shares the reader, and keeps cards of its own."""
        other = copy(self)
        other._bundle, other._cards = bundle, self._cards.empty()
        return other

    async def check(self, timeout_s: float) -> str:
        """Sends PING, whatever the circuit says."""
        return await self._reader.check(timeout_s)


def _decode_seen(key: str, value: bytes | None) -> list[int]:
    try:
        item_ids: list[int] = decode_seen(value).tolist()
    except ValueError as error:
        raise _damaged(key, error) from None
    return item_ids


def _damaged(key: str, error: ValueError) -> DependencyUnavailable:
    """Logs what cannot be read, and gives the error that lets the next way try."""
    log.warning("damaged", key=key, reason=str(error))
    return DependencyUnavailable(REDIS, f"{key}: {error}")
