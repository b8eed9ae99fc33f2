"""How widely the graph must be searched: measured against exact search, for vectors of real users."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from redis import Redis

from contract.arrays import Floats, Ids
from contract.bundle import ITEM_IDS_FILE, ITEM_VECTORS_FILE, USER_VECTORS_FILE, Manifest
from contract.keys import index_search_key
from contract.tensors import PAD_ID
from ensemble.stores.exact import ExactVectorIndex
from ensemble.stores.head import HeadedVectorIndex, head_of
from ensemble.stores.nodes import IndexNodes
from ensemble.stores.spread import SpreadVectorIndex
from ensemble.stores.vectors import RedisVectorIndex, VectorIndex

LADDER = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 13.0, 16.0, 20.0, 25.0, 32.0)
"""EF_RUNTIME that is tried, in times of K. A search keeps at least the K items in view that it answers."""
SURE = 1.645
"""Standard errors by which the measured mean must clear the target: reached with 95 % confidence."""
AT_A_TIME = 4
"""Users per round trip: few, so that what serves meanwhile waits little."""
TIE = 1e-6


class RecallError(RuntimeError):
    """Says which recall the widest search reached, and what to do."""


@dataclass(frozen=True)
class Breadth:
    """How widely the graph is searched, and the recall that was measured with it."""

    k: int
    ef: int
    recall: float
    at_least: float
    """The lower end of the recall's one-sided 95 % interval."""
    users: int
    target: float
    head: int = 0
    """Items that were compared exactly beside the graph."""

    @property
    def is_enough(self) -> bool:
        """Whether the target is reached, sampling error counted."""
        return self.at_least >= self.target

    def is_of(self, k: int, manifest: Manifest, target: float, head: int) -> bool:
        """Whether it was measured for this K, target and head."""
        return (self.k, self.target, self.head) == (min(k, manifest.items), target, head)

    def encode(self) -> str:
        """Writes what `RedisVectorIndex` reads: `beyond`, and how it was found."""
        return json.dumps(asdict(self) | {"beyond": self.ef - self.k})

    @classmethod
    def decode(cls, value: bytes | str) -> Breadth:
        """Reads what `encode` wrote."""
        fields = json.loads(value)
        del fields["beyond"]
        return cls(**fields)

    def __str__(self) -> str:
        measured = f"recall@{self.k} {self.recall:.4f} (at least {self.at_least:.4f}, {self.users} users"
        measured += f", beside the {self.head} most popular)" if self.head else ")"
        return f"EF_RUNTIME {self.ef}: {measured}, target {self.target:g}"


