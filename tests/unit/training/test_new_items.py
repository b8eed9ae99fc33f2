from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from contract import names
from contract.encoders import OOV_CODE, PAD_CODE, Field
from training.retrieval.config import TwoTowerConfig
from training.retrieval.new_items import fair_lift, fit_side_tables, highest_lift, side_rows
from training.retrieval.towers import ItemTower
from training.retrieval.two_tower import merlin_schema

FIELDS = {
    names.ITEM_ID: Field(names.ITEM_ID, "categorical", names.ITEM_ID, 300),
    "item_author": Field("item_author", "categorical", "item_author", 8),
    "item_tags": Field("item_tags", "list", "item_tags", 9, 3),
    "item_price": Field("item_price", "numeric"),
    "item_text": Field("item_text", "embedding", length=4),
}
SIDE = [field for name, field in FIELDS.items() if name != names.ITEM_ID]
WIDTH = 6


def catalogue(items: int = 250) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    tags = rng.integers(3, 9, (items, 3))
    return {
        names.ITEM_ID: np.arange(items) + OOV_CODE + 1,
        "item_author": rng.integers(1, 8, items),
        "item_tags": np.where(np.arange(3) < rng.integers(0, 4, (items, 1)), tags, PAD_CODE),
        "item_price": rng.normal(0, 4, items).astype(np.float32),
        "item_text": rng.normal(size=(items, 4)).astype(np.float32),
    }


def item_tower(popularity: np.ndarray | None = None) -> ItemTower:
    rng = np.random.default_rng(1)
    table = rng.normal(size=(300, WIDTH)).astype(np.float32)
    known = rng.normal(size=300).astype(np.float32) if popularity is None else popularity
    return ItemTower(
        [*FIELDS.values()], merlin_schema(FIELDS, [*FIELDS]), table, known, TwoTowerConfig(width=WIDTH)
    )


def encoded(tower: ItemTower, columns: dict[str, np.ndarray]) -> np.ndarray:
    inputs = {n: tf.constant(v[:, None] if v.ndim == 1 else v) for n, v in columns.items()}
    vectors: np.ndarray = tower(inputs).numpy()
    return vectors


def test_what_features_decide_is_told_of_items_that_nobody_met() -> None:
    columns, rng = catalogue(), np.random.default_rng(2)
    rows = side_rows(SIDE, columns).toarray()
    truth = rng.normal(size=(rows.shape[1], WIDTH + 1))
    expected_values = rows @ truth + rng.normal(size=WIDTH + 1)
    start, tables, _ = fit_side_tables(
        SIDE,
        {name: values[:200] for name, values in columns.items()},
        expected_values[:200, :-1].astype(np.float32),
        expected_values[:200, -1].astype(np.float32),
        np.ones(200, np.float32),
    )
    tower = item_tower(np.linspace(-99, 99, 300).astype(np.float32))
    tower.place_new_items(start, tables)
    new = {name: values[200:] for name, values in columns.items()}
    new[names.ITEM_ID] = np.full(50, OOV_CODE)
    vectors = encoded(tower, new)
    expected = expected_values[200:, :-1] / np.linalg.norm(expected_values[200:, :-1], axis=1, keepdims=True)
    assert (vectors[:, :-1] * expected).sum(axis=1).mean() > 0.95
    assert np.corrcoef(vectors[:, -1], expected_values[200:, -1])[0, 1] > 0.95


def test_a_number_may_say_one_thing_of_the_low_and_another_of_the_high() -> None:
    """Items at both ends of the price are popular, and go one way; those amid are not, and go the other."""
    field, popularity = FIELDS["item_price"], np.linspace(-99, 99, 300).astype(np.float32)
    prices = np.random.default_rng(6).normal(size=400).astype(np.float32)
    ends = np.where(np.abs(prices) > 1, 1, -1).astype(np.float32)
    towards = np.stack([ends, 1 - np.abs(ends)], axis=1) @ np.ones((2, WIDTH), np.float32)
    start, tables, _ = fit_side_tables(
        [field], {"item_price": prices}, towards, ends, np.ones(400, np.float32)
    )
    tower = item_tower(popularity)
    others = {name: np.zeros_like(table) for name, table in tower.new_tables.items()}
    tower.place_new_items(start, others | tables)
    asked = {name: values[:3] for name, values in catalogue().items()}
    asked |= {names.ITEM_ID: np.full(3, OOV_CODE), "item_price": np.array([-1.8, 0, 1.8], np.float32)}
    np.testing.assert_array_equal(np.sign(encoded(tower, asked)[:, [0, -1]]), [[1, 1], [-1, -1], [1, 1]])


def test_without_features_new_items_stand_amid_the_known_ones() -> None:
    vectors = np.random.default_rng(3).normal(1, 1, (200, WIDTH)).astype(np.float32)
    weights = np.linspace(0.1, 2, 200).astype(np.float32)
    start, tables, _ = fit_side_tables([], {"item_id": np.arange(200)}, vectors, vectors[:, 0], weights)
    assert tables == {}
    np.testing.assert_allclose(start[:-1], np.average(vectors, axis=0, weights=weights), rtol=1e-4)
    assert start[-1] == pytest.approx(vectors[:, 0].mean(), rel=1e-4)


def test_placing_new_items_moves_no_known_one_and_bounds_their_popularity() -> None:
    tower, columns = item_tower(), catalogue()
    known = encoded(tower, columns)
    new = columns | {names.ITEM_ID: np.full(250, OOV_CODE)}
    rng = np.random.default_rng(4)
    tables = {
        name: rng.normal(size=table.shape).astype(np.float32) for name, table in tower.new_tables.items()
    }
    tower.place_new_items(rng.normal(size=WIDTH + 1).astype(np.float32), tables)
    np.testing.assert_array_equal(encoded(tower, columns), known)
    for lift in (-100.0, 100.0):
        tower.lift.assign(lift)
        bound = (tf.reduce_max if lift > 0 else tf.reduce_min)(tower.prior()).numpy()
        np.testing.assert_allclose(encoded(tower, new)[:, -1], 0.1 * bound, rtol=1e-5)


def test_the_lift_is_the_highest_that_validation_allows() -> None:
    def value(lift: float) -> float:
        return 1.0 - 0.01 * max(lift, 0.0) ** 2

    assert highest_lift(value, 3.0, 0.01) == pytest.approx(1.0, abs=0.25)
    assert value(highest_lift(value, 3.0, 0.01)) >= 0.99
    assert highest_lift(lambda _: 1.0, 3.0, 0.0) == 3.0
    assert highest_lift(lambda lift: float(lift < -3.9), 3.0, 0.0) == -4.0


def test_a_fair_lift_gives_new_items_the_mean_count_of_known_ones() -> None:
    counts = np.random.default_rng(5).lognormal(2, 1, 4000)
    logs = np.log(counts)
    prior = ((logs - logs.mean()) / logs.std()).astype(np.float32)
    lifted = fair_lift(prior, float(logs.std())) * logs.std() + logs.mean()
    assert np.exp(lifted) == pytest.approx(counts.mean(), rel=1e-4)
