"""A bundle whose tables of embeddings lie beside its models answers as one whose tables are in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from contract.bundle import Manifest, TableSpec, read_manifest
from contract.names import ITEM_ID, USER_ID
from contract.tensors import PAD_ID
from ensemble.bundle import LoadedBundle
from ensemble.run.batch import Reply
from ensemble.run.recommender import Recommender
from tests.builders.triton import WIDTH, World, make_recommender, make_request, make_world, put_beside, slate


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Gives the small world, the tables of users and of items beside its models."""
    world = make_world(tmp_path_factory.mktemp("beside") / "bundle")
    put_beside(world)
    return world


@pytest.fixture
def without(beside: World) -> Recommender:
    return make_recommender(beside)


def test_the_manifest_says_which_tables_lie_beside(beside: World) -> None:
    manifest = read_manifest(beside.folder)
    assert [(one.column, one.parts) for one in manifest.tables] == [
        (USER_ID, {"user_tower": WIDTH, "ranker": WIDTH}),
        (ITEM_ID, {"ranker": WIDTH}),
    ]
    assert manifest.user_tower.embeddings == manifest.ranker.user.embeddings == {USER_ID: WIDTH}
    assert USER_ID not in manifest.user_tower.categorical
    rows = np.load(beside.folder / manifest.tables[0].file)
    assert rows.shape == (3 + len(beside.user_ids) - 2, 2 * WIDTH)


def test_answers_are_those_of_the_models_with_their_tables(
    recommender: Recommender, without: Recommender, beside: World
) -> None:
    users = [*beside.user_ids, 424242]  # the last two of the world, and this one, are unknown to training
    requests = [make_request(user, surface=user % 4) for user in users]
    requests += [make_request(PAD_ID, like=beside.item_ids[3])]
    for inside, outside in zip(recommender.answer(requests), without.answer(requests), strict=True):
        assert isinstance(inside, Reply)
        assert isinstance(outside, Reply)
        assert slate(outside) == slate(inside)
        for name in ("item_scores", "ranking_scores", "user_vector"):
            np.testing.assert_allclose(outside[name], inside[name], rtol=0, atol=1e-6)
        np.testing.assert_array_equal(outside["degraded"], inside["degraded"])


def test_who_asks_the_tower_by_codes_gets_the_same_vector(beside: World, world: World) -> None:
    inside, outside = LoadedBundle.open(world.folder), LoadedBundle.open(beside.folder)
    rng, fields = np.random.default_rng(1), inside.encoders.fields
    columns = {}
    for name in inside.user_tower.features:
        field = fields[name]
        shape = (5, field.length) if field.kind == "list" else (5,)
        columns[name] = rng.integers(0, field.cardinality or 2, shape)
    np.testing.assert_allclose(outside.user_tower(columns), inside.user_tower(columns), atol=1e-6)


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        (
            [{"column": "user_id", "file": "user_id_rows.npy", "parts": {"user_tower": 3}}],
            "no row of 3 floats",
        ),
        ([{"column": "user_age", "file": "a.npy", "parts": {"ranker": 8}}], "pattern"),
        ([{"column": "user_id", "file": "a.npy", "parts": {"ranker": 8}}] * 2, "same column"),
    ],
)
def test_a_manifest_whose_models_take_no_such_rows_is_refused(
    beside: World, tables: list[dict[str, object]], says: str
) -> None:
    facts = read_manifest(beside.folder).model_dump() | {"tables": tables}
    with pytest.raises(ValidationError, match=says):
        Manifest.model_validate(facts)


def test_a_part_is_where_those_before_it_end() -> None:
    table = TableSpec(column=USER_ID, file="a.npy", parts={"user_tower": 4, "ranker": 2})
    assert (table.width, table.part("user_tower"), table.part("ranker")) == (6, slice(0, 4), slice(4, 6))


def test_a_bundle_without_its_table_is_refused(tmp_path: Path) -> None:
    world = make_world(tmp_path / "bundle")
    put_beside(world, [USER_ID])
    (world.folder / "user_id_rows.npy").unlink()
    with pytest.raises(ValueError, match=r"user_id_rows\.npy: missing"):
        LoadedBundle.open(world.folder)
