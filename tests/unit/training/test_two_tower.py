from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from contract import names
from contract.encoders import OOV_CODE, PAD_CODE, Field
from tests.builders.datasets import small_world
from tests.builders.encoded import encoders_of
from training.data.prepared import Prepared
from training.examples.positives import RetrievalExamples, UserHistories, item_columns, retrieval_examples
from training.examples.snapshot import unknown_user
from training.examples.split import held_out, is_before, is_positive
from training.export.towers import export_model, model_spec, run_model
from training.learn import renew_popularity
from training.retrieval.config import TwoTowerConfig
from training.retrieval.model import RetrievalModel
from training.retrieval.sampling import (
    batches,
    drawing_chances,
    newcomer_chances,
    sampling_probabilities,
    unknown_columns,
)
from training.retrieval.tower_design import NEWCOMER_TASTE, POPULARITY_BOUND, popular_direction
from training.retrieval.towers import ItemTower, UserTower, pool
from training.retrieval.two_tower import (
    TwoTower,
    fit_two_tower,
    merlin_schema,
    two_tower_model,
)
from training.slates.slates import Retriever

ITEMS = 12
FIELDS = {
    names.USER_ID: Field(names.USER_ID, "categorical", names.USER_ID, 9),
    "user_city": Field("user_city", "categorical", "user_city", 6),
    "user_age": Field("user_age", "numeric"),
    "user_topics": Field("user_topics", "list", "user_topics", 7, 3),
    names.USER_RECENT_ITEM_IDS: Field(names.USER_RECENT_ITEM_IDS, "list", names.ITEM_ID, ITEMS, 5),
    names.USER_RECENT_POSITIVE_ITEM_IDS: Field(
        names.USER_RECENT_POSITIVE_ITEM_IDS, "list", names.ITEM_ID, ITEMS, 5
    ),
    names.ITEM_ID: Field(names.ITEM_ID, "categorical", names.ITEM_ID, ITEMS),
    "item_price": Field("item_price", "numeric"),
}
USER_COLUMNS = [name for name in FIELDS if name.startswith("user_")]
ITEM_COLUMNS = [name for name in FIELDS if name.startswith("item_")]
PLAIN = TwoTowerConfig(width=4, temperature=0.2, user_dropout=0, unknown_user_share=0, steps=40, epochs=2)


def towers(config: TwoTowerConfig = PLAIN) -> tuple[UserTower, ItemTower]:
    """Towers with every weight drawn at random, so that no column is left out by a zero."""
    rng = np.random.default_rng(3)
    tables = rng.normal(size=(2, ITEMS, config.width)).astype(np.float32)
    popularity = rng.normal(size=ITEMS).astype(np.float32)
    user = UserTower(
        [FIELDS[n] for n in USER_COLUMNS],
        merlin_schema(FIELDS, USER_COLUMNS),
        tables[0],
        tables[0][0],
        config,
    )
    item = ItemTower(
        [FIELDS[n] for n in ITEM_COLUMNS], merlin_schema(FIELDS, ITEM_COLUMNS), tables[1], popularity, config
    )
    for tower in (user, item):
        for weight in tower.trainable_weights:
            weight.assign(rng.normal(0, 0.3, weight.shape))
    return user, item


def batch(rows: int = 8, length: int = 5) -> dict[str, npt.NDArray[Any]]:
    """Encoded rows; every list has at least one element and some padding."""
    rng = np.random.default_rng(4)
    columns: dict[str, npt.NDArray[Any]] = {}
    for name, field in FIELDS.items():
        if field.kind == "numeric":
            columns[name] = rng.normal(size=(rows, 1)).astype(np.float32)
        elif field.kind == "categorical":
            columns[name] = rng.integers(1, field.cardinality, (rows, 1))
        else:
            width = min(length, field.length)
            filled = np.arange(width) < rng.integers(1, width, (rows, 1))
            columns[name] = np.where(filled, rng.integers(1, field.cardinality, (rows, width)), PAD_CODE)
    return columns


def tensors(columns: dict[str, npt.NDArray[Any]]) -> dict[str, tf.Tensor]:
    return {name: tf.constant(values) for name, values in columns.items()}


