"""`make materialize` into a Redis that asks for user and password, and over TLS."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from redis import Redis

from contract import names
from contract.dataset import DatasetError
from contract.environment import AUTHENTICATION_FAILED, RedisUrl
from contract.feast import feature_key
from contract.keys import seen_key
from feature_repo import __main__ as command
from feature_repo.materialize import materialize
from tests.builders.datasets import quiet, small_world
from tests.builders.features import load
from tests.builders.guarded_redis import as_user, entered
from tests.builders.redis_server import redis_server
from training.data.prepared import Prepared


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return small_world(tmp_path_factory.mktemp("var"))


@pytest.fixture
def open_redis(tmp_path: Path) -> Iterator[RedisUrl]:
    """A Redis that anyone may enter until it has a user."""
    with redis_server(tmp_path) as url:
        yield url


@pytest.mark.parametrize("how", ["user", "tls"])
def test_everything_arrives_changes_and_goes_for_the_documented_user(
    world: Prepared, open_redis: RedisUrl, tmp_path: Path, how: str
) -> None:
    gone, remaining = (int(user) for user in world.users[names.USER_ID].iloc[:2])
    fewer = replace(
        world,
        users=world.users.iloc[1:],
        interactions=world.interactions[world.interactions[names.USER_ID] != gone],
    )
    with entered(open_redis, tmp_path, how) as url:
        first = load(world, url)
        assert first.written == first.rows
        assert load(fewer, url).deleted[names.USER_PROFILE] == 1
    name = world.dataset.name
    with Redis(**open_redis.connection_kwargs()) as redis:
        assert [redis.exists(seen_key(name, user)) for user in (gone, remaining)] == [0, 1]
        assert [redis.exists(feature_key(names.USER_ID, user, name)) for user in (gone, remaining)] == [0, 1]


def test_a_wrong_password_is_told_as_one_and_without_it(
    world: Prepared,
    open_redis: RedisUrl,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    load(world, open_redis)
    right = as_user(open_redis)
    wrong = RedisUrl(f"redis://{right.user}:wr0ng@{right.address}")
    monkeypatch.setenv("SHORTLIST_REDIS_URL", wrong.get_secret_value())
    monkeypatch.setenv("SHORTLIST_VAR_DIR", str(world.folder.parents[1]))
    capfd.readouterr()
    assert command.main(["materialize", "--data", world.dataset.name]) == 1
    out, said = capfd.readouterr()
    assert AUTHENTICATION_FAILED in said
    assert said.count("\n") == 1
    assert "wr0ng" not in said + out


def test_a_right_the_user_lacks_is_named_without_the_password(world: Prepared, open_redis: RedisUrl) -> None:
    load(world, open_redis)
    user = as_user(open_redis)
    with Redis(**open_redis.connection_kwargs()) as redis:
        redis.execute_command("ACL", "SETUSER", user.user, "-hset")
        redis.flushall()
    message = "User shortlist has no permissions to run the 'hset' command; docs/operations.md lists"
    with pytest.raises(DatasetError, match=f"^Redis at {user.address}: {message}"):
        materialize(world.folder, user, say=quiet)


def test_a_full_redis_says_so_and_keeps_every_row_that_it_has(world: Prepared, open_redis: RedisUrl) -> None:
    load(world, open_redis)
    with Redis(**open_redis.connection_kwargs()) as redis:
        before = {key: redis.hgetall(key) for key in redis.scan_iter("*_id*")}
        redis.config_set("maxmemory", 1)
        changed = replace(world, items=world.items.assign(item_brand="another"))
        with pytest.raises(DatasetError, match="it is full: raise its maxmemory"):
            load(changed, open_redis)
        assert {key: redis.hgetall(key) for key in redis.scan_iter("*_id*")} == before
        redis.config_set("maxmemory", 0)
        load(changed, open_redis)
        assert {key: redis.hgetall(key) for key in redis.scan_iter("*_id*")} != before
