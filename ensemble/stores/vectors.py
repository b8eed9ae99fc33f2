"""Finds the items nearest to a user vector: a protocol, its exact memory twin, and Redis search in one
round trip."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from copy import copy
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
from redis import Redis
from redis.exceptions import ResponseError

from contract.arrays import Floats, Ids, filled
from contract.errors import ErrorCode, StageError
from contract.filters import Condition, Filters, index_number, passes
from contract.item_to_item import UNKNOWN
from contract.keys import index_name, index_search_key, item_vector_prefix, tag
from contract.tensors import PAD_ID, StageName
from ensemble.stores.catalogue import Catalogue, LiveItems
from ensemble.stores.index_watch import IndexWatch

VECTOR_FIELD = "vector"


@runtime_checkable
class VectorIndex(Protocol):
    """Gives the items with the greatest inner product with a vector, among those that pass a filter."""

    @property
    def is_whole(self) -> bool:
        """Whether every item can be found now."""
        ...

    def search(
        self, vectors: Floats, counts: Sequence[int], filters: Sequence[Filters], width: int
    ) -> tuple[Ids, Floats]:
        """Takes vectors (B,D) and per user how many items and which filters; gives ids and scores (B,width).

        Best first, equal scores by ascending item id; the tail is `PAD_ID`, score -inf. A catalogue of fewer
        items than asked for gives what it has.
        """
        ...

    def grown(self, catalogue: Catalogue, live: LiveItems) -> VectorIndex:
        """Gives the same index with the new items of a catalogue, and what items hold now."""
        ...


class MemoryVectorIndex:
    """Exact search over arrays: the twin for tests and for a laptop."""

    is_whole = True

    def __init__(
        self, item_ids: Ids, vectors: Floats, held: Sequence[Mapping[str, AbstractSet[str]]] = ()
    ) -> None:
        """Takes ids (I,), vectors (I,D), and of each item what it holds in filterable columns, in canonical
        form; without, no item passes a filter."""
        self.item_ids, self.vectors, self.held = item_ids, vectors, held or [{}] * len(item_ids)

    def search(
        self, vectors: Floats, counts: Sequence[int], filters: Sequence[Filters], width: int
    ) -> tuple[Ids, Floats]:
        """Finds the nearest items by computing every score."""
        ids, scores = blank(len(vectors), width)
        for row, vector in enumerate(vectors):
            wanted = filters[row]
            passing = np.array([not wanted or passes(wanted, held) for held in self.held], dtype=np.bool_)
            products = self.vectors[passing] @ vector
            fill(ids, scores, row, self.item_ids[passing], products, min(counts[row], width))
        return ids, scores

    def grown(self, catalogue: Catalogue, live: LiveItems) -> MemoryVectorIndex:
        """Appends the new items, and moves the changed ones."""
        nothing: Mapping[str, AbstractSet[str]] = {}
        before = dict(zip(self.item_ids.tolist(), self.held, strict=True)) | {**live.held}
        vectors = live.over(self.item_ids, self.vectors)
        return MemoryVectorIndex(
            catalogue.item_ids,
            np.concatenate([vectors, live.new_vectors]) if len(live.new_ids) else vectors,
            [before.get(item_id, nothing) for item_id in catalogue.item_ids.tolist()],
        )


class RedisVectorIndex:
    """RediSearch's KNN with inner products, filters applied before the search; all users in one pipeline."""

    def __init__(
        self,
        redis: Redis,
        bundle: str,
        kinds: Mapping[str, str],
        beyond: int | None = None,
        catalogue: Catalogue | None = None,
        watch: IndexWatch | None = None,
    ) -> None:
        """Takes the bundle whose index is searched, and its filterable columns in order, with their
        dtypes; `beyond` instead of what is stored. With the catalogue at hand, Redis sends the found items'
        keys alone, and their scores are computed here: that halves the reply and the time for it. Without a
        watch the index counts as whole."""
        self.redis, self.index, self.kinds = redis, index_name(bundle), dict(kinds)
        self.prefix, self.catalogue = item_vector_prefix(bundle).encode(), catalogue
        self.search_key, self.watch = index_search_key(bundle), watch
        if beyond is not None:
            self.beyond = beyond

    @property
    def is_whole(self) -> bool:
        """Whether every item can be found, as far as the watch knows."""
        return self.watch is None or self.watch.is_whole

    @cached_property
    def beyond(self) -> int | None:
        """How many more items than asked for a search of the graph keeps in view (EF_RUNTIME less K), as
        measured when the index was built; None where search is exact. Read once.
        """
        value: Any = self.redis.get(self.search_key)
        return None if value is None else int(json.loads(value)["beyond"])

    def search(
        self, vectors: Floats, counts: Sequence[int], filters: Sequence[Filters], width: int
    ) -> tuple[Ids, Floats]:
        """Finds the nearest items with one FT.SEARCH per user."""
        pipe: Any = self.redis.pipeline(transaction=False)
        for command in self.commands(vectors, counts, filters, width):
            pipe.execute_command(*command)
        try:
            replies = pipe.execute()
        except ResponseError as error:
            if is_missing(error):
                if self.watch is not None:
                    self.watch.doubt()
                raise self.missing() from None
            raise
        return self.read(replies, vectors, counts, width)

    def commands(
        self, vectors: Floats, counts: Sequence[int], filters: Sequence[Filters], width: int
    ) -> list[tuple[Any, ...]]:
        """Writes an FT.SEARCH for each user."""
        return [
            self._command(vector, min(count, width), wanted)
            for vector, count, wanted in zip(vectors, counts, filters, strict=True)
        ]

    def read(
        self, replies: Sequence[list[Any]], vectors: Floats, counts: Sequence[int], width: int
    ) -> tuple[Ids, Floats]:
        """Takes a reply for each user, gives ids and scores (B,width)."""
        ids, scores = blank(len(vectors), width)
        for row, reply in enumerate(replies):
            found, products = self._read(reply, vectors[row])
            fill(ids, scores, row, found, products, min(counts[row], width))
        return ids, scores

    def missing(self, remedy: str = "run python -m ensemble.publish.index") -> StageError:
        """Says that there is no index, and forgets how it was searched: a new one may be searched
        otherwise."""
        self.__dict__.pop("beyond", None)
        message = f"Redis has no index {self.index}; {remedy}"
        return StageError(ErrorCode.DEPENDENCY, StageName.RETRIEVE_CANDIDATES, message)

    def grown(self, catalogue: Catalogue, live: LiveItems) -> RedisVectorIndex:  # noqa: ARG002  (Redis has it)
        """Scores the items of another catalogue here; Redis holds them already."""
        grown = copy(self)
        grown.catalogue = None if self.catalogue is None else catalogue
        return grown

    def _read(self, reply: list[Any], vector: Floats) -> tuple[Ids, Floats]:
        """Takes a reply: the number of items, then each item's key, and where Redis scored, ["distance",
        value]."""
        keys, start = reply[1 :: 1 if self.catalogue else 2], len(self.prefix)
        found = np.array([int(key[start:]) for key in keys], dtype=np.int64)
        if self.catalogue is not None:
            at = self.catalogue.positions.of(found)
            if (at == UNKNOWN).any():  # items that came a moment ago
                found, at = found[at != UNKNOWN], at[at != UNKNOWN]
            return found, self.catalogue.vectors_of(at) @ vector
        # RediSearch's inner-product distance is 1 minus the inner product.
        products = 1.0 - np.array([pair[1] for pair in reply[2::2]], dtype=np.float64)
        return found, products.astype(np.float32)

    def _command(self, vector: Floats, count: int, filters: Filters) -> tuple[Any, ...]:
        parameters: list[Any] = ["vector", np.ascontiguousarray(vector, dtype="<f4").tobytes()]
        nearest = f"KNN {count} @{VECTOR_FIELD} $vector"
        if self.beyond is not None:
            nearest += " EF_RUNTIME $ef"
            parameters += ["ef", count + self.beyond]
        query = f"{filter_query(filters, self.kinds)}=>[{nearest} AS distance]"
        content = ("NOCONTENT",) if self.catalogue else ("RETURN", 1, "distance")
        command = ("FT.SEARCH", self.index, query, *content, "SORTBY", "distance", "ASC")
        return (*command, "LIMIT", 0, count, "PARAMS", len(parameters), *parameters, "DIALECT", 2)