def test_the_loss_is_the_corrected_in_batch_softmax_of_plain_numpy() -> None:
    user, item = towers()
    rows = batch(rows=16)
    probabilities = np.random.default_rng(0).dirichlet(np.ones(ITEMS)).astype(np.float32)
    model = two_tower_model(user, item, probabilities, PLAIN)
    model.compile(optimizer=tf.keras.optimizers.SGD(0.0), metrics=[])
    loss = model.train_on_batch(tensors(rows), return_dict=True)["loss"]

    users, items = user(tensors(rows)).numpy(), item(tensors(rows)).numpy()
    codes = rows[names.ITEM_ID][:, 0]
    logits = users @ items.T / PLAIN.temperature - np.log(probabilities[codes])[None]
    expected = []
    for row in range(16):
        rivals = [c for c in range(16) if c == row or codes[c] != codes[row]]
        expected.append(np.log(np.exp(logits[row, rivals]).sum()) - logits[row, row])
    assert len(set(codes)) < 16  # some rows share an item, which is then no negative
    assert loss == pytest.approx(np.mean(expected), rel=1e-5)


def test_the_prior_counts_in_logits_whatever_the_temperature() -> None:
    config = PLAIN.model_copy(update={"temperature": 0.05})
    user, item = towers(config)
    vectors = item(tensors(batch())).numpy()
    codes = batch()[names.ITEM_ID][:, 0]
    np.testing.assert_allclose(vectors[:, -1] / 0.05, item.prior().numpy()[codes], rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors[:, :-1], axis=1), 1, rtol=1e-5)
    known = user(tensors(batch())).numpy()
    np.testing.assert_allclose(np.linalg.norm(known[:, :-1], axis=1), 1, rtol=1e-5)
    assert ((known[:, -1] > 0) & (known[:, -1] < 2)).all()


def test_longer_padding_changes_no_vector() -> None:
    user, _ = towers()
    rows = batch()
    longer = dict(rows)
    for name, field in FIELDS.items():
        if field.kind == "list":
            longer[name] = np.pad(rows[name], ((0, 0), (0, 7)), constant_values=PAD_CODE)
    np.testing.assert_allclose(user(tensors(longer)), user(tensors(rows)), atol=1e-6)


def test_pooling_is_a_weighted_mean_of_what_is_there() -> None:
    embeddings = np.random.default_rng(0).normal(size=(1, 3, 2)).astype(np.float32)
    pooled = pool(tf.constant(embeddings), tf.constant([[1.0, 1.0, 0.0]]), tf.constant(0.5)).numpy()
    later = np.exp(-0.5)
    expected = (embeddings[0, 0] + later * embeddings[0, 1]) / (1 + later + 1)
    np.testing.assert_allclose(pooled[0], expected, rtol=1e-5)
    nothing = pool(tf.constant(embeddings), tf.zeros((1, 3)), tf.constant(0.5)).numpy()
    assert nothing.tolist() == [[0, 0]]


@pytest.mark.parametrize("column", USER_COLUMNS)
def test_every_user_column_moves_the_vector(column: str) -> None:
    user, _ = towers()
    rows = batch()
    other = dict(rows)
    other[column] = 1 - rows[column] if FIELDS[column].kind == "numeric" else np.full_like(rows[column], 3)
    assert (np.abs(user(tensors(other)) - user(tensors(rows))).max(axis=1) > 1e-4).any()


def test_a_user_without_history_starts_towards_what_is_popular() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(200, 4)).astype(np.float32)
    popularity = (vectors @ np.array([1, -2, 0, 0.5]) + rng.normal(0, 0.1, 200)).astype(np.float32)
    start = popular_direction(vectors, popularity)
    assert np.linalg.norm(start) == pytest.approx(1, rel=1e-5)
    assert np.corrcoef(vectors @ start, popularity)[0, 1] > 0.99


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return small_world(tmp_path_factory.mktemp("var"))


def test_timed_recent_and_clicked_examples_are_drawn_more_often(world: Prepared) -> None:
    encoders = encoders_of(world)
    examples = retrieval_examples(world, UserHistories.of(world, encoders), world.split.train_until)
    config = TwoTowerConfig(timed_weight=4, half_life=0.25, target_weight=3)
    chances = drawing_chances(examples, config)
    assert chances.sum() == pytest.approx(1)
    ages = examples.age_days / examples.age_days.max()
    expected = 0.5 ** (ages / 0.25) * np.where(examples.is_target, 3, 1)
    np.testing.assert_allclose(chances / chances[0], expected / expected[0])
    catalogue = item_columns(world, encoders)
    probabilities = sampling_probabilities(encoders.fields, examples, catalogue, chances)
    code = catalogue[names.ITEM_ID][examples.items[0]]
    same = catalogue[names.ITEM_ID][examples.items] == code
    assert probabilities[code] == pytest.approx(chances[same].sum(), rel=1e-5)


