"""A small bundle, fakes and a client, for the gateway's tests."""

from __future__ import annotations

import asyncio
import hashlib
import json
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from fastapi import FastAPI

from contract.affinity import LISTS
from contract.arrays import Array
from contract.bundle import sha256
from contract.filters import Filters
from contract.ids import OwnId
from contract.routing import GatewayReport
from contract.shown import Shown
from contract.slates import Degradation, Published, Rule, StoredSlate, degradation_mask
from contract.tensors import ANSWER_TENSORS, EXPLAIN_TENSORS, FULL_QUALITY, MAX_N, PAD_ID, bundle_id
from contract.texts import ITEMS, Texts, text_files
from contract.watched import Watched
from service.failures import DependencyUnavailable
from service.limits.deadline import Deadline
from service.main import build_app
from service.schemas import RecommendRequest, SlateBody
from service.settings import Settings
from service.slate import Slate
from service.store.store import Card, Store
from service.triton.client import EnsembleClient
from service.triton.tensors import decode_slate
from service.variant import Variant
from tests.builders.memory_store import MemoryStore

BUNDLE = "synthetic-1"
CATALOGUE = 400
CONTEXT = ("context_hour", "context_tab")
RECENT = dict.fromkeys(LISTS, "list[int64]")
SEEN = {7: [3, 1, 205], 8: [0, 1, 2, 3, 4]}
"""User 7 has seen two of the popular items and one more; anyone else, but user 8, nothing."""


def card_of(item_id: int) -> Card:
    """The display fields of any item of the small bundle."""
    return {"item_title": f"Item {item_id}", "item_genre": ("comedy", "drama", "crime")[item_id % 3]}


def write_bundle(folder: Path, first_title: str = "Item 0", **changes: Any) -> Path:
    """Writes the two files that the gateway reads; `changes` replace fields of the manifest."""
    items = [{"item_id": i, "score": 1 - i / 200, **card_of(i), "item_genre_id": i % 3} for i in range(200)]
    items[0]["item_title"] = first_title
    popular = json.dumps({"bundle": BUNDLE, "items": items}).encode()
    manifest: dict[str, Any] = {
        "format": 2,
        "bundle": BUNDLE,
        "dataset": "synthetic",
        "created_at": "2026-01-01T00:00:00Z",
        "git_commit": "0" * 40,
        "seed": 0,
        "versions": {"nvtabular": "23.8.0"},
        "checksums": {"popular.json": hashlib.sha256(popular).hexdigest()},
        "items": CATALOGUE,
        "vector_width": 65,
        "index": {"kind": "FLAT"},
        "user_tower": {"file": "user_tower.onnx", "output": "user_vector"},
        "item_tower": {"file": "item_tower.onnx", "output": "item_vector"},
        "ranker": {"file": "ranker.onnx", "output": "score", "user": {}, "candidate": {}},
        "score_range": [-1.0, 2.0],
        "context": CONTEXT,
        "labels": ["is_click", "is_purchase"],
        "event_types": {"click": {"is_click": 1}, "purchase": {"is_click": 1, "is_purchase": 1}},
        "display": ["item_title", "item_genre"],
        "display_name": "item_title",
        "filters": {
            "item_genre": "string",
            "item_genre_id": "int64",
            "item_year": "int64",
            "item_price": "float32",
        },
        "user_features": {
            **{"user_age": "int64", "user_rate": "float32", "user_tags": "list[string]"},
            **RECENT,
        },
        "sample_user_ids": [7, 8, 9],
    }
    folder.mkdir(parents=True, exist_ok=True)
    if changes.get("item_id_dtype") == "string":
        manifest["checksums"] |= _write_texts(folder)
    (folder / "popular.json").write_bytes(popular)
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))
    return folder


def text_of(item_id: int) -> str:
    """The own id of any item of the small bundle, where these are text."""
    return f"Æ {item_id}/{{}}"


TEXT_IDS: dict[str, Any] = {
    "user_id_dtype": "string",
    "item_id_dtype": "string",
    "sample_user_ids": ["anna@example.org", "\u05d0 \U0001f600"],
}
"""What a manifest says where ids are text."""


def _write_texts(folder: Path) -> dict[str, str]:
    """Writes the items' own ids, gives the files' checksums."""
    Texts.write(folder, ITEMS, np.arange(CATALOGUE), [text_of(item_id) for item_id in range(CATALOGUE)])
    return {name: sha256(folder / name) for name in text_files(ITEMS)}


def make_variant(
    folder: Path, ensemble: EnsembleClient | None = None, store: Store | None = None, **settings: Any
) -> Variant:
    """The small bundle over fakes."""
    return Variant.read(
        write_bundle(folder), make_settings(**settings), ensemble or FakeEnsemble(), store or make_store()
    )


@cache
def _small_variant() -> Variant:
    with tempfile.TemporaryDirectory() as folder:
        return make_variant(Path(folder))


def variant_of(
    store: Store | None = None, ensemble: EnsembleClient | None = None, store_timeout_s: float = 60.0
) -> Variant:
    """The small bundle over these servers, without a file."""
    return replace(
        _small_variant(),
        store=store or make_store(),
        ensemble=ensemble or FakeEnsemble(),
        store_timeout_s=store_timeout_s,
    )


