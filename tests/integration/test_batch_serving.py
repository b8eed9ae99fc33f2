"""Stored slates over the whole stack: written here by the contract's codecs, as a batch run writes them."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import redis

from contract.feast import AVAILABILITY_FIELD, UNAVAILABLE, feature_key
from contract.filters import check_filters, element, passes
from contract.keys import (
    batch_key,
    decode_seen,
    decode_tags,
    item_card_prefix,
    item_vector_key,
    seen_key,
    slate_key,
)
from contract.slates import Published, StoredSlate
from deploy.local.settings import ROOT, python_of
from tests.builders.ports import free_port
from tests.builders.world import World, eventually
from tests.integration.test_page import Page

DEPTH = 50
AGE_S = 3 * 3600
NOBODY = 2**53 - 7


@dataclass(frozen=True)
class Stored:
    """A published run and the slate of its one user: item ids, best first, some of them seen."""

    run: str
    user_id: int
    item_ids: list[int]
    seen: set[int]

    @property
    def unseen(self) -> list[int]:
        """What may be shown, best first."""
        return [item_id for item_id in self.item_ids if item_id not in self.seen]


@contextmanager
def gateway(stack: World, folder: Path, **settings: str) -> Iterator[str]:
    """A gateway of the world's own Redis, as patient with it as a busy test machine needs."""
    port = free_port()
    patient = {"PORT": str(port), "STORE_TIMEOUT_MS": "2000", "POINTER_MS": "50", "AVAILABILITY_MS": "50"}
    environment = stack.environment | {
        f"SHORTLIST_{name}": value for name, value in (patient | settings).items()
    }
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [python_of("gateway"), "-m", "service.main"], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
        url = f"http://127.0.0.1:{port}"
        try:
            assert eventually(lambda: answers(url)), (folder / "log").read_text()
            yield url
        finally:
            process.terminate()
            process.wait(30)


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def ask(url: str, user_id: int, **body: Any) -> dict[str, Any]:
    asked = {"user_id": user_id, **body}
    response = httpx.post(f"{url}/v1/recommendations", json=asked, timeout=30.0, trust_env=False)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


@pytest.fixture(scope="module")
def url(stack: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a gateway answers that has everything."""
    with gateway(stack, tmp_path_factory.mktemp("gateway")) as url:
        yield url


@pytest.fixture(scope="module")
def lonely_url(stack: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a gateway answers that finds no Triton."""
    with gateway(stack, tmp_path_factory.mktemp("lonely"), TRITON__ADDRESS="127.0.0.1:1") as url:
        yield url


@pytest.fixture(scope="module")
def stored(stack: World, redis_client: redis.Redis, url: str) -> Iterator[Stored]:
    """Publishes a run with one user's slate; what was published before is published again afterwards."""
    manifest = stack.manifest()
    user_id = int(manifest["sample_user_ids"][0])
    prefix = item_card_prefix(manifest["bundle"])
    catalogue = sorted(int(key.decode().removeprefix(prefix)) for key in redis_client.scan_iter(f"{prefix}*"))
    seen = decode_seen(value_of(redis_client, seen_key(manifest["dataset"], user_id))).tolist()
    item_ids = [*seen[:5], *(item_id for item_id in catalogue if item_id not in set(seen))][:DEPTH]
    began_s = time.time() - AGE_S
    run = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(began_s))}-0000"
    slate = StoredSlate(
        np.array(item_ids),
        np.linspace(0.5, 0.1, len(item_ids), dtype=np.float32),
        0,
        manifest["bundle"],
        run,
        int(began_s * 1000),
    )
    pointer = batch_key(manifest["dataset"])
    with (
        changed(redis_client, slate_key(run, user_id), slate.encode()),
        changed(redis_client, pointer, Published((run,)).encode()),
    ):
        assert eventually(lambda: ask(url, user_id, source="batch")["source"] == "batch", 20)
        yield Stored(run, user_id, item_ids, set(seen))


def value_of(client: redis.Redis, key: Any) -> bytes | None:
    value = client.get(key)
    assert value is None or isinstance(value, bytes)
    return value


@contextmanager
def changed(client: redis.Redis, key: Any, value: bytes) -> Iterator[None]:
    """Sets a key, and in the end what it held before."""
    before = value_of(client, key)
    client.set(key, value)
    try:
        yield
    finally:
        if before is None:
            client.delete(key)
        else:
            client.set(key, before)


def ids(answer: dict[str, Any]) -> list[int]:
    return [item["item_id"] for item in answer["items"]]


def test_the_stored_slate_is_answered_outright_without_what_was_seen(
    stack: World, url: str, stored: Stored
) -> None:
    answer = ask(url, stored.user_id, source="batch", n=7)
    assert (answer["source"], answer["degraded"], answer["run"]) == ("batch", [], stored.run)
    assert ids(answer) == stored.unseen[:7]
    assert stored.seen & set(stored.item_ids)
    assert AGE_S <= answer["age_s"] < AGE_S + 600
    assert answer["bundle"] == stack.manifest()["bundle"]
    shown = stack.manifest()["display"]
    assert set(answer["items"][0]) == {"item_id", "score", "source", *shown}
    assert "ensemble" not in answer["timings_ms"]


def test_the_ensemble_answers_unless_the_stored_slate_was_asked_for(url: str, stored: Stored) -> None:
    answer = ask(url, stored.user_id)
    assert answer["source"] == "ensemble"
    assert "age_s" not in answer


