"""Items come and go while a bundle serves, on a real Redis: found, filtered, shown, and kept."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from redis import Redis

from contract import names
from contract.dataset import Dataset
from contract.errors import StageError
from contract.event_archive import read_archive
from contract.feast import AVAILABILITY_FIELD, UNAVAILABLE, feature_key
from contract.ids import number_of
from contract.keys import (
    batch_key,
    batch_runs_key,
    batch_stored_key,
    catalogue_reply_key,
    item_card_key,
    item_vector_key,
    live_items_key,
    live_version_key,
    removed_users_key,
    shown_key,
    slate_key,
    stream_lease_key,
)
from contract.live_catalogue import (
    FORGET,
    MOST_FILES,
    PUT,
    SHOW,
    TAKE_OUT,
    Change,
    LiveState,
    catalogue_folder,
    digest_of_user,
    read_changes,
    write_changes,
)
from contract.live_files import read_files
from contract.shown import Shown
from contract.slates import Degradation, Published, StoredSlate, degradations
from contract.tensors import PAD_ID
from ensemble.publish import index, live_items
from ensemble.publish.live_items import LiveItemWriter
from ensemble.run.recommender import Recommender
from ensemble.stores.features import RedisFeatureStore
from live.catalogue import CatalogueHandler
from live.consumer import Consumer
from live.streams import Entry
from live.transaction import Transaction
from tests.builders.catalogue import ask_for, make_catalogue, put_items
from tests.builders.live import accept, click, drain, make_consumer
from tests.builders.site import Site
from tests.builders.triton import make_request, slate
from tests.contract.triton.test_live import wait_until

NEW = 7_000_000
ROW: dict[str, Any] = {
    "item_id": NEW,
    "item_category": 3,
    "item_brand": "new brand",
    "item_tags": [1, 4],
    "item_price": 2.5,
    "item_name": "brand new",
    "item_is_available": True,
}


@pytest.fixture
def consumer(site: Site, redis: Redis) -> Consumer:
    return make_catalogue(redis, site.old.dataset, site.var)[0]


def ask(recommender: Recommender, user: int = 101, **request: Any) -> list[int]:
    assert recommender.stores.live is not None
    recommender.stores.live.look(recommender.renew)
    (answer,) = recommender.answer([make_request(user, **request)])
    return slate(answer)


def test_a_new_item_is_found_filtered_and_gone_again(site: Site, redis: Redis, consumer: Consumer) -> None:
    dataset, wanted = site.old.dataset, {"item_brand": ["new brand"]}
    with site.serving(site.old) as recommender:
        assert ask(recommender, filters=wanted) == []
        put_items(redis, dataset, ROW)
        drain(consumer)
        assert ask(recommender, filters=wanted) == [NEW]
        assert ask(recommender, filters={"item_price": {"gte": 2.2}}) == [NEW]
        assert NEW in recommender.offers.current.catalogue.item_ids
        put_items(redis, dataset, {**ROW, "item_is_available": False})
        drain(consumer)
        assert ask(recommender, filters=wanted) == []
        put_items(redis, dataset, {**ROW, "item_brand": "acme"})
        drain(consumer)
        assert ask(recommender, filters=wanted) == []
        assert NEW in ask(recommender, n=60, filters={"item_brand": ["acme"]})
        ask_for(redis, dataset, TAKE_OUT, str(NEW))
        drain(consumer)
        assert NEW not in ask(recommender, n=60)
        assert not redis.exists(item_card_key("old", NEW), item_vector_key("old", NEW))
        put_items(redis, dataset, ROW)
        drain(consumer)
        assert ask(recommender, filters=wanted) == [NEW], "it came back"


def test_nothing_is_like_a_new_item_that_was_taken_out(site: Site, redis: Redis, consumer: Consumer) -> None:
    dataset = site.old.dataset

    def is_known(recommender: Recommender) -> bool:
        ask(recommender)
        (answer,) = recommender.answer([make_request(PAD_ID, like=NEW)])
        assert not isinstance(answer, StageError)
        return Degradation.UNKNOWN_ITEM not in degradations(int(answer["degraded"][0, 0]))

    with site.serving(site.old) as recommender:
        for _ in range(2):
            assert not is_known(recommender)
            put_items(redis, dataset, ROW)
            drain(consumer)
            assert is_known(recommender)
            ask_for(redis, dataset, TAKE_OUT, str(NEW))
            drain(consumer)
        assert not is_known(recommender)


def test_an_event_on_an_item_that_was_taken_out_does_not_bring_it_back(
    site: Site, redis: Any, consumer: Consumer
) -> None:
    dataset, wanted = site.old.dataset, {"item_brand": ["new brand"]}
    both = [site.old.item_ids[7], NEW]
    events, _ = make_consumer(redis, dataset, site.var)
    with site.serving(site.old) as recommender:
        put_items(redis, dataset, *({**ROW, "item_id": item} for item in both))
        drain(consumer)
        assert sorted(ask(recommender, filters=wanted)) == both
        for item in both:
            ask_for(redis, dataset, TAKE_OUT, str(item))
        drain(consumer)
        accept(redis, dataset, [click(102, item) for item in both])
        drain(events)
        assert all(redis.exists(feature_key(names.ITEM_ID, item, dataset.name)) for item in both)
        recommender.stores.items.load()
        assert ask(recommender, filters=wanted) == []
        put_items(redis, dataset, {**ROW, "item_id": both[0]})
        drain(consumer)
        assert ask(recommender, filters=wanted) == both[:1], "put again it is back"


def test_a_serving_chain_follows_by_itself(
    site: Site, redis: Redis, consumer: Consumer, record_property: Callable[[str, object], None]
) -> None:
    stop = threading.Event()
    working = threading.Thread(target=consumer.keep, args=(stop,))
    with site.serving(site.old) as recommender:
        live = recommender.stores.live
        assert live is not None
        live.start(recommender.renew)
        working.start()
        try:
            began = time.monotonic()
            put_items(redis, site.old.dataset, ROW)
            request = make_request(101, filters={"item_brand": ["new brand"]})
            while time.monotonic() < began + 10.0 and slate(recommender.answer([request])[0]) != [NEW]:
                time.sleep(0.02)
            assert slate(recommender.answer([request])[0]) == [NEW]
            record_property("put_to_slate_s", round(time.monotonic() - began, 3))
        finally:
            stop.set()
            working.join()
            live.stop()


def test_an_item_of_the_bundle_changes_and_its_vector_follows(
    site: Site, redis: Any, consumer: Consumer
) -> None:
    known = site.old.item_ids[7]
    writer, other = LiveItemWriter(site.old.folder), {**ROW, "item_category": 1}
    vectors = [writer.vectors({known: row}) for row in (ROW, other)]
    assert not np.allclose(vectors[0], vectors[1], atol=0.01)
    with site.serving(site.old) as recommender:
        for row, vector in ((other, vectors[1]), (ROW, vectors[0])):
            put_items(redis, site.old.dataset, {**row, "item_id": known})
            drain(consumer)
            stored = np.frombuffer(redis.hget(item_vector_key("old", known), "vector"), "<f4")
            np.testing.assert_allclose(stored, vector[0], rtol=1e-6)
            ask(recommender)
            found = recommender.offers.current.catalogue.vectors_of(np.array([7]))
            np.testing.assert_allclose(found, vector, atol=1e-4)
        assert ask(recommender, filters={"item_brand": ["new brand"]}) == [known]
        ask_for(redis, site.old.dataset, TAKE_OUT, str(known))
        drain(consumer)
        assert known not in ask(recommender, n=60)


def test_changes_of_many_items_have_their_effect_within_the_time_of_a_lease(
    site: Site, redis: Any, consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, apply, most = site.old.dataset, CatalogueHandler.apply, 5_000
    applied: list[int] = []

    def apply_and_expire(handler: CatalogueHandler, entries: Sequence[Entry], transaction: Any) -> None:
        apply(handler, entries, transaction)
        applied.append(sum(entry.fields[b"change"].count(b'"item_id"') for entry in entries))
        if applied[-1] > most:  # as if it had taken longer than the lease
            redis.delete(*map(stream_lease_key, handler.streams))

    monkeypatch.setattr(CatalogueHandler, "apply", apply_and_expire)
    items = range(NEW, NEW + 20 * 500)
    for start in items[::500]:
        put_items(redis, dataset, *({"item_id": item} for item in range(start, start + 500)))
    for _ in range(4):
        consumer.step()
    assert sum(applied) == redis.hlen(live_items_key(dataset.name)) == len(items)


def test_a_new_item_s_vector_is_the_towers_of_an_unknown_id(
    site: Site, redis: Any, consumer: Consumer
) -> None:
    put_items(redis, site.old.dataset, ROW, {**ROW, "item_id": NEW + 1, "item_category": None})
    drain(consumer)
    stored = [np.frombuffer(redis.hget(item_vector_key("old", NEW + i), "vector"), "<f4") for i in (0, 1)]
    tower = LiveItemWriter(site.old.folder)._tower
    codes = {"item_id": np.array([2, 2]), "item_category": np.array([6, 1])}
    np.testing.assert_allclose(np.stack(stored), tower(codes), rtol=1e-6)


def test_the_row_reads_as_it_was_put(site: Site, redis: Any, consumer: Consumer) -> None:
    dataset = site.old.dataset
    put_items(redis, dataset, {**ROW, "item_is_available": None, "item_brand": None, "item_tags": []})
    drain(consumer)
    rows = RedisFeatureStore(redis, dataset, dataset.clock).read_items(np.array([NEW]))
    row = {name: column[0] for name, column in rows.columns.items()}
    assert rows.is_found.all()
    assert not rows.is_lacking.any()
    assert (row["item_category"], row["item_brand"], row["item_price"]) == (3, None, 2.5)
    assert {*row["item_tags"].tolist()} == {names.NULL_INT}
    assert redis.hget(feature_key("item_id", NEW, dataset.name), AVAILABILITY_FIELD) != UNAVAILABLE
    assert json.loads(redis.get(item_card_key("old", NEW))) == {"item_name": "brand new"}


def test_materialising_and_another_bundle_keep_what_came_live(
    site: Site, redis: Redis, consumer: Consumer
) -> None:
    known, gone = site.old.item_ids[7], site.old.item_ids[9]
    put_items(redis, site.old.dataset, ROW, {**ROW, "item_id": known})
    ask_for(redis, site.old.dataset, TAKE_OUT, str(gone))
    drain(consumer)
    for _ in range(2):
        site.materialize(site.old)
    newer = site.trained(site.old, "newer")
    site.promote("newer")
    assert site.export() == 0
    assert site.export() == 0, "and what is built is known to be"
    for world in (site.old, newer):
        with site.serving(world) as recommender:
            assert sorted(ask(recommender, filters={"item_brand": ["new brand"]})) == sorted([NEW, known])
            assert gone not in ask(recommender, n=60)


def test_an_export_that_died_before_it_brought_what_came_live_is_made_whole_by_the_next(
    site: Site, redis: Any, consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> int:
        raise KeyboardInterrupt

    put_items(redis, site.old.dataset, ROW)
    drain(consumer)
    site.trained(site.old, "newer")
    site.promote("newer")
    with monkeypatch.context() as dying:
        dying.setattr(index, "write_live_items", die)
        with pytest.raises(KeyboardInterrupt):
            site.export()
    assert not redis.exists(item_card_key("newer", NEW))
    assert site.export() == 0
    assert redis.exists(item_card_key("newer", NEW), item_vector_key("newer", NEW)) == 2


def test_what_changes_while_an_export_brings_what_came_live_stays_changed(
    site: Site, redis: Any, consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, run = site.old.dataset, live_items._run

    def change_then_run(*given: Any) -> None:
        monkeypatch.undo()
        put_items(redis, dataset, {**ROW, "item_name": "changed"})
        ask_for(redis, dataset, TAKE_OUT, str(NEW + 1))
        drain(consumer)
        run(*given)

    put_items(redis, dataset, ROW, {**ROW, "item_id": NEW + 1})
    drain(consumer)
    monkeypatch.setattr(live_items, "_run", change_then_run)
    assert site.export() == 0
    assert json.loads(redis.get(item_card_key("old", NEW))) == {"item_name": "changed"}
    assert not redis.exists(item_card_key("old", NEW + 1), item_vector_key("old", NEW + 1))


def test_an_emptied_redis_gets_back_what_came_live(site: Site, redis: Any, consumer: Consumer) -> None:
    dataset = site.old.dataset
    put_items(redis, dataset, ROW, {**ROW, "item_id": NEW + 1})
    ask_for(redis, dataset, TAKE_OUT, str(NEW + 1))
    drain(consumer)
    redis.flushall()
    site.materialize(site.old)
    assert site.export() == 0
    _, handler = make_catalogue(redis, dataset, site.var)
    assert handler.restore(redis) == 2
    assert handler.restore(redis) == 0
    with site.serving(site.old) as recommender:
        assert ask(recommender, filters={"item_brand": ["new brand"]}) == [NEW]


def test_what_is_no_change_is_left_out_and_keeps_no_other(
    site: Site, redis: Any, consumer: Consumer, capsys: pytest.CaptureFixture[str]
) -> None:
    redis.xadd(f"catalogue:{site.old.dataset.name}", {"change": b"{"})
    put_items(redis, site.old.dataset, ROW)
    drain(consumer)
    assert redis.exists(item_card_key("old", NEW))
    assert "left out" in capsys.readouterr().err
    assert redis.get(live_version_key(site.old.dataset.name)) == b"1"


def test_all_that_is_held_of_a_user_is_told_and_then_deleted(
    site: Site, redis: Any, consumer: Consumer
) -> None:
    dataset, user = site.old.dataset, 101
    event = click(user, site.old.item_ids[0])
    note = Shown(
        "asked", 7_000, "old", "champion", "ensemble", user, (3, 5), (0.5, 0.25), (1.0, 0.5), ("short",)
    )
    others = replace(note, request_id="other's", user_id=102)
    accept(redis, dataset, [event])
    for one in (note, others):
        redis.xadd(shown_key(dataset.name), one.entry())
    held = told_of(redis, dataset, user, consumer)
    (noted,) = held["shown"]["waiting"]
    assert (noted["request_id"], noted["at_s"], noted["arm"]) == ("asked", 7.0, "champion")
    assert (noted["item_ids"], noted["scores"], noted["chances"]) == ([3, 5], [0.5, 0.25], [1.0, 0.5])
    assert noted["degraded"] == ["short"]
    (did,) = held["events"]["waiting"]
    assert (did["event_id"], did["item_id"], did["is_click"]) == (event.event_id, event.item_id, 1)
    assert held["seen"] == list(site.old.seen[user])
    assert (
        held["features"]["user_recent_item_ids"]
        == site.old.rows[names.USER_ACTIVITY, user][names.USER_RECENT_ITEM_IDS]
    )
    ask_for(redis, dataset, FORGET, str(user))
    held = told_of(redis, dataset, user, consumer)
    nothing: dict[str, Any] = {"waiting": [], "archived": []}
    assert held == {"features": {}, "seen": [], "slates": [], "events": nothing, "shown": nothing}
    assert redis.xlen(shown_key(dataset.name)) == 1, "others' notes stay"
    state = LiveState.of(read_changes(catalogue_folder(site.var, dataset.name)))
    assert [*state.forgotten] == [digest_of_user(user)]


def forget(redis: Any, dataset: Dataset, user: int, consumer: Consumer) -> None:
    """Deletes a user everywhere: who is told of after that has nothing."""
    ask_for(redis, dataset, FORGET, str(user))
    told_of(redis, dataset, user, consumer)


@pytest.mark.parametrize("is_elsewhere", [False, True])
def test_stored_slates_of_a_user_go_from_redis_and_from_files_wherever_these_are_kept(
    site: Site,
    redis: Any,
    consumer: Consumer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_elsewhere: bool,
) -> None:
    name, runs = site.old.dataset.name, site.var / "batch"
    if is_elsewhere:
        runs = tmp_path / "runs"
        monkeypatch.setenv("SHORTLIST_BATCH_DIR", str(runs))
    file = runs / name / "run-1" / "slates" / "part-00000.parquet"
    file.parent.mkdir(parents=True)
    pq.write_table(pa.table({"user_id": [101, 102]}), file)
    redis.sadd(batch_stored_key(name), "run-1")
    for user in (101, 102):
        slate_of_user = StoredSlate(np.array([3]), np.ones(1, np.float32), 0, "old", "run-1", 1)
        redis.set(slate_key("run-1", user), slate_of_user.encode())
    forget(redis, site.old.dataset, 101, consumer)
    assert pq.read_table(file, partitioning=None)["user_id"].to_pylist() == [102]
    assert [bool(redis.exists(slate_key("run-1", user))) for user in (101, 102)] == [False, True]


def test_a_batch_run_is_told_of_a_user_who_is_deleted_while_it_is_unfinished_alone(
    site: Site, redis: Any, consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = site.old.dataset
    name, removed = dataset.name, removed_users_key(dataset.name)
    forget(redis, dataset, 101, consumer)
    redis.zadd(batch_runs_key(name), {"run-0": 1.0, "run-1": 2.0, "run-2": 3.0})
    redis.sadd(batch_stored_key(name), "run-0", "run-1", "run-2")
    redis.set(batch_key(name), Published(("run-2", "run-1"), ("run-0",)).encode())
    forget(redis, dataset, 102, consumer)
    assert not redis.exists(removed), "whoever has its slate does without the number"
    commit = Transaction.commit

    def late(transaction: Transaction) -> list[Any]:
        monkeypatch.setattr(Transaction, "commit", commit)
        redis.sadd(batch_stored_key(name), "run-3")
        return commit(transaction)

    monkeypatch.setattr(Transaction, "commit", late)
    forget(redis, dataset, 103, consumer)
    assert redis.smembers(removed) == {b"103"}, "told to a run that began meanwhile"
    redis.set(batch_key(name), b"no pointer")
    forget(redis, dataset, 104, consumer)
    assert redis.smembers(removed) == {b"103", b"104"}


def told_of(redis: Any, dataset: Dataset, user: int, consumer: Consumer) -> Any:
    """Asks what is held of a user, whose answer comes beside the streams."""
    key = catalogue_reply_key(dataset.name, ask_for(redis, dataset, SHOW, str(user)))
    drain(consumer)
    wait_until(lambda: bool(redis.exists(key)))
    return json.loads(redis.get(key))


@pytest.mark.parametrize("users", [[7, -3, 7], ["a", "b", "a"]])
def test_of_an_archive_the_rows_of_one_user_are_read_each_event_once(
    tmp_path: Path, users: list[Any]
) -> None:
    mine, other = users[:2]
    for hour, owners in {"2026-11-29T10": users, "2026-11-29T11": [other], "2026-11-29T12": [mine]}.items():
        (tmp_path / hour).mkdir()
        table = pa.table({"user_id": owners, "event_id": [f"{at % 2}" for at in range(len(owners))]})
        pq.write_table(table, tmp_path / hour / "0.parquet")
    number = number_of(mine, "string" if isinstance(mine, str) else "int64")
    found = read_archive(tmp_path, number)
    assert found is not None
    assert found.to_pydict() == {"user_id": [mine], "event_id": ["0"]}
    assert read_archive(tmp_path, 12345) is None


def test_many_files_of_changes_become_one_and_tell_the_same(tmp_path: Path) -> None:
    changes = [Change(f"{at}-0", TAKE_OUT, str(at)) for at in range(1, MOST_FILES + 3)]
    for one in changes:
        write_changes(tmp_path, [one])
    assert len([*tmp_path.glob("*.jsonl")]) < 4
    write_changes(tmp_path, changes[:2])
    assert read_changes(tmp_path) == changes


def test_of_changes_that_are_made_one_file_the_last_of_each_item_and_user_stay(tmp_path: Path) -> None:
    half = tmp_path / ".1-0.jsonl.1.2.tmp"
    half.write_text("half")
    os.utime(half, (0, 0))
    changes = [
        Change("1-0", PUT, {"1": {"item_id": 1}, "2": {"item_id": 2}}),
        Change("2-0", PUT, {"3": {"item_id": 3}}),
        Change("3-0", FORGET, "one"),
        Change("3-1", FORGET, "other"),
        Change("4-0", TAKE_OUT, "1"),
        Change("5-0", TAKE_OUT, "3"),
        Change("6-0", FORGET, "one"),
        Change("7-0", PUT, {"3": {"item_id": 3, "item_name": "back"}}),
    ]
    rest = [Change(f"{at}-0", TAKE_OUT, "4") for at in range(8, 8 + MOST_FILES)]
    for one in (*changes, *rest):
        write_changes(tmp_path, [one])
    lasting = [Change("1-0", PUT, {"2": {"item_id": 2}}), *(changes[at] for at in (3, 4, 6, 7))]
    read = read_changes(tmp_path)
    assert read[: len(lasting)] == lasting
    assert len(read) < len(lasting) + 9
    assert {one.content for one in read[len(lasting) :]} == {"4"}
    assert LiveState.of(read).items == LiveState.of([*changes, *rest]).items
    assert LiveState.of(read).forgotten == LiveState.of(changes).forgotten == {"other": 3, "one": 6}
    assert not half.exists()


def test_files_that_were_made_one_while_they_are_read_are_listed_anew(tmp_path: Path) -> None:
    (tmp_path / "whole").write_text("all")
    listings = iter([[tmp_path / "whole", tmp_path / "gone"], [tmp_path / "whole"]])
    assert read_files(lambda: next(listings), Path.read_text) == ["all"]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085", "\n"])
def test_a_change_may_hold_whatever_ends_a_line_elsewhere(tmp_path: Path, separator: str) -> None:
    changes = [Change("1-0", PUT, {"7": {"title": f"one{separator}other"}}), Change("2-0", TAKE_OUT, "8")]
    write_changes(tmp_path, changes)
    assert read_changes(tmp_path) == changes
