"""The report: what was shown joined with what was clicked, and a bundle that did not serve."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract.event_archive import event_table, events_folder
from contract.events import Event
from contract.routing import CHAMPION
from contract.shown import Shown, shown_folder
from contract.tensors import plain_request
from ensemble.bundle import LoadedBundle
from ensemble.graph import Stores
from ensemble.run.recommender import Recommender, item_table
from live.__main__ import main
from live.archive import Archive
from live.drawing import WIDTH, intervals
from live.estimates import Estimate
from live.replay import LoggedAnswer, Replay, RewoundFeatures
from live.report import clicks_of, estimate_other, explored, join, lines_of
from live.report_page import click_sections, write_page
from live.shown import ShownHandler, read_shown
from live.streams import Entry
from tests.builders.live import synthetic_dataset
from tests.builders.triton import NOW, World, make_recommender, make_settings, make_world, memory_index

DATASET = synthetic_dataset()
AT_MS = 1_790_000_000_000
PLACES = 3
TEMPERATURE = 0.7


def note(request: str, user_id: int, items: Sequence[int], **changed: Any) -> Shown:
    fields: dict[str, Any] = {
        "at_ms": AT_MS,
        "bundle": "one",
        "arm": CHAMPION,
        "source": "ensemble",
        "scores": (0.5,) * len(items),
        "chances": (0.5,) * len(items),
        **changed,
    }
    return Shown(request_id=request, user_id=user_id, item_ids=tuple(items), **fields)


def archive(var: Path, notes: Sequence[Shown], events: Sequence[Event] = ()) -> None:
    """Writes both archives, as the consumer does."""
    handler = ShownHandler(DATASET, var)
    entries = [Entry("shown", f"{one.at_ms}-{at}", one.entry()) for at, one in enumerate(notes)]
    handler.archive.write(entries)
    of_events = Archive(
        events_folder(var, DATASET.name),
        lambda _: event_table(DATASET, events, [(event.at_us // 1000, 0) for event in events]),
    )
    if events:
        of_events.write([Entry("events:0", f"{AT_MS}-0", {})])


def click(user_id: int, item_id: int, request: str | None, after_ms: int = 60_000, **labels: int) -> Event:
    at_us = (AT_MS + after_ms) * 1000
    return Event(
        f"{user_id}-{item_id}-{request}", user_id, item_id, at_us, labels or {"is_click": 1}, {}, request
    )


def test_notes_come_back_from_the_archive_each_once_oldest_first(tmp_path: Path) -> None:
    first = note("a", 7, [3, 4], degraded=("short",), context={"context_hour": 3})
    later = note("b", -5, [2**62], at_ms=AT_MS + 5_000_000, first_place=11, is_plain=False)
    archive(tmp_path, [later, first])
    archive(tmp_path, [first])
    found = read_shown(tmp_path, DATASET.name)
    assert [replace(one, scores=one.scores) for one in found] == [first, later]


def test_what_is_no_note_is_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    handler = ShownHandler(DATASET, tmp_path)
    handler.archive.write(
        [Entry("shown", "1-0", {b"x": b""}), Entry("shown", "2-0", note("a", 7, [3]).entry())]
    )
    assert [one.request_id for one in read_shown(tmp_path, DATASET.name)] == ["a"]
    assert "shown 1-0: no note of an answer" in capsys.readouterr().err


def test_clicks_are_joined_by_request_user_and_item_and_count_once(tmp_path: Path) -> None:
    notes = [note("a", 7, [3, 4]), note("b", 8, [3, 5], bundle="two", arm="test"), note("c", 9, [6])]
    events = [
        click(7, 3, "a"),
        click(7, 3, "a", 90_000, is_click=1),
        click(8, 5, "a"),  # another user's request
        click(7, 9, "a"),  # was not in it
        click(8, 3, "b", is_click=0),
        click(9, 6, None),
    ]
    archive(tmp_path, notes, events)
    clicks = clicks_of(DATASET, join(DATASET, tmp_path))
    assert (clicks.answers, clicks.clicks) == (3, 1)
    assert {name: one.value for name, one in clicks.arms.items()} == {
        "one · champion": pytest.approx(1 / 3),
        "two · test": 0.0,
    }
    assert clicks.by_place["place 1"].value == pytest.approx(1 / 3)
    assert clicks.by_place["place 2"].value == 0.0
    assert "one · champion" in "\n".join(lines_of(clicks))


def test_an_empty_archive_and_events_without_requests_are_explained(tmp_path: Path) -> None:
    clicks = clicks_of(DATASET, join(DATASET, tmp_path))
    assert clicks.remarks[0].startswith("nothing was shown yet")
    archive(tmp_path, [note("a", 7, [3])], [click(7, 3, None)])
    assert "send `request_id`" in clicks_of(DATASET, join(DATASET, tmp_path)).remarks[0]


def rewound(world: World, **changed: Any) -> tuple[Recommender, RewoundFeatures]:
    """The chain over the world's stores in memory, whose users may be rewound."""
    bundle, settings = LoadedBundle.open(world.folder), make_settings(**changed)
    features = RewoundFeatures(world.memory_store(max_seen=settings.max_seen))
    items = item_table(bundle, features, settings)
    items.load()
    stores = Stores(features, memory_index(world, bundle), items)
    return Recommender(bundle, stores, settings, lambda: NOW.timestamp()), features


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world") / "tiny-1")


