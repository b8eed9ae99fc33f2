"""What was shown is noted after the answer, and whatever becomes of the note, the answer does not wait."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from contract.routing import CHAMPION
from contract.shown import HEAD, SCORES, Shown
from contract.slates import Published
from contract.watched import FeatureDrift, Watched
from service.metrics import Metrics
from service.shown import ShownNotes
from tests.builders.gateway import (
    BUNDLE,
    RUN,
    BrokenStore,
    FakeEnsemble,
    client_of,
    make_app,
    make_store,
    make_stored,
)

pytestmark = pytest.mark.anyio

NOTE = Shown(
    "r",
    1,
    BUNDLE,
    CHAMPION,
    "ensemble",
    7,
    (3, 2**62),
    (0.5, 0.25),
    (1.0, 0.125),
    ("short",),
    {"context_hour": 3},
)


def counts(text: str) -> dict[str, float]:
    """Gives the notes by outcome, as /metrics tells them."""
    found = {family.name: family for family in text_string_to_metric_families(text)}
    return {sample.labels["outcome"]: sample.value for sample in found["shortlist_shown"].samples}


def test_a_note_comes_back_from_its_entry() -> None:
    assert Shown.of(NOTE.entry()) == NOTE


@pytest.mark.parametrize("changed", [{HEAD: b"{"}, {HEAD: b"{}"}, {SCORES: b"123"}, {SCORES: b""}], ids=str)
def test_what_is_no_note_is_told(changed: dict[bytes, bytes]) -> None:
    with pytest.raises(ValueError, match="no note of an answer"):
        Shown.of(NOTE.entry() | changed)


async def test_an_answer_is_noted_with_its_request_items_places_and_chances(tmp_path: Path) -> None:
    store = make_store()
    async with client_of(make_app(tmp_path, store=store, shown_ms=1)) as client:
        body = {"user_id": 7, "n": 3, "context": {"context_hour": 5}}
        answer = (
            await client.post("/v1/recommendations", json=body, headers={"x-request-id": "mine"})
        ).json()
        more = {**body, "after": answer["next"]}
        await client.post("/v1/recommendations", json=more, headers={"x-request-id": "next"})
    first, second = store.shown
    assert first == Shown(
        request_id="mine",
        at_ms=first.at_ms,
        bundle=BUNDLE,
        arm=CHAMPION,
        source="ensemble",
        user_id=7,
        item_ids=(208, 210, 212),
        scores=tuple(item["score"] for item in answer["items"]),
        chances=(1.0, 1.0, 1.0),
        context={"context_hour": 5},
    )
    assert (second.request_id, second.first_place, second.is_plain) == ("next", 4, False)


async def test_each_answer_of_many_and_every_filled_place_is_noted(tmp_path: Path) -> None:
    store = make_store()
    async with client_of(make_app(tmp_path, store=store)) as client:
        many = {"requests": [{"user_id": 7, "n": 40}, {"user_id": 8, "n": 2, "exclude_item_ids": [5]}]}
        body = (await client.post("/v1/recommendations/many", json=many)).json()
    assert [note.request_id for note in store.shown] == [one["request_id"] for one in body["answers"]]
    assert [len(note.item_ids) for note in store.shown] == [40, 2]
    assert [len(note.chances) for note in store.shown] == [40, 2]
    assert [note.is_plain for note in store.shown] == [True, False]


async def test_a_stored_slate_is_noted_as_of_the_bundle_that_made_it(tmp_path: Path) -> None:
    stored = [(7, make_stored([300, 301, 302], bundle="older")), (8, make_stored([300, 301, 302]))]
    store = make_store(published=Published((RUN,)), slates=stored)
    async with client_of(make_app(tmp_path, store=store)) as client:
        for user in (7, 8):
            body = {"user_id": user, "n": 3, "source": "batch"}
            assert (await client.post("/v1/recommendations", json=body)).json()["source"] == "batch"
    assert [(note.source, note.bundle) for note in store.shown] == [("batch", "older"), ("batch", BUNDLE)]


async def test_an_answer_that_was_not_sent_is_not_noted(tmp_path: Path) -> None:
    store = make_store()
    async with client_of(make_app(tmp_path, store=store)) as client:
        assert (await client.post("/v1/recommendations", json={"user_id": 7, "n": 0})).status_code == 422
    assert store.shown == []


class SlowStore(BrokenStore):
    """A Redis that takes notes when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.may_write, self.shown = asyncio.Event(), list[Shown]()

    async def note_shown(self, notes: Sequence[Shown], timeout_s: float) -> None:  # noqa: ARG002
        """Waits."""
        await self.may_write.wait()
        self.shown.extend(notes)


async def test_no_answer_waits_for_a_note_and_what_does_not_fit_is_counted(tmp_path: Path) -> None:
    store = SlowStore()
    app = make_app(tmp_path, FakeEnsemble(), store, shown_ms=1, shown_buffer=2)
    async with client_of(app) as client:
        for _ in range(5):
            response = await client.post("/v1/recommendations", json={"user_id": 7, "n": 2})
            assert response.status_code == 200
            await asyncio.sleep(0.01)
        assert store.shown == []
        dropped = counts((await client.get("/metrics")).text)["full"]
        store.may_write.set()
        await asyncio.sleep(0.01)
        assert len(store.shown) + dropped == 5
        assert dropped == 2, "one is under way, two wait"


async def test_what_is_being_written_when_the_gateway_ends_is_written_to_its_end(tmp_path: Path) -> None:
    store = SlowStore()
    async with client_of(make_app(tmp_path, FakeEnsemble(), store, shown_ms=1)) as client:
        for _ in range(3):
            assert (await client.post("/v1/recommendations", json={"user_id": 7, "n": 2})).status_code == 200
            await asyncio.sleep(0.01)
        assert store.shown == []
        asyncio.get_running_loop().call_later(0.05, store.may_write.set)
    assert len(store.shown) == 3, "one was under way, two waited"


async def test_a_redis_that_is_away_loses_notes_which_are_counted_and_answers_go_on() -> None:
    metrics = Metrics(BUNDLE, "synthetic")
    broken: Any = BrokenStore()
    notes = ShownNotes(broken, metrics, 10, 1)
    notes.note([NOTE, replace(NOTE, user_id=8)])
    await notes.flush()
    await notes.flush()
    assert broken.calls == 1
    assert counts(metrics.text().decode()) == {"redis": 2}


async def test_a_buffer_of_none_notes_nothing() -> None:
    store, metrics = make_store(), Metrics(BUNDLE, "synthetic")
    notes = ShownNotes(store, metrics, 0, 1)
    notes.note([NOTE])
    await notes.flush()
    assert store.shown == []
    assert counts(metrics.text().decode()) == {}


async def test_freshness_is_what_the_watch_found_last(tmp_path: Path) -> None:
    store = make_store()
    async with client_of(make_app(tmp_path, store=store)) as client:
        assert (await client.get("/v1/freshness")).json() == {"found": None, "lines": ["nobody watches"]}
        drift = FeatureDrift(psi=0.5, jensen_shannon=0.1, is_drifted=True)
        store.finding = Watched(at_s=1, bundle=BUNDLE, answers=2000, drift={"user_age": drift})
        body = (await client.get("/v1/freshness")).json()
    assert body["found"]["drift"]["user_age"]["is_drifted"]
    assert body["lines"][-1] == "drift: in 1 of 1: user_age (PSI 0.50)"
