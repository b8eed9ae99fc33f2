"""The watch: what it finds of ages and drift, in Redis and for Prometheus."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import generate_latest
from redis import Redis

from contract import names
from contract.bundle import MANIFEST_FILE, sha256
from contract.drift import REFERENCE_FILE, RETRIEVED, SCORES, SERVED, USER_VECTOR_NORM, Reference, numbers_of
from contract.environment import RedisUrl
from contract.events import GROUP
from contract.keys import (
    batch_key,
    bundles_key,
    event_stream_key,
    materialized_at_key,
    routing_key,
    shown_key,
    watched_key,
)
from contract.routing import CHAMPION, Routing
from contract.shown import Shown
from contract.slates import Published
from contract.watched import Watched
from ensemble.bundle import LoadedBundle
from ensemble.settings import EnsembleSettings
from live.freshness import Freshness
from live.report_page import freshness_sections
from live.served import ServedValues
from live.settings import LiveSettings
from live.watch import ServedWatch, reference_of
from tests.builders.triton import World, make_world

WINDOW = 100


def notes_of(world: World, answers: int, first_item: int = 0, seed: int = 0) -> list[Shown]:
    """Answers to users at random, of five items from `first_item` on."""
    rng = np.random.default_rng(seed)
    return [
        Shown(
            f"r{at}",
            at,
            world.folder.name,
            CHAMPION,
            "ensemble",
            int(rng.choice(world.user_ids)),
            tuple(rng.choice(world.item_ids[first_item : first_item + 40], 5, replace=False).tolist()),
            tuple(rng.uniform(0, 1, 5).tolist()),
            (1.0,) * 5,
        )
        for at in range(answers)
    ]


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A bundle whose reference is of answers from the first forty items."""
    made = make_world(tmp_path / "bundles" / "tiny-1")
    (tmp_path / "bundles" / "current").symlink_to(made.folder)
    bundle = LoadedBundle.open(made.folder)
    values = ServedValues(bundle, made.memory_store(max_seen=32)).of(notes_of(made, 1000))
    seal(made.folder, Reference.of(values, numbers_of(made.dataset)))
    return made


def seal(folder: Path, reference: Reference) -> None:
    """Puts a reference into a bundle."""
    (folder / REFERENCE_FILE).write_text(reference.model_dump_json())
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    manifest["checksums"][REFERENCE_FILE] = sha256(folder / REFERENCE_FILE)
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))


def show(redis: Any, notes: Iterable[Shown], dataset: str) -> None:
    for note in notes:
        redis.xadd(shown_key(dataset), note.entry())


def make_watch(redis: Redis, url: RedisUrl, world: World, **changed: Any) -> tuple[ServedWatch, list[str]]:
    said: list[str] = []
    live = LiveSettings(**{"watch_port": 0, "watch_answers": 1000, "drift_answers": WINDOW, **changed})
    chain = EnsembleSettings(var_dir=world.folder.parents[1], redis_url=url, max_seen=512)
    watch = ServedWatch(redis, chain, live, world.dataset.name, said.append)
    watch.look()
    assert watch.window is not None
    assert watch.bundle is not None
    watch._values = ServedValues(watch.bundle, world.memory_store(max_seen=32))
    return watch, said


def test_it_counts_features_vectors_scores_and_what_is_retrieved_and_served(
    world: World,
) -> None:
    known = set(Reference.model_validate_json((world.folder / REFERENCE_FILE).read_text()).histograms)
    assert {
        USER_VECTOR_NORM,
        SCORES,
        "user_age",
        "user_region",
        "user_tags",
        names.USER_EVENT_COUNT,
    } <= known
    assert {SERVED + "item_category", SERVED + "item_price", RETRIEVED + "item_category"} <= known
    assert RETRIEVED + "item_price" not in known


def test_drift_is_found_once_something_else_is_served_and_not_before(
    redis: Redis, redis_url: RedisUrl, world: World
) -> None:
    watch, said = make_watch(redis, redis_url, world)
    name = world.dataset.name
    show(redis, notes_of(world, WINDOW - 1, seed=1), name)
    found = watch.look()
    assert (found.answers, found.drift) == (WINDOW - 1, {}), "the window is not full"
    assert f"not known yet, {WINDOW - 1} of the {WINDOW} answers" in found.lines()[-1]
    assert "shortlist_drift_answers 0.0" in generate_latest(watch.gauges.registry).decode()
    show(redis, notes_of(world, 4 * WINDOW, seed=2), name)
    found = watch.look()
    assert found.answers >= WINDOW
    assert found.drifted == ()
    show(redis, notes_of(world, WINDOW, first_item=45, seed=3), name)
    show(redis, notes_of(world, 1, first_item=45, seed=4), name)
    watch.look()
    found = watch.look()
    assert any(one.startswith(SERVED) for one in found.drifted)
    assert not any(one.startswith("user_") for one in found.drifted)
    assert "drift: in" in said[-1]
    client: Any = redis
    assert Watched.model_validate_json(client.get(watched_key(name))) == found
    assert 0 < client.ttl(watched_key(name)) <= 60
    page = "".join(
        freshness_sections(Watched.found(client.get(watched_key(name))), reference_of(world.folder))
    )
    assert page.count("<svg") == len(found.drift)
    assert f"{found.drifted[0]}: PSI" in page
    assert "class=late" in page
    text = generate_latest(watch.gauges.registry).decode()
    assert f'shortlist_drifted{{feature="{found.drifted[0]}"}} 1.0' in text
    assert 'shortlist_drifted{feature="user_region"} 0.0' in text


