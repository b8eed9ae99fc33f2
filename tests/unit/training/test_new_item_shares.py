"""The source of new items: which they are, what it gives, and the share that validation lets it have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract import names
from contract.arrays import Array
from contract.encoders import OOV_CODE
from tests.builders.datasets import small_world
from tests.builders.encoded import encoders_of
from training.data.prepared import Prepared
from training.evaluation.new_items import choose_items, forgetting
from training.examples.positives import UserHistories, item_columns
from training.examples.split import HeldOut, held_out
from training.slates.choose import choose_forms
from training.slates.new_items import MOST, NEW, SHARES, new_items, with_new_items
from training.slates.slates import Retriever
from training.slates.sources import FittedSource, RecentLists, lists_of

WIDTH = 4


class Features:
    """Draws vectors; items without a code come after all others, or where they cost less than 0 before."""

    name = "features"
    user_features = (names.USER_ID,)
    item_features = (names.ITEM_ID, "item_category")
    score_range = (0.0, 1.0)

    def __init__(self, penalty: float) -> None:
        self.penalty = penalty
        self.drawn = np.random.default_rng(0).normal(size=(500, WIDTH)).astype(np.float32)

    def encode_users(self, arrays: Mapping[str, Array]) -> Array:
        users: Array = self.drawn[arrays[names.USER_ID] % 500].copy()
        users[:, -1] = 1
        return users

    def encode_items(self, arrays: Mapping[str, Array]) -> Array:
        items: Array = self.drawn[(arrays["item_category"] * 7 + arrays[names.ITEM_ID]) % 500].copy()
        items[:, -1] = np.where(arrays[names.ITEM_ID] == OOV_CODE, -self.penalty, 0)
        return items


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return small_world(Path(tmp_path_factory.mktemp("world")))


@pytest.fixture(scope="module")
def held(world: Prepared) -> HeldOut:
    return held_out(world, world.split.train_until, world.split.validate_until)


@pytest.fixture(scope="module")
def sources(world: Prepared) -> tuple[FittedSource, ...]:
    return tuple(one.with_share(0.1) for one in choose_forms(world))


def retriever(world: Prepared, share_of_new: float, penalty: float = 100.0) -> Retriever:
    ids = world.items[names.ITEM_ID].to_numpy(np.int64)[choose_items(world, share_of_new, 1)]
    encoders: Any = forgetting(encoders_of(world), ids)
    model: Any = Features(penalty)
    return Retriever(model, UserHistories.of(world, encoders), item_columns(world, encoders))


def chosen(
    world: Prepared, held: HeldOut, sources: tuple[FittedSource, ...], made: Retriever
) -> tuple[FittedSource, ...]:
    return with_new_items(world, made, held, made.vectors(held, world.split.train_until), sources, 20)


def test_it_gives_unseen_new_items_the_nearest_first(world: Prepared, held: HeldOut) -> None:
    made = retriever(world, 0.3)
    users, items = made.vectors(held, world.split.train_until)
    is_new = made.catalogue[names.ITEM_ID] == OOV_CODE
    recent = RecentLists.of(world, world.split.train_until)
    lists = lists_of((new_items(is_new, items),), recent, held, (users, items), 10).positions[:, 1]
    seen = held.seen.toarray() > 0
    for row in range(len(users)):
        wanted = np.flatnonzero(is_new & ~seen[row])
        nearest = wanted[np.argsort(-items[wanted] @ users[row], kind="stable")][:10]
        np.testing.assert_allclose(items[lists[row]] @ users[row], items[nearest] @ users[row], rtol=1e-4)


def test_only_those_thought_most_popular_are_listed() -> None:
    vectors = np.random.default_rng(0).normal(size=(2 * MOST, 2)).astype(np.float32)
    marks = new_items(np.ones(2 * MOST, np.bool_), vectors).item_scores
    assert marks is not None
    assert marks.sum() == MOST
    assert vectors[marks > 0, -1].min() >= vectors[marks == 0, -1].max()


def test_new_items_have_a_share_and_the_others_what_is_left(
    world: Prepared, held: HeldOut, sources: tuple[FittedSource, ...]
) -> None:
    *others, newest = chosen(world, held, sources, retriever(world, 0.3))
    assert newest.spec.name == NEW
    assert newest.spec.share in SHARES
    for before, after in zip(sources, others, strict=True):
        assert after.spec.share == pytest.approx(before.spec.share * (1 - newest.spec.share))


def test_where_new_items_are_found_as_they_are_the_least_share_is_enough(
    world: Prepared, held: HeldOut, sources: tuple[FittedSource, ...]
) -> None:
    *_, shunned = chosen(world, held, sources, retriever(world, 0.05))
    *_, welcome = chosen(world, held, sources, retriever(world, 0.05, penalty=-100.0))
    assert welcome.spec.share == SHARES[0]
    assert shunned.spec.share > SHARES[0]


def test_where_nothing_is_new_there_is_no_source_of_it(
    world: Prepared, held: HeldOut, sources: tuple[FittedSource, ...]
) -> None:
    assert chosen(world, held, sources, retriever(world, 0.0)) == sources


def test_what_is_found_may_not_be_less_by_more_than_the_standard_error(
    world: Prepared, held: HeldOut, sources: tuple[FittedSource, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everybody chose what the vectors give last among the 20; any place that is lost is seen."""
    monkeypatch.setattr("training.slates.new_items.SHARES", (0.1, 0.3))
    made = retriever(world, 0.3)
    vectors = made.vectors(held, world.split.train_until)
    bare = tuple(one.with_share(0.0) for one in sources)
    recent = RecentLists.of(world, world.split.train_until)
    last = lists_of((), recent, held, vectors, 20).positions[:, 0, -1]
    relevant = held.relevant.copy() * 0
    relevant = relevant.tolil()
    relevant[np.arange(len(last)), last] = 1
    asked = replace(held, relevant=relevant.tocsr())
    *others, newest = with_new_items(world, made, asked, vectors, bare, 20)
    assert (tuple(others), newest.spec.share) == (bare, 0)