def test_a_place_for_newcomers_moves_nobody_with_a_history() -> None:
    user, _ = towers()
    rows = batch()
    known = user(tensors(rows)).numpy()
    blank = unknown_columns(FIELDS, {name: rows[name][:1] for name in USER_COLUMNS})
    direction = np.array([0, 3, 0, 4], dtype=np.float32)
    user.place_newcomer(direction, user.sums(tensors(blank)).numpy()[0])
    np.testing.assert_array_equal(user(tensors(rows)), known)
    placed = user(tensors(blank)).numpy()[0]
    taste = NEWCOMER_TASTE * np.array([0, 0.6, 0, 0.8])
    np.testing.assert_allclose(placed, [*taste, POPULARITY_BOUND], atol=1e-5)


def test_unknown_users_are_trained_on_what_was_chosen_of_late(world: Prepared) -> None:
    encoders = encoders_of(world)
    fields, catalogue = encoders.fields, item_columns(world, encoders)
    histories = UserHistories.of(world, encoders)
    examples = retrieval_examples(world, histories, world.split.train_until)
    uniform = np.full(len(examples), 1 / len(examples))
    newcomers = newcomer_chances(examples, uniform)
    assert newcomers.sum() == pytest.approx(1)
    np.testing.assert_array_equal(newcomers > 0, examples.is_timed & examples.is_target)

    drawn = next(batches(fields, examples, catalogue, (uniform, newcomers), (6, 4), seed=0))
    assert all(len(values) == 10 for values in drawn.values())
    raw = unknown_user(world.dataset)
    for name in histories.columns(np.zeros(1, np.int64), np.zeros(1, np.int64)):
        served = encoders.encode(name, raw[name])
        np.testing.assert_array_equal(drawn[name][6:].reshape(4, -1), np.repeat(served.reshape(1, -1), 4, 0))
    assert (drawn[names.USER_ID][:6] != OOV_CODE).all()


SMALL = TwoTowerConfig(width=16, batch_size=64, steps=120, evaluations=3, ridge=5.0, learning_rate=0.01)


def fitted(world: Prepared, config: TwoTowerConfig = SMALL) -> tuple[TwoTower, UserHistories, Any, Any]:
    encoders = encoders_of(world)
    histories = UserHistories.of(world, encoders)
    examples: RetrievalExamples = retrieval_examples(world, histories, world.split.train_until)
    catalogue = item_columns(world, encoders)
    model = fit_two_tower(encoders.fields, examples, catalogue, config, seed=7)
    part = held_out(world, world.split.validate_until, world.split.test_until)
    return model, histories, catalogue, histories.as_of(part.user_rows, world.split.validate_until)


def test_training_survives_export_repeats_and_keeps_its_range(world: Prepared, tmp_path: Path) -> None:
    model, histories, catalogue, users = fitted(world)
    fields = encoders_of(world).fields
    user_vectors, item_vectors = model.encode_users(users), model.encode_items(catalogue)
    losses = [row["loss"] for row in model.history]
    assert losses[-1] < losses[0]
    scores = user_vectors @ item_vectors.T
    low, high = model.score_range
    assert low <= scores.min() <= scores.max() <= high

    for to_onnx, encode, features, arrays, vectors in (
        (model.users_to_onnx, model.encode_users, model.user_features, users, user_vectors),
        (model.items_to_onnx, model.encode_items, model.item_features, catalogue, item_vectors),
    ):
        spec = model_spec(features, fields, "tower.onnx", "vector")
        export_model(to_onnx(spec), encode, spec, arrays, tmp_path)
        np.testing.assert_allclose(run_model(tmp_path / spec.file, spec, arrays), vectors, atol=1e-5)

    again = fitted(world)[0]
    np.testing.assert_array_equal(again.encode_users(users), user_vectors)
    np.testing.assert_array_equal(again.encode_items(catalogue), item_vectors)
    assert histories.lengths[names.USER_RECENT_ITEM_IDS] == users[names.USER_RECENT_ITEM_IDS].shape[1]