def make_settings(**values: Any) -> Settings:
    """Settings of the tests: whatever the machine's environment says, and with time to spare."""
    base = {"latency_budget_ms": 10_000, "reserve_ms": 500, "store_timeout_ms": 2000, "warm_up_requests": 0}
    return Settings(**(base | values))


def make_outputs(
    user_id: int = 7,
    n: int = 10,
    excluded: Sequence[int] = (),
    seen: Sequence[int] = (),
    k: int = 20,
    bundle: str = BUNDLE,
) -> dict[str, Array]:
    """The ensemble's output tensors, as the contract describes them, for a world without models.

    The user's retrieved items are 200 + user_id, 201 + user_id, ...; the ranker likes even ids better.
    """
    retrieved = (200 + user_id % CATALOGUE + np.arange(k + 5)) % CATALOGUE
    rules = list(Rule)
    removed = np.zeros(len(retrieved), dtype=np.int8)
    removed[np.isin(retrieved, np.array(excluded, dtype=np.int64))] = 1 + rules.index(Rule.EXCLUDED)
    removed[np.isin(retrieved, np.array(seen, dtype=np.int64))] = 1 + rules.index(Rule.SEEN)
    alive = np.flatnonzero(removed == 0)
    removed[alive[k:]] = 1 + rules.index(Rule.BEYOND_K)
    candidates = np.full(k, PAD_ID)
    candidates[: len(alive[:k])] = retrieved[alive[:k]]
    ranking = np.where(candidates % 2 == 0, 0.5, 0.25) - np.arange(k) / 1000
    ranking[candidates == PAD_ID] = -1
    best = np.argsort(-ranking, kind="stable")[: min(n, len(alive))]
    item_ids = np.full(MAX_N, PAD_ID)
    item_scores = np.full(MAX_N, -np.inf)
    item_ids[: len(best)], item_scores[: len(best)] = candidates[best], ranking[best]
    flags = [Degradation.UNKNOWN_USER] if user_id >= 1000 else []
    flags += [Degradation.SHORT] if len(best) < n else []
    stage_us = [900, 200, 1400, 100, 50, 1100, 40]
    values: dict[str, Any] = {
        "item_ids": item_ids,
        "item_scores": item_scores,
        "degraded": [degradation_mask(flags)],
        "stage_us": stage_us,
        "bundle_id": [bundle_id(bundle)],
        "retrieved_ids": retrieved,
        "retrieved_scores": 1 - np.arange(len(retrieved)) / 100,
        "source_item_ids": retrieved,
        "source_scores": 1 - np.arange(len(retrieved)) / 100,
        "removed_by": removed,
        "candidate_ids": candidates,
        "retrieval_scores": 1 - np.arange(k) / 100,
        "ranking_scores": ranking,
        "propensities": np.arange(MAX_N) < len(best),
        "plain_places": np.zeros(k),
        "moved_by": np.zeros(k),
    }
    return {
        t.name: np.asarray(values[t.name], dtype=t.dtype)[None] for t in (*ANSWER_TENSORS, *EXPLAIN_TENSORS)
    }


class FakeEnsemble:
    """An ensemble in memory. `fail` makes it raise; `wait_s` makes it slow."""

    def __init__(self, fail: Exception | None = None, wait_s: float = 0) -> None:
        self.fail, self.wait_s = fail, wait_s
        self.bundle = BUNDLE
        self.requests: list[SlateBody] = []
        self.seeds: list[int] = []
        self.deadlines: list[float] = []
        self.qualities: list[float] = []

    async def recommend(
        self, request: SlateBody, deadline: Deadline, seed: int, quality: float = FULL_QUALITY
    ) -> Slate:
        """Answers after `wait_s`, as a well-behaved ensemble would."""
        self.requests.append(request)
        self.seeds.append(seed)
        self.deadlines.append(deadline.left_s())
        self.qualities.append(quality)
        if self.wait_s:
            left_s = deadline.left_s()
            await asyncio.sleep(min(self.wait_s, left_s))
            if self.wait_s >= left_s:
                raise DependencyUnavailable("triton", "no answer in time", is_late=True)
        if self.fail is not None:
            raise self.fail
        user_id, excluded = max(request.user_id, 0), list(request.exclude_item_ids)
        if request.like_item_id != PAD_ID:
            excluded.append(request.like_item_id)
        seen = SEEN.get(user_id, [])
        outputs = make_outputs(user_id, request.n, excluded, seen, bundle=self.bundle)
        is_like = request.like_item_id != PAD_ID
        sources = ("nearest",) if is_like or request.explain else ()
        return decode_slate(outputs, request.n, request.explain, is_ranked=not is_like, sources=sources)

    async def check(self, deadline: Deadline) -> str:
        """Makes one slate."""
        await self.recommend(RecommendRequest(user_id=7, n=1), deadline, 0)
        return "fake"


