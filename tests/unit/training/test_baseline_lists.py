"""The lists of the baselines: which there are, what they may hold, and when they are made again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.builders.datasets import small_world
from training.data.prepared import Prepared
from training.evaluation import retrieval_baselines
from training.evaluation.retrieval_baselines import FOLDER, RetrievalBaselines, baseline_lists
from training.examples.split import HeldOut, held_out

SPARSE = {"TopPop", "recent popularity", "Markov"}
DENSE = {"ItemKNN", "EASE", "EASE with popularity", "recency EASE", "Markov with EASE"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return small_world(tmp_path_factory.mktemp("world"))


def asked_users(world: Prepared) -> HeldOut:
    """Gives the users of the test part."""
    return held_out(world, world.split.validate_until, world.split.test_until)


def list_files(world: Prepared) -> list[Path]:
    """Gives the files of lists in the data set's folder."""
    return sorted((world.folder / FOLDER).iterdir())


def test_every_baseline_lists_each_item_once_and_none_that_was_seen(world: Prepared) -> None:
    held = asked_users(world)
    lists = baseline_lists(world, held)
    assert set(lists) == SPARSE | DENSE
    seen = held.seen.toarray() > 0
    for of_users in lists.values():
        assert of_users.shape == (len(held.user_rows), 100)
        for user, items in enumerate(of_users):
            shown = items[items >= 0]
            assert len(set(shown.tolist())) == len(shown)
            assert not seen[user, shown].any()


def test_lists_are_read_again_until_the_interactions_change(
    world: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = asked_users(world)
    first = baseline_lists(world, held)
    files = list_files(world)
    with monkeypatch.context() as patch:
        patch.setattr(RetrievalBaselines, "answers", None)
        again = baseline_lists(world, held)
    for name, lists in first.items():
        np.testing.assert_array_equal(again[name], lists)
    fewer = replace(world, interactions=world.interactions.iloc[5:].reset_index(drop=True))
    baseline_lists(fewer, held)
    assert len(list_files(world)) == len(files) + 1


def test_of_many_items_those_are_left_out_that_need_a_matrix_of_all_pairs(
    world: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval_baselines, "DENSE_ITEMS", 10)
    assert set(RetrievalBaselines(world).answers()) == SPARSE