def is_missing(error: ResponseError) -> bool:
    """Whether Redis says that there is no such index."""
    said = str(error).lower()
    return "no such index" in said or "unknown index" in said


def tags_alias(kinds: Mapping[str, str], column: str) -> str:
    """Names a column's tags inside a query, where a user's own column name might not be a word."""
    return f"t{list(kinds).index(column)}"


def number_alias(kinds: Mapping[str, str], column: str) -> str:
    """Names a column's number inside a query."""
    return f"n{list(kinds).index(column)}"


def filter_query(filters: Filters, kinds: Mapping[str, str]) -> str:
    """Writes a request's filters as the part of a RediSearch query before the KNN; `*` where there are
    none."""
    terms = [
        term
        for column, condition in filters.items()
        for term in _terms(condition, tags_alias(kinds, column), number_alias(kinds, column))
    ]
    return f"({' '.join(terms)})" if terms else "*"


def _terms(condition: Condition, tags: str, numbers: str) -> list[str]:
    terms = []
    if condition.allowed is not None:
        terms.append(f"@{tags}:{{{'|'.join(sorted(map(tag, condition.allowed)))}}}")
    if (within := condition.within) is not None:
        low, high = index_number(within.low), index_number(within.high)
        is_open = ("(" if within.is_low_open else "", "(" if within.is_high_open else "")
        terms.append(f"@{numbers}:[{is_open[0]}{low} {is_open[1]}{high}]")
    if condition.unless is not None:
        terms.append(f"-({' '.join(_terms(condition.unless, tags, numbers))})")
    return terms


def blank(rows: int, width: int) -> tuple[Ids, Floats]:
    """Gives ids and scores (rows,width) of nothing found: `PAD_ID` and -inf."""
    return filled((rows, width), PAD_ID), filled((rows, width), -np.inf, np.float32)


def fill(ids: Ids, scores: Floats, row: int, found: Ids, products: Floats, count: int) -> None:
    """Writes the best of what was found into a row; equal scores by ascending id."""
    best = np.lexsort((found, -products))[:count]
    ids[row, : len(best)] = found[best]
    scores[row, : len(best)] = products[best]