def explored_answers(world: World) -> list[LoggedAnswer]:
    """What the world's bundle answers to its users while it explores."""
    chain = make_recommender(world, exploration_temperature=TEMPERATURE)
    users = np.array(world.user_ids[:40], np.int64)
    request = plain_request(users, PLACES, chain.bundle.manifest.context)
    request["seed"] = np.arange(len(users))[:, None]
    table = chain.run(request)
    return [
        LoggedAnswer(
            note(
                f"r{row}",
                int(user),
                table["item_ids"][row, :PLACES].tolist(),
                chances=tuple(table["propensities"][row, :PLACES].tolist()),
            ),
            frozenset(table["item_ids"][row, :1].tolist()) if row % 3 == 0 else frozenset(),
            frozenset(),
        )
        for row, user in enumerate(users)
        if (table["item_ids"][row, :PLACES] >= 0).all()
    ]


def test_a_bundle_that_is_replayed_has_the_chances_with_which_it_served(world: World) -> None:
    answers = explored_answers(world)
    chain, features = rewound(world)
    logged = Replay(chain, features, TEMPERATURE).logged(answers, PLACES)
    np.testing.assert_allclose(logged.target, logged.chances, rtol=2e-5)
    np.testing.assert_allclose(logged.ratios, 1, rtol=1e-4)
    assert logged.clicks.sum() == sum(len(one.clicked) for one in answers)
    np.testing.assert_allclose(logged.expected.sum(axis=0)[0], logged.clicks.sum(axis=0)[0])


def test_what_users_did_since_does_not_count(world: World) -> None:
    answers = explored_answers(world)
    since = [replace(one, later=one.clicked) for one in answers]
    chain, features = rewound(world)
    store: Any = features._store
    for one in answers:
        known = store.seen.get(one.note.user_id, ())
        store.seen[one.note.user_id] = [*one.clicked, *known]
    replay = Replay(chain, features, TEMPERATURE)
    aware, fooled = replay.logged(since, PLACES), replay.logged(answers, PLACES)
    np.testing.assert_allclose(aware.target, aware.chances, rtol=2e-5)
    assert (fooled.target[fooled.clicks > 0] == 0).all(), "it would not show what was seen"


def test_without_exploration_nothing_is_estimated_and_it_is_said(world: World) -> None:
    served = [
        replace(one, note=replace(one.note, chances=(1.0,) * PLACES)) for one in explored_answers(world)
    ]
    assert explored(served, PLACES) == []
    clicks = clicks_of(DATASET, served)
    chain, features = rewound(world)
    estimate_other(clicks, "other", Replay(chain, features, 0.0), served)
    assert clicks.others == []
    assert "SHORTLIST_EXPLORATION_TEMPERATURE" in clicks.remarks[0]


def test_the_page_shows_rates_and_estimates_and_escapes_names(world: World, tmp_path: Path) -> None:
    answers = explored_answers(world)
    answers[0] = replace(answers[0], note=replace(answers[0].note, arm="<b>"))
    clicks = clicks_of(DATASET, answers)
    chain, features = rewound(world)
    estimate_other(clicks, "other", Replay(chain, features, TEMPERATURE), answers)
    assert [one.places for one in clicks.others] == [1, 3]
    assert clicks.others[0].snips.value == pytest.approx(clicks.others[0].served.value, rel=1e-3)
    write_page(tmp_path / "report.html", "tiny", click_sections(clicks))
    page = (tmp_path / "report.html").read_text()
    assert "doubly robust" in page
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert page.count("<svg") == 5
    assert "doubly robust" in "\n".join(lines_of(clicks))


def test_folders_are_by_hour(tmp_path: Path) -> None:
    archive(tmp_path, [note("a", 7, [3])])
    hour = datetime.fromtimestamp(AT_MS / 1000, UTC)
    assert [path.name for path in shown_folder(tmp_path, DATASET.name).iterdir()] == [f"{hour:%Y-%m-%dT%H}"]


def test_a_plot_leaves_room_for_the_name_of_a_bundle_and_its_arm() -> None:
    name = "synthetic-20261129-163447-8f0a9f10 · champion"
    drawn = intervals([(name, Estimate(0.1, 0.05, 0.2, 100.0))], "by arm")
    found = re.search(rf'<text x="(\d+)" [^>]*text-anchor="end">{name}<', drawn)
    assert found
    assert int(found[1]) >= 7 * len(name)
    assert float(re.findall(r'x2="([\d.]+)"', drawn)[0]) < WIDTH


@pytest.mark.parametrize("command", ["report", "watch", "consume"])
def test_where_nothing_was_trained_the_command_says_what_to_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    monkeypatch.delenv("SHORTLIST_BUNDLE_DIR", raising=False)
    monkeypatch.setenv("SHORTLIST_VAR_DIR", str(tmp_path))
    assert main([command]) == 1
    error = capsys.readouterr().err
    assert "bundles/current/manifest.json: not found; run `make train promote`" in error
    assert error.count("\n") == 1
