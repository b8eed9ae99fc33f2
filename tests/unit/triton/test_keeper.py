"""What is kept loaded in Triton, and what is not: over fakes, by a clock that the test moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from contract.routing import Routing
from ensemble.triton.keeper import FIRST_PAUSE_S, BundleKeeper
from ensemble.triton.repository import LoadError, ModelRepository
from tests.builders.triton import World, make_settings

GRACE_S = 60.0
NAME = "tiny-1"


class FakeRepository:
    """Models in memory; `broken` ones do not load."""

    def __init__(self) -> None:
        self.ready: list[str] = []
        self.loads: list[str] = []
        self.broken: set[str] = set()
        self.is_up = True

    def states(self) -> dict[str, str]:
        """Says which are there."""
        if not self.is_up:
            raise ConnectionRefusedError
        return dict.fromkeys(self.ready, "READY")

    def load(self, model: str, timeout_s: float) -> None:  # noqa: ARG002
        """Loads one."""
        self.loads.append(model)
        if model in self.broken:
            raise LoadError(f"{model}: broken")
        self.ready.append(model)

    def unload(self, model: str) -> None:
        """Unloads one."""
        self.ready.remove(model)


class FakeRecord:
    """A Redis that holds the record alone."""

    def __init__(self, routing: Routing | None = None) -> None:
        self.routing, self.is_up = routing, True

    def get(self, key: str) -> bytes | None:
        """Gives it."""
        assert key == "routing:tiny"
        if not self.is_up:
            raise RedisConnectionError("refused")
        return self.routing.encode().encode() if self.routing else None


class Site:
    """A keeper, and what it sees."""

    def __init__(self, current: Path, routing: Routing | None = None) -> None:
        self.triton, self.redis, self.now_s = FakeRepository(), FakeRecord(routing), 1000.0
        settings = make_settings(bundle_dir=current, unload_after_s=GRACE_S)
        repository, redis = cast(ModelRepository, self.triton), cast(Any, self.redis)
        self.keeper = BundleKeeper(repository, redis, settings, lambda: self.now_s)

    def look(self, times: int = 1) -> list[str]:
        """Looks so often, gives what is loaded then."""
        for _ in range(times):
            self.keeper.look()
        return sorted(self.triton.ready)


FULL = Routing(champion="one").split("two", 0.1, "").shadowed("three", "").promoted("four", "")


def test_an_empty_triton_gets_what_the_record_names_the_champion_first(world: World) -> None:
    site = Site(world.folder, FULL)
    assert site.look(times=5) == ["four", "one", "three", "two"]
    assert site.triton.loads == ["four", "two", "three", "one"]


def test_one_that_does_not_load_takes_no_other_with_it_and_is_tried_again_later(world: World) -> None:
    site = Site(world.folder, FULL)
    site.triton.broken = {"two"}
    assert site.look(times=8) == ["four", "one", "three"]
    assert site.triton.loads.count("two") == 1
    site.now_s += FIRST_PAUSE_S
    site.look(times=2)
    assert site.triton.loads.count("two") == 2
    site.now_s += FIRST_PAUSE_S
    site.look()
    assert site.triton.loads.count("two") == 2, "each pause is twice as long"
    site.triton.broken.clear()
    site.now_s += FIRST_PAUSE_S
    assert site.look() == ["four", "one", "three", "two"]


def test_what_leaves_the_record_is_unloaded_after_a_grace_and_not_if_it_comes_back(world: World) -> None:
    site = Site(world.folder, Routing(champion="one", former="two"))
    site.look(times=2)
    site.redis.routing = Routing(champion="one")
    assert site.look() == ["one", "two"]
    site.now_s += GRACE_S / 2
    site.redis.routing = Routing(champion="one", former="two")
    site.look()
    site.redis.routing = Routing(champion="one")
    site.look()
    site.now_s += GRACE_S - 1
    assert site.look() == ["one", "two"]
    site.now_s += 2
    assert site.look() == ["one"]


@pytest.mark.parametrize("is_up", [True, False])
def test_where_there_is_no_record_or_no_redis_the_links_bundle_is_loaded(world: World, is_up: bool) -> None:
    site = Site(world.folder)
    site.redis.is_up = is_up
    assert site.look(times=2) == [NAME]


def test_a_redis_that_goes_away_unloads_nothing_and_a_triton_that_does_is_waited_for(world: World) -> None:
    site = Site(world.folder, FULL)
    site.look(times=4)
    site.redis.is_up = False
    site.now_s += 10 * GRACE_S
    assert site.look(times=2) == ["four", "one", "three", "two"]
    site.triton.is_up = False
    site.look()
    site.triton.is_up, site.triton.ready = True, []
    assert site.look(times=4) == ["four", "one", "three", "two"]


def test_where_nothing_was_promoted_nothing_is_loaded(tmp_path: Path) -> None:
    assert Site(tmp_path / "current").look() == []