class BrokenStore:
    """A Redis that is down. Counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0

    async def seen(self, user_id: int, timeout_s: float) -> list[int]:  # noqa: ARG002
        """Does not answer."""
        raise self._down()

    async def cards(self, item_ids: Sequence[int], timeout_s: float) -> dict[int, Card]:  # noqa: ARG002
        """Does not answer."""
        raise self._down()

    async def published(self, timeout_s: float) -> Published:  # noqa: ARG002
        """Does not answer."""
        raise self._down()

    async def materialized_at(self, timeout_s: float) -> float:  # noqa: ARG002
        """Does not answer."""
        raise self._down()

    async def stored(
        self,
        runs: Sequence[str],  # noqa: ARG002
        user_id: int,  # noqa: ARG002
        timeout_s: float,  # noqa: ARG002
    ) -> tuple[StoredSlate | None, list[int]]:
        """Does not answer."""
        raise self._down()

    async def unavailable(self, item_ids: Sequence[int], timeout_s: float) -> set[int]:  # noqa: ARG002
        """Does not answer."""
        raise self._down()

    async def passing(
        self,
        item_ids: Sequence[int],  # noqa: ARG002
        filters: Filters,  # noqa: ARG002
        timeout_s: float,  # noqa: ARG002
    ) -> set[int]:
        """Does not answer."""
        raise self._down()

    async def held(
        self,
        item_ids: Sequence[int],  # noqa: ARG002
        columns: Sequence[str],  # noqa: ARG002
        timeout_s: float,  # noqa: ARG002
    ) -> Mapping[int, Mapping[str, AbstractSet[str]]]:
        """Does not answer."""
        raise self._down()

    async def live_items(
        self,
        since: int,  # noqa: ARG002
        timeout_s: float,  # noqa: ARG002
    ) -> tuple[int, dict[int, OwnId | None]]:
        """Does not answer."""
        raise self._down()

    def drop(self, item_ids: Iterable[int]) -> None:
        """Has nothing at hand."""

    async def watched(self, timeout_s: float) -> Watched | None:  # noqa: ARG002
        """Does not answer."""
        raise self._down()

    async def note_shown(self, notes: Sequence[Shown], timeout_s: float) -> None:  # noqa: ARG002
        """Does not answer."""
        raise self._down()

    async def routing(self, timeout_s: float) -> bytes | None:  # noqa: ARG002
        """Does not answer."""
        raise self._down()

    async def replace_routing(self, before: str, after: str, timeout_s: float) -> bool:  # noqa: ARG002
        """Does not answer."""
        raise self._down()

    async def report(self, gateway: str, report: GatewayReport, timeout_s: float) -> None:  # noqa: ARG002
        """Does not answer."""
        raise self._down()

    def beside(self, bundle: str) -> BrokenStore:  # noqa: ARG002
        """Does not answer either."""
        return self

    async def check(self, timeout_s: float) -> str:  # noqa: ARG002
        """Does not answer."""
        raise self._down()

    def _down(self) -> DependencyUnavailable:
        self.calls += 1
        return DependencyUnavailable("redis", "connection refused")


RUN = "20260101-060000-abcd"
"""A batch run's id."""


def make_stored(
    item_ids: Sequence[int],
    flags: Sequence[Degradation] = (),
    run: str = RUN,
    made_at_s: float | None = None,
    bundle: str = BUNDLE,
) -> StoredSlate:
    """A slate as a batch run stores it, scores falling from 0.9; made an hour ago unless told."""
    made_at_s = time.time() - 3600 if made_at_s is None else made_at_s
    return StoredSlate(
        item_ids=np.array(item_ids, dtype=np.int64),
        item_scores=np.linspace(0.9, 0.1, len(item_ids), dtype=np.float32),
        degraded=degradation_mask(flags),
        bundle=bundle,
        run=run,
        made_at_ms=int(made_at_s * 1000),
    )


def make_store(seen: Mapping[int, Sequence[int]] | None = None, **stored: Any) -> MemoryStore:
    """Every item's card, what the users have seen, and what is `stored`: as `MemoryStore` takes it."""
    return MemoryStore(SEEN if seen is None else seen, {i: card_of(i) for i in range(CATALOGUE)}, **stored)


AppBuilder = Callable[..., FastAPI]


def make_app(folder: Path, ensemble: Any = None, store: Store | None = None, **settings: Any) -> FastAPI:
    """The gateway over fakes."""
    return build_app(make_settings(**settings), make_variant(folder, ensemble, store, **settings))


def make_text_app(folder: Path, ensemble: Any = None, store: Store | None = None) -> FastAPI:
    """The gateway over fakes, with a bundle whose ids are text."""
    settings = make_settings()
    write_bundle(folder, **TEXT_IDS)
    variant = Variant.read(folder, settings, ensemble or FakeEnsemble(), store or make_store())
    return build_app(settings, variant)


@asynccontextmanager
async def client_of(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a started app, in process. Errors that escape the app are raised here."""
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://gateway") as client,
    ):
        yield client


async def ask(app: FastAPI, path: str = "/v1/recommendations", **body: Any) -> httpx.Response:
    """One POST to a freshly started app."""
    async with client_of(app) as client:
        return await client.post(path, json=body)