def test_the_best_evaluation_is_kept_and_training_stops_without_a_gain(world: Prepared) -> None:
    encoders = encoders_of(world)
    histories = UserHistories.of(world, encoders)
    examples = retrieval_examples(world, histories, world.split.train_until)
    catalogue = item_columns(world, encoders)
    encoded: list[npt.NDArray[np.float32]] = []

    def worse_every_time(model: RetrievalModel) -> float:
        encoded.append(model.encode_items(catalogue))
        return -float(len(encoded))

    config = SMALL.model_copy(update={"evaluations": 6, "steps": 12, "patience": 2, "fresh_share": 0.0})
    model = fit_two_tower(encoders.fields, examples, catalogue, config, 0, worse_every_time)
    assert len(encoded) == 3
    np.testing.assert_array_equal(model.encode_items(catalogue), encoded[0])


@pytest.mark.parametrize("is_better", [True, False])
def test_last_steps_of_users_as_of_just_before_are_kept_where_validation_gains(
    world: Prepared, monkeypatch: pytest.MonkeyPatch, is_better: bool
) -> None:
    encoders = encoders_of(world)
    histories = UserHistories.of(world, encoders)
    examples = retrieval_examples(world, histories, world.split.train_until)
    catalogue = item_columns(world, encoders)
    asked, encoded = [], []

    def remember(*args: Any, **more: Any) -> Any:
        asked.append(args[-1])
        return batches(*args, **more)

    def validate(model: RetrievalModel) -> float:
        encoded.append(model.encode_items(catalogue))
        return float(len(encoded) if is_better else -len(encoded))

    monkeypatch.setattr("training.retrieval.two_tower.batches", remember)
    config = SMALL.model_copy(
        update={"evaluations": 2, "steps": 4, "fresh_share": 0.7, "fresh_evaluations": 1}
    )
    model = fit_two_tower(encoders.fields, examples, catalogue, config, 0, validate)
    assert asked == [0.0, 0.7]
    assert len(encoded) == 3
    assert model.fresh_share == (0.7 if is_better else 0.0)
    np.testing.assert_array_equal(model.encode_items(catalogue), encoded[-1 if is_better else 0])


def test_a_fresh_example_knows_what_came_just_before_and_never_itself(world: Prepared) -> None:
    encoders = encoders_of(world)
    histories = UserHistories.of(world, encoders)
    examples = retrieval_examples(world, histories, world.split.train_until)
    rows = np.flatnonzero(examples.just_before > examples.ends)
    assert 0 < len(rows) < len(examples)
    assert (examples.just_before >= examples.ends).all()
    own = item_columns(world, encoders)[names.ITEM_ID][examples.items]
    np.testing.assert_array_equal(histories.recent.items[examples.just_before], own)
    newest = [examples.batch(rows, np.full(len(rows), fresh)) for fresh in (False, True)]
    stale, fresh = (columns[names.USER_RECENT_ITEM_IDS][:, 0] for columns in newest)
    np.testing.assert_array_equal(stale, histories.recent.items[examples.ends[rows] - 1])
    np.testing.assert_array_equal(fresh, histories.recent.items[examples.just_before[rows] - 1])


def test_how_popular_items_are_is_counted_anew_once_all_is_chosen(world: Prepared) -> None:
    model, histories, catalogue, _ = fitted(world)
    config = TwoTowerConfig()
    retriever = Retriever(model, histories, catalogue)
    before, popularity = model.encode_items(catalogue), model.item_popularity.copy()
    soon = world.split.train_until + timedelta(seconds=1)
    first = world.split.model_copy(update={"validate_until": soon})
    same = replace(world, dataset=world.dataset.model_copy(update={"split": first}))
    renew_popularity(same, retriever, config)
    np.testing.assert_allclose(model.item_popularity, popularity, atol=1e-2)
    renew_popularity(world, retriever, config)
    after, codes = model.encode_items(catalogue), catalogue[names.ITEM_ID]
    np.testing.assert_array_equal(after[:, :-1], before[:, :-1])
    late = is_before(world, world.split.validate_until) & ~is_before(world, world.split.train_until)
    clicked = world.interactions[late & is_positive(world, world.dataset.target)][names.ITEM_ID]
    counts = clicked.value_counts().reindex(world.items[names.ITEM_ID], fill_value=0).to_numpy()
    gained = (model.item_popularity - popularity)[codes]
    assert gained[counts > 0].mean() > gained[counts == 0].mean()
