"""The sources beside the vectors: fitted, chosen on validation, and asked as the ensemble asks them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix, random

from contract import names
from contract.candidates import reached
from contract.dataset import ANY
from contract.item_to_item import UNKNOWN, ItemToItem
from tests.builders.activity import user_activity
from tests.builders.datasets import quiet, small_world
from training.baselines.ease import ease_weights
from training.data.prepared import Prepared
from training.data.sources import catalog
from training.data.sources.synthetic import Size
from training.examples.sequences import Sequences
from training.examples.split import HeldOut, all_user_ids, held_out, interaction_matrix, is_before
from training.item_to_item.cut import cut_sparse
from training.item_to_item.of_values import of_values
from training.item_to_item.similar import similar
from training.item_to_item.transitions import transitions
from training.slates.choose import LEAST_OF_VECTORS, SHARES, choose_forms, choose_sources, is_next_asked
from training.slates.sources import (
    CATEGORIES,
    FOLLOWED,
    POPULAR,
    SIMILAR,
    FittedSource,
    RecentLists,
    SourceForm,
    SourceLists,
    fit_source,
    lists_of,
    popularity,
    scores_of,
    specs,
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return small_world(Path(tmp_path_factory.mktemp("world")))


@pytest.fixture(scope="module")
def held(prepared: Prepared) -> HeldOut:
    return held_out(prepared, prepared.split.train_until, prepared.split.validate_until)


@pytest.fixture(scope="module")
def fitted(prepared: Prepared) -> list[FittedSource]:
    return choose_forms(prepared)


def as_matrix(table: ItemToItem) -> np.ndarray:
    """The table as (I,I)."""
    dense = np.zeros((len(table.items),) * 2)
    rows = np.repeat(np.arange(len(dense)), table.items.shape[1])
    np.add.at(dense, (rows, table.items.ravel()), table.weights.ravel())
    return dense


def test_what_follows_sooner_follows_more() -> None:
    """One user did 0, 1, 2; another did 0, 2."""
    users, items = np.array([0, 0, 0, 1, 1]), np.array([0, 1, 2, 0, 2])
    table = as_matrix(transitions(Sequences(users, items, np.array([2, 1, 0, 1, 0]), (2, 4))))
    follows_0 = np.array([0, 1, 1 / 2 + 1, 0]) / 2.5
    np.testing.assert_allclose(table, np.array([follows_0, [0, 0, 1, 0], [0] * 4, [0] * 4]), atol=1e-6)


def test_a_row_keeps_its_strongest_entries() -> None:
    matrix = csr_matrix(np.array([[0.1, -0.9, 0.3], [0, 0, 0], [0.2, 0.2, 0.2]]))
    strongest = as_matrix(cut_sparse(matrix, most=2))
    np.testing.assert_allclose(strongest, np.array([[0, -0.9, 0.3], [0, 0, 0], [0.2, 0.2, 0]]), atol=1e-6)


def test_similar_items_are_those_of_ease() -> None:
    matrix = random(80, 12, 0.3, format="csr", random_state=1, dtype=np.float32)
    np.testing.assert_allclose(as_matrix(similar(matrix)), ease_weights(matrix, 8.0), atol=1e-6)


def test_where_nobody_chose_anything_nothing_is_similar() -> None:
    assert not as_matrix(similar(csr_matrix((5, 7), dtype=np.float32))).any()


def test_what_is_popular_fades_with_its_half_life(prepared: Prepared) -> None:
    until, target = prepared.split.train_until, prepared.dataset.target
    slow, fast = (popularity(prepared, SourceForm(POPULAR, target, life), until) for life in (1e6, 0.01))
    counts = np.asarray(interaction_matrix(prepared, is_before(prepared, until), target).sum(axis=0)).ravel()
    np.testing.assert_allclose(np.expm1(slow), counts, rtol=1e-3, atol=1e-3)
    assert (fast <= slow + 1e-5).all()
    assert fast.sum() < slow.sum()


def test_lists_are_those_that_the_feature_store_is_given(prepared: Prepared) -> None:
    instant = prepared.split.validate_until
    recent, users = RecentLists.of(prepared, instant), all_user_ids(prepared)
    item_ids = prepared.items[names.ITEM_ID].to_numpy(np.int64)
    stored = user_activity(prepared, pd.DatetimeIndex([instant])).set_index(names.USER_ID)
    for row in range(0, len(users), 17):
        if users[row] in stored.index:
            for name, positions in recent.of_user(row).items():
                np.testing.assert_array_equal(item_ids[positions], stored.loc[users[row], name])


def test_each_source_gives_its_best_unseen_items_and_says_what_it_says(
    prepared: Prepared, held: HeldOut, fitted: list[FittedSource]
) -> None:
    items, sources = len(prepared.items), fitted
    rng = np.random.default_rng(0)
    users, catalogue = (rng.normal(size=(n, 4)).astype(np.float32) for n in (len(held.user_rows), items))
    vectors = users, catalogue
    recent = RecentLists.of(prepared, prepared.split.train_until)
    lists = lists_of(sources, recent, held, vectors, 10)
    candidates = lists.merged([0.2] * len(sources))
    scores = scores_of(sources, recent, held, candidates)
    seen = held.seen.toarray() > 0
    for at, row in enumerate(held.user_rows[:20].tolist()):
        assert not seen[at, candidates[at][candidates[at] != UNKNOWN]].any()
        for place, source in enumerate(sources, start=1):
            whole = source.score(recent.of_user(row), items)
            live = candidates[at] != UNKNOWN
            np.testing.assert_allclose(scores[source.spec.name][at, live], whole[candidates[at, live]])
            whole[seen[at]] = 0
            given = lists.positions[at, place][lists.positions[at, place] != UNKNOWN]
            np.testing.assert_allclose(whole[given], np.sort(whole[whole > 0])[::-1][:10])


def test_forms_are_chosen_and_shares_leave_some_to_the_vectors(
    prepared: Prepared, held: HeldOut, fitted: list[FittedSource]
) -> None:
    sources = fitted
    assert [source.form.name for source in sources] == [FOLLOWED, SIMILAR, POPULAR, CATEGORIES]
    vectors = np.zeros((len(held.user_rows), 1), np.float32), np.zeros((len(prepared.items), 1), np.float32)
    recent = RecentLists.of(prepared, prepared.split.train_until)
    chosen = choose_sources(lists_of(sources, recent, held, vectors, 20), held.relevant, sources)
    assert all(one.spec.share in SHARES for one in chosen)
    nearest, *others = specs(chosen)
    assert nearest.kind == "nearest"
    assert nearest.share >= LEAST_OF_VECTORS - 1e-9
    assert sum(spec.share for spec in (nearest, *others)) == pytest.approx(1)


@pytest.mark.parametrize(("gained", "share"), [(7, 0.0), (30, 0.1)])
def test_a_share_that_chance_may_have_gained_is_not_given(
    fitted: list[FittedSource], gained: int, share: float
) -> None:
    """Its best item costs the vectors' last, which is all that six users look for; others, the source's."""
    lists = np.repeat(np.arange(20).reshape(1, 2, 10), 100, axis=0)
    sought = np.repeat([9, 10, 0], [6, gained, 94 - gained])
    relevant = csr_matrix((np.ones(100), (np.arange(100), sought)), shape=(100, 20))
    (chosen,) = choose_sources(SourceLists(lists, 20), relevant, fitted[:1])
    assert chosen.spec.share == share


def test_what_a_source_knows_comes_back_from_its_file(
    tmp_path: Path, prepared: Prepared, fitted: list[FittedSource]
) -> None:
    recent = RecentLists.of(prepared, prepared.split.train_until)
    for source in fitted:
        source.save(tmp_path)
        file = tmp_path / str(source.spec.file)
        if source.spec.kind == "popular":
            np.testing.assert_array_equal(np.load(file), source.item_scores)
        else:
            table, histories = ItemToItem.load(file), recent.of_user(0)
            found = reached(table, histories[str(source.spec.history)], source.spec)
            whole = source.score(histories, len(prepared.items))
            np.testing.assert_array_equal(whole[found.positions], found.scores)


def test_a_table_of_positives_is_asked_with_positives(prepared: Prepared) -> None:
    until = prepared.split.train_until
    asked = {
        label: fit_source(prepared, SourceForm(SIMILAR, label), until).spec.history
        for label in (ANY, prepared.dataset.target)
    }
    assert asked == {
        ANY: names.USER_RECENT_ITEM_IDS,
        prepared.dataset.target: names.USER_RECENT_POSITIVE_ITEM_IDS,
    }


def test_what_shares_a_value_is_come_to_by_how_often_it_is_chosen() -> None:
    """Items 0, 1 and 2 are of author a, 2 and 3 have the tag x, 4 has nothing; 1 is chosen thrice, 3 once."""
    authors = pd.Series(["a", "a", "a", "b", None])
    tags = pd.Series([[], None, np.array(["x", "x"]), ["x"], []])
    table = as_matrix(of_values([authors, tags], np.array([1, 3, 0, 1, 5], np.float32)))
    of_a, of_x, of_b = np.array([[1 / 4, 3 / 4, 0, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 1, 0]])
    expected = np.array([of_a, of_a, (of_a + of_x) / 2, (of_b + of_x) / 2, np.zeros(5)])
    np.testing.assert_allclose(table, expected, atol=1e-6)


def test_a_world_without_values_has_no_source_of_them(prepared: Prepared) -> None:
    items = {
        name: column.model_copy(update={"is_affinity": False})
        for name, column in prepared.dataset.items.items()
    }
    bare = replace(prepared, dataset=prepared.dataset.model_copy(update={"items": items}))
    assert [source.form.name for source in choose_forms(bare)] == [FOLLOWED, SIMILAR, POPULAR]


@pytest.mark.parametrize("followers", [0.0, 0.9])
def test_what_comes_next_is_asked_where_users_follow_chains(tmp_path: Path, followers: float) -> None:
    size = Size(users=300, items=60, days=12, interactions=6_000, seed=3, followers=followers)
    world = catalog.prepare("synthetic", tmp_path, tmp_path / "var", size=size, say=quiet)
    assert is_next_asked(world, choose_forms(world)) == (followers > 0)