@dataclass(frozen=True, eq=False)
class Exact:
    """What exact search finds: of each query (Q,D) the K-th greatest inner product (Q,)."""

    item_ids: Ids
    item_vectors: Floats
    queries: Floats
    k: int
    worst: Floats

    @classmethod
    def of(cls, item_ids: Ids, item_vectors: Floats, queries: Floats, k: int) -> Exact:
        """Compares every item with every query, some items at a time; `item_ids` ascend."""
        k = min(k, len(item_ids))
        index = ExactVectorIndex(item_ids, item_vectors)
        _, scores = index.search(queries, [k] * len(queries), [{}] * len(queries), k)
        return cls(item_ids, item_vectors, queries, k, scores[:, -1])

    def recall(self, found: Ids) -> npt.NDArray[np.float64]:
        """Takes the ids found per query (Q,K), padded with `PAD_ID`; gives the share of the K nearest.

        Of items as near as the K-th any will do.
        """
        rows = np.minimum(np.searchsorted(self.item_ids, found), len(self.item_ids) - 1)
        products = np.einsum("qd,qkd->qk", self.queries, self.item_vectors[rows])
        is_near = (found != PAD_ID) & (products >= self.worst[:, None] - TIE)
        return np.asarray(is_near.mean(axis=1) * (found.shape[1] / self.k), dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Yardstick:
    """What a search is measured by: the K nearest of real users, and how many of them it must find."""

    bundle: str
    exact: Exact
    target: float
    head: int
    say: Callable[[str], None]

    @classmethod
    def of(
        cls, folder: Path, manifest: Manifest, k: int, target: float, head: int, say: Callable[[str], None]
    ) -> Yardstick | None:
        """Reads a bundle's; none where it is older than user vectors in bundles."""
        path = folder / USER_VECTORS_FILE
        if not path.is_file():
            say(f"{manifest.bundle}: recall not measured, the bundle holds no user vectors; train again")
            return None
        vectors = np.load(folder / ITEM_VECTORS_FILE, mmap_mode="r", allow_pickle=False)
        ids = np.load(folder / ITEM_IDS_FILE, allow_pickle=False)
        exact = Exact.of(ids, vectors, np.load(path, allow_pickle=False), k)
        return cls(manifest.bundle, exact, target, head, say)

    def climb(self, index_of: Callable[[int], VectorIndex]) -> Breadth:
        """Takes what makes the index as it is searched with an EF, gives the smallest that is enough.

        Raises:
            RecallError: the widest search does not reach the target, or the index is not whole.
        """
        exact, target = self.exact, self.target
        popular = head_of(exact.item_ids, exact.item_vectors, self.head)
        for factor in LADDER:
            ef = math.ceil(exact.k * factor)
            index = HeadedVectorIndex(index_of(ef), popular)
            found = measure(index, exact, ef, target, self.head)
            if not index.is_whole:
                raise RecallError(f"{self.bundle}: a node of its index is away; start it, export again")
            if found.is_enough:
                return found
            self.say(f"{self.bundle}: not enough: {found}")
        raise RecallError(
            f"{self.bundle}: the widest search misses SHORTLIST_RECALL_TARGET: {found}; lower it, "
            f"raise SHORTLIST_HEAD_ITEMS, or train with SHORTLIST_FLAT_UP_TO={len(exact.item_ids)}, which "
            f"makes search exact and slower"
        )


def measure(index: VectorIndex, exact: Exact, ef: int, target: float, head: int = 0) -> Breadth:
    """Searches for every query with the index as it is set, and compares."""
    found = []
    for at in range(0, len(exact.queries), AT_A_TIME):
        some = exact.queries[at : at + AT_A_TIME]
        ids, _ = index.search(some, [exact.k] * len(some), [{}] * len(some), exact.k)
        found.append(ids)
    recalls = exact.recall(np.concatenate(found))
    mean, error = float(recalls.mean()), float(recalls.std()) / math.sqrt(len(recalls))
    return Breadth(exact.k, ef, mean, mean - SURE * error, len(recalls), target, head)


def choose_breadth(
    redis: Redis,
    folder: Path,
    manifest: Manifest,
    k: int,
    target: float,
    say: Callable[[str], None],
    head: int = 0,
    nodes: IndexNodes | None = None,
) -> Breadth | None:
    """Finds the smallest EF_RUNTIME whose recall@`k` reaches the target, and stores it beside the index,
    which is asked on its `nodes`, where there are several.

    `head` items are compared exactly beside the graph, as when it serves. None where search is exact, or
    where the bundle is older than user vectors in bundles. What was measured for the same `k`, target and
    head is kept.

    Raises:
        RecallError: the widest search does not reach the target, or a node did not answer; nothing is
            stored.
    """
    if manifest.index.kind == "FLAT":
        return None
    key = index_search_key(manifest.bundle)
    stored: Any = redis.get(key)
    known = Breadth.decode(stored) if stored else None
    if known is None or not known.is_of(k, manifest, target, head):
        yardstick = Yardstick.of(folder, manifest, k, target, head, say)
        if yardstick is None:
            return None

        def index_of(ef: int) -> VectorIndex:
            beyond = ef - yardstick.exact.k
            part = RedisVectorIndex(redis, manifest.bundle, manifest.filters, beyond=beyond)
            return part if nodes is None else SpreadVectorIndex(part, nodes)

        known = yardstick.climb(index_of)
        redis.set(key, known.encode())
    say(f"{manifest.bundle}: searched with {known}")
    return known