def test_without_triton_the_stored_slate_comes_first_and_then_the_popular_one(
    stored: Stored, lonely_url: str
) -> None:
    answer = ask(lonely_url, stored.user_id, n=5)
    assert (answer["source"], answer["degraded"]) == ("batch", ["ensemble_unavailable"])
    assert ids(answer) == stored.unseen[:5]
    answer = ask(lonely_url, NOBODY, n=5)
    assert (answer["source"], answer["degraded"]) == ("popular", ["ensemble_unavailable"])
    assert len(ids(answer)) == 5


@pytest.mark.usefixtures("stored")
def test_a_user_without_a_slate_hears_of_it_where_it_was_asked_for(url: str) -> None:
    answer = ask(url, NOBODY, source="batch", n=5)
    assert (answer["source"], answer["degraded"]) == ("popular", ["batch_missing"])
    assert len(ids(answer)) == 5


def test_an_item_that_becomes_unavailable_in_the_feature_store_is_soon_gone_and_n_is_still_met(
    stack: World, url: str, redis_client: redis.Redis, stored: Stored
) -> None:
    gone = stored.unseen[1]
    key: Any = feature_key("item_id", gone, stack.manifest()["dataset"])
    field: Any = AVAILABILITY_FIELD
    before: Any = redis_client.hget(key, field)
    assert before not in (None, UNAVAILABLE), "materialised as available"
    redis_client.hset(key, field, UNAVAILABLE)
    try:
        assert eventually(lambda: gone not in ids(ask(url, stored.user_id, source="batch", n=5)), 30)
        answer = ask(url, stored.user_id, source="batch", n=5, explain=True)
    finally:
        redis_client.hset(key, field, before)
    assert ids(answer) == [item_id for item_id in stored.unseen if item_id != gone][:5]
    removed = {one["item_id"]: one["removed_by"] for one in answer["explain"]["items"]}
    assert removed[gone] == "unavailable"
    assert [one["item_id"] for one in answer["explain"]["items"]] == stored.item_ids
    assert eventually(lambda: gone in ids(ask(url, stored.user_id, source="batch", n=5)), 30)


def test_a_filter_is_kept_by_what_the_index_holds(
    stack: World, url: str, redis_client: redis.Redis, stored: Stored
) -> None:
    manifest = stack.manifest()
    column, dtype = next(
        (name, kind) for name, kind in manifest["filters"].items() if element(kind) != "float32"
    )

    def held(item_id: int) -> frozenset[str]:
        value: Any = redis_client.hget(item_vector_key(manifest["bundle"], item_id), column)
        return decode_tags(value)

    text = min(held(stored.unseen[0]), default=None)
    assert text is not None, "the synthetic world's items have every column"
    value = text if element(dtype) == "string" else int(text)
    answer = ask(url, stored.user_id, source="batch", n=20, filters={column: [value]})
    allowed = check_filters({column: [value]}, manifest["filters"])
    expected = [item_id for item_id in stored.unseen if passes(allowed, {column: held(item_id)})]
    own = [item["item_id"] for item in answer["items"] if item["source"] == "batch"]
    assert own == expected[:20]
    assert ids(answer)[: len(own)] == own, "what fills it up stands behind"
    assert 0 < len(expected) < len(stored.unseen)


def test_a_damaged_slate_is_answered_with_the_popular_one(
    url: str, redis_client: redis.Redis, stored: Stored
) -> None:
    with changed(redis_client, slate_key(stored.run, stored.user_id), os.urandom(64)):
        answer = ask(url, stored.user_id, source="batch")
    assert (answer["source"], answer["degraded"]) == ("popular", ["batch_unavailable"])
    assert ask(url, stored.user_id, source="batch")["source"] == "batch"


def test_the_metrics_tell_the_age_and_how_the_step_ended(url: str, stored: Stored) -> None:
    ask(url, stored.user_id, source="batch")
    text = httpx.get(f"{url}/metrics", trust_env=False).text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert AGE_S <= float(lines['shortlist_batch_age_seconds{run="oldest"}']) < AGE_S + 600
    assert float(lines['shortlist_steps_total{outcome="answered",step="batch"}']) > 0


def test_the_page_shows_both_slates_of_a_user_side_by_side_with_their_age(
    browser: Any, url: str, stored: Stored
) -> None:
    page = Page(browser, url)
    page.open(f"?user={stored.user_id}&n=4")
    assert len(page.all("#online li")) == len(page.all("#stored li")) == 4
    assert "made 3 h ago" in page.text("#stored .head")
    assert "made now" in page.text("#online .head")
    online, there = page.one("#online").rect, page.one("#stored").rect
    assert online["y"] == there["y"]
    assert online["x"] + online["width"] <= there["x"]
    assert page.problems() == []


def test_the_page_says_plainly_where_nothing_is_stored(browser: Any, url: str, stored: Stored) -> None:
    page = Page(browser, url)
    page.open(f"?user={stored.user_id}&n=4")
    page.ask(NOBODY)
    assert page.text("#sides") == "No slate is stored for this user; make batch computes them ahead of time."
    assert page.all("#served li")
    assert page.problems() == []


def test_without_triton_the_page_says_how_old_the_slate_is(
    browser: Any, stored: Stored, lonely_url: str
) -> None:
    page = Page(browser, lonely_url)
    page.open(f"?user={stored.user_id}&n=4")
    assert "This slate was stored ahead of time, 3 h ago." in page.text("#notes")
    assert "ensemble cannot be reached" in page.text("#notes")
    assert "from the stored slates" in page.text("#status")
    assert "The ensemble did not answer." in page.text("#online")
    assert len(page.all("#served li")) == len(page.all("#stored li")) == 4
    assert page.problems() == []
