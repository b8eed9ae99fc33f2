"""A bundle reads its columns as it knows them, whatever becomes of them in the data set, until it goes."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from contract import names
from contract.columns import Column, Role
from contract.dataset import Dataset
from contract.feast import feature_key, head_of, kept_field
from contract.keys import bundles_key, kept_columns_key
from ensemble.stores.features import RedisFeatureStore
from feature_repo.feast_store import FeastStore
from tests.builders.site import Site, answer
from tests.builders.triton import World

USERS = range(100, 112)
TEXT = Column(role=Role.CATEGORICAL, dtype="string")


def changed(world: World, how: str) -> World:
    """The world after a column of users, and one of items, was retyped, added or dropped."""
    users, items = dict(world.dataset.users), dict(world.dataset.items)
    rows = {key: dict(row) for key, row in world.rows.items()}
    if how == "retyped":
        users["user_age"], items["item_price"] = TEXT, TEXT
    elif how == "added":
        users["user_city"], items["item_colour"] = TEXT, TEXT
    else:
        del users["user_tags"], items["item_brand"]
    for (view, key), row in rows.items():
        for name in ("user_age", "item_price") if how == "retyped" else ():
            if row.get(name) is not None:
                row[name] = f"{row[name]} as text"
        row[{"user_profile": "user_city", "item_catalog": "item_colour"}.get(view, "")] = f"of {key}"
    dataset = world.dataset.model_copy(update={"users": users, "items": items})
    return replace(world, dataset=Dataset.model_validate(dataset.model_dump()), rows=rows)


@contextmanager
def asked(ask: Callable[[int], Any]) -> Iterator[Counter[Any]]:
    """Asks for one user after the other all the time, and counts what comes."""
    found: Counter[Any] = Counter()
    stop = threading.Event()

    def go_on() -> None:
        while not stop.is_set():
            for user in USERS:
                found[user, ask(user)] += 1

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


ORDERS = (
    ("materialize", "promote", "export"),
    ("promote", "export refused", "materialize", "export"),
    ("materialize", "materialize", "export", "promote", "export"),
)


@pytest.mark.parametrize("order", ORDERS, ids=" ".join)
@pytest.mark.parametrize("how", ["retyped", "added", "dropped"])
def test_the_old_bundle_answers_as_before_until_the_new_one_serves_whatever_is_done_first(
    site: Site, how: str, order: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with site.serving(site.old) as old:
        before = {user: answer(old, user) for user in USERS}
    assert {lack for lacking, _ in before.values() for lack in lacking} <= {"unknown_user", "features"}
    assert [user for user, (lacking, _) in before.items() if "unknown_user" in lacking] == [100]
    new = site.trained(changed(site.old, how), "new")
    with site.serving(site.old) as old, asked(lambda user: answer(old, user)) as found:
        for step in order:
            if step == "materialize":
                site.materialize(new)
            elif step == "promote":
                site.promote("new")
            elif step == "export":
                assert site.export() == 0, capsys.readouterr().err
            elif how == "dropped":  # what the new bundle reads is there
                assert site.export() == 0
            else:
                assert site.export() == 1
                assert "Redis has otherwise or not at all" in capsys.readouterr().err
                assert site.redis.zscore(bundles_key("tiny"), "new") is None
    assert set(found) == {(user, slate) for user, slate in before.items()}
    rows = RedisFeatureStore(site.redis, new.dataset, new.dataset.clock).read_users(np.array([101, 105]))
    assert not rows.is_lacking.any(), "the new one reads its own"
    of_new = [new.rows[names.USER_PROFILE, user] for user in (101, 105)]
    for name in {"user_age", "user_city"} & new.dataset.users.keys():
        null = names.NULL_INT if new.dataset.users[name].dtype == "int64" else None
        assert rows.columns[name].tolist() == [null if row[name] is None else row[name] for row in of_new]
    site.promote("old")
    assert site.export() == 0, "and the way back"
    with site.serving(site.old) as old:
        assert {user: answer(old, user) for user in USERS} == before


def test_what_was_kept_goes_with_the_last_bundle_that_reads_it_and_with_the_column_itself(site: Site) -> None:
    key = feature_key(names.USER_ID, 101, "tiny")
    field: Any = kept_field(names.USER_PROFILE, "user_age", head_of(site.old.dataset.users["user_age"]))
    fields = site.redis.hlen(key)
    new = site.trained(changed(site.old, "retyped"), "new")
    site.materialize(new)
    assert site.redis.hexists(key, field)
    assert site.redis.hlen(key) == fields + 1, "what did not change is there once"
    site.materialize(site.old)
    assert not site.redis.hexists(key, field), "the column is as the bundle reads it again"
    assert site.redis.hlen(key) == fields
    site.materialize(new)
    site.promote("new")
    assert site.export("--keep", "1") == 0
    assert site.redis.hexists(key, field)
    site.materialize(new)
    assert site.redis.hlen(key) == fields
    assert not site.redis.exists(kept_columns_key("tiny"))


def test_a_view_whose_only_column_goes_keeps_its_rows_for_the_bundle(site: Site) -> None:
    users: Any = {names.USER_ID: site.old.dataset.users[names.USER_ID]}
    dataset = site.old.dataset.model_copy(update={"users": users})
    before = RedisFeatureStore(site.redis, site.old.dataset, site.old.dataset.clock)
    expected = before.read_users(np.array(USERS))
    site.materialize(replace(site.old, dataset=dataset))
    store = RedisFeatureStore(site.redis, site.old.dataset, site.old.dataset.clock)
    found = store.read_users(np.array(USERS))
    assert found.columns["user_age"].tolist() == expected.columns["user_age"].tolist()
    assert found.columns["user_region"].tolist() == expected.columns["user_region"].tolist()
    assert not found.is_lacking.any()
    assert (found.is_found == expected.is_found).all()


def test_a_run_that_dies_between_keeping_and_writing_harms_no_bundle(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = FeastStore.write

    def die(store: FeastStore, view: str, rows: Any) -> None:
        write(store, view, rows.slice(0, 5))
        raise KeyboardInterrupt

    with site.serving(site.old) as old:
        before = {user: answer(old, user) for user in USERS}
        new = changed(site.old, "retyped")
        with monkeypatch.context() as patch:
            patch.setattr(FeastStore, "write", die)
            for _ in range(2):
                with pytest.raises(KeyboardInterrupt):
                    site.materialize(new)
                assert {user: answer(old, user) for user in USERS} == before
        site.materialize(new)
        assert {user: answer(old, user) for user in USERS} == before


def test_kept_columns_are_read_in_one_round_trip_once_they_were_looked_for(site: Site) -> None:
    site.materialize(changed(site.old, "retyped"))
    store = RedisFeatureStore(site.redis, site.old.dataset, site.old.dataset.clock)

    def trips() -> int:
        before = site.redis.info("stats")["total_reads_processed"]
        assert not store.read_users(np.arange(101, 109)).is_lacking.any()
        return int(site.redis.info("stats")["total_reads_processed"] - before)

    assert [trips() for _ in range(3)] == [3, 2, 2], "the INFO itself is one"