def test_answers_that_are_unlike_the_reference_count_for_users_alone(world: World) -> None:
    bundle = LoadedBundle.open(world.folder)
    values = ServedValues(bundle, world.memory_store(max_seen=32))
    for unlike in ({"chances": (0.5,) * 5}, {"is_plain": False}, {"source": "popular"}):
        found = values.of([replace(note, **unlike) for note in notes_of(world, 5)])
        assert "user_region" in found
        assert not any(one.startswith(SERVED) or one == SCORES for one in found)
    found = values.of([replace(note, context={"context_tab": 1}) for note in notes_of(world, 5)])
    assert SCORES not in found
    assert SERVED + "item_category" in found


def test_of_many_answers_some_are_looked_at_and_of_another_bundle_none(
    redis: Redis, redis_url: RedisUrl, world: World
) -> None:
    watch, _ = make_watch(redis, redis_url, world, watch_answers=7)
    show(redis, [replace(note, bundle="other") for note in notes_of(world, 20)], world.dataset.name)
    show(redis, notes_of(world, 20), world.dataset.name)
    watch.look()
    assert watch.window is not None
    assert watch.window.answers == 7


def test_it_follows_the_champion_and_a_bundle_without_a_reference_is_watched_without_drift(
    redis: Redis, redis_url: RedisUrl, world: World
) -> None:
    watch, said = make_watch(redis, redis_url, world)
    make_world(world.folder.with_name("tiny-2"), bundle="tiny-2")
    client: Any = redis
    client.set(routing_key(world.dataset.name), Routing(champion="tiny-2").encode())
    show(redis, [note for note in notes_of(world, WINDOW)], world.dataset.name)
    found = watch.look()
    assert (found.bundle, found.drift) == ("tiny-2", {})
    assert said[-1] == "watching tiny-2"
    assert "not known yet" in found.lines()[-1]


def test_a_link_to_a_bundle_of_another_data_set_is_not_followed(
    redis: Redis, redis_url: RedisUrl, world: World
) -> None:
    watch, _ = make_watch(redis, redis_url, world)
    other = make_world(world.folder.with_name("other-1"), bundle="other-1", name="other")
    link = world.folder.with_name("current")
    link.unlink()
    link.symlink_to(other.folder)
    assert watch.look().bundle == "tiny-1"


def test_ages_are_those_of_what_redis_holds(redis: Any, world: World) -> None:
    name, now_s = world.dataset.name, 1_800_000_000.0
    manifest = LoadedBundle.open(world.folder).manifest
    fresh = Freshness(redis, name, lambda: now_s)
    ages = fresh.ages(manifest)
    assert {of for of, age in ages.items() if age is None} == {*names.VIEWS, "slates", "index"}
    assert ages["bundle"] == now_s - datetime.fromisoformat(manifest.created_at).timestamp()
    assert fresh.event_lag_s() == 0
    began = datetime.fromtimestamp(now_s - 50, UTC)
    redis.set(materialized_at_key(name), now_s - 100)
    redis.set(batch_key(name), Published((f"{began:%Y%m%d-%H%M%S}-abcd",)).encode())
    redis.zadd(bundles_key(name), {manifest.bundle: now_s - 70})
    stream = event_stream_key(name, 3)
    for ms in (9_000, 7_000, 4_000):
        redis.xadd(stream, {"event": "x"}, id=f"{int(now_s * 1000) - ms}-0")
    redis.xgroup_create(stream, GROUP, f"{int(now_s * 1000) - 9_000}-0")
    ages = fresh.ages(manifest)
    assert ages[names.USER_PROFILE] == ages[names.ITEM_CATALOG] == 100
    assert ages[names.USER_ACTIVITY] == ages[names.ITEM_ACTIVITY] == 9
    assert (ages["slates"], ages["index"]) == (50, 70)
    assert fresh.event_lag_s() == 7


def test_a_finding_says_itself_to_people() -> None:
    found = Watched(
        at_s=time.time(), bundle="b", ages_s={"bundle": 90_000 * 3, "index": None}, event_lag_s=0.4
    )
    assert found.lines()[:2] == ["b: bundle 3 d, index none yet", "events: the oldest waits for 0 s"]
    assert Watched(at_s=time.time(), bundle="b").lines()[1] == "events: none waits"
    full = Watched(at_s=time.time(), bundle="b", answers=9, wanted=9)
    assert "no reference.json" in full.lines()[-1]
