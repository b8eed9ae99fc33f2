"""Matrix factorization: what it is compared with, by which loss, and that it is a retrieval model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import tensorflow as tf

from contract import names
from contract.encoders import OOV_CODE
from tests.builders.datasets import small_world
from tests.builders.encoded import encoders_of
from training.data.prepared import Prepared
from training.examples.positives import UserHistories, item_columns, retrieval_examples
from training.export.towers import export_model, model_spec
from training.retrieval.config import BprConfig, FactorsConfig, Kind, Loss
from training.retrieval.matrix_factorization import (
    NEVER,
    MatrixFactorization,
    bce_loss,
    bpr_loss,
    fit_matrix_factorization,
    softmax_loss,
)
from training.retrieval.model import RetrievalModel, Validate
from training.retrieval.negatives import Negatives

KINDS: tuple[Kind, ...] = get_args(Kind)
SMALL: dict[str, Any] = {"width": 8, "steps": 120, "batch_size": 256, "drawn": 64, "evaluations": 2}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return small_world(tmp_path_factory.mktemp("world"))


def fitted(
    world: Prepared, config: FactorsConfig, seed: int = 0, validate: Validate | None = None
) -> MatrixFactorization:
    encoders = encoders_of(world)
    histories = UserHistories.of(world, encoders)
    examples = retrieval_examples(world, histories, world.split.train_until)
    catalogue = item_columns(world, encoders)
    return fit_matrix_factorization(encoders.fields, examples, catalogue, config, seed, validate)


def gain(world: Prepared, model: MatrixFactorization) -> float:
    """Tells how far what train's users chose stands above what they did not, in standard deviations."""
    encoders = encoders_of(world)
    histories = UserHistories.of(world, encoders)
    chosen = retrieval_examples(world, histories, world.split.train_until).matrix().toarray() > 0
    users = model.encode_users(histories.profile)
    scores = users @ model.encode_items(item_columns(world, encoders)).T
    return float((scores[chosen].mean() - scores[~chosen].mean()) / scores.std())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", get_args(Loss))
def test_whatever_it_is_compared_with_and_by_which_loss_it_learns(
    world: Prepared, kind: Kind, loss: Loss
) -> None:
    model = fitted(world, FactorsConfig(negatives=kind, loss=loss, learning_rate=0.02, **SMALL))
    assert isinstance(model, RetrievalModel)
    assert gain(world, model) > 0.3


def test_it_survives_export_repeats_and_keeps_its_range(world: Prepared, tmp_path: Path) -> None:
    config = BprConfig(**SMALL)
    model, again = fitted(world, config), fitted(world, config)
    encoders = encoders_of(world)
    histories, catalogue = UserHistories.of(world, encoders), item_columns(world, encoders)
    users, items = model.encode_users(histories.profile), model.encode_items(catalogue)
    np.testing.assert_array_equal(again.encode_users(histories.profile), users)
    np.testing.assert_array_equal(again.encode_items(catalogue), items)
    low, high = model.score_range
    scores = users @ items.T
    assert low <= scores.min() <= scores.max() <= high
    user = model_spec(model.user_features, encoders.fields, "user.onnx", "vector")
    export_model(model.users_to_onnx(user), model.encode_users, user, histories.profile, tmp_path)
    item = model_spec(model.item_features, encoders.fields, "item.onnx", "vector")
    export_model(model.items_to_onnx(item), model.encode_items, item, catalogue, tmp_path)
    assert np.isfinite(model.encode_users({names.USER_ID: np.array([OOV_CODE])})).all()


def test_the_best_evaluation_is_kept_and_training_stops_without_a_gain(world: Prepared) -> None:
    models: list[MatrixFactorization] = []

    def worse_every_time(model: RetrievalModel) -> float:
        assert isinstance(model, MatrixFactorization)
        models.append(model)
        return -float(len(models))

    config = FactorsConfig(**{**SMALL, "evaluations": 6, "steps": 12})
    model = fitted(world, config, validate=worse_every_time)
    assert len(models) == 3
    np.testing.assert_array_equal(model.items, models[0].items)


@pytest.mark.parametrize("kind", KINDS)
def test_items_are_drawn_as_often_as_the_correction_says(kind: Kind) -> None:
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(12))
    negatives = Negatives.of(shares, FactorsConfig(negatives=kind, drawn=40))
    counts, batch = np.zeros(12), 60
    for _ in range(300):
        positives = rng.choice(12, batch, p=shares)
        counts += np.bincount(negatives.draw(positives, rng), minlength=12)
    expected = np.exp(negatives.log_counts(np.arange(12), batch))
    np.testing.assert_allclose(counts / 300, expected, rtol=0.1, atol=0.05)


def test_the_losses_equal_plain_numpy_and_leave_out_what_is_no_negative() -> None:
    rng = np.random.default_rng(1)
    positive, negative = rng.normal(size=(5, 1)), rng.normal(size=(5, 4))
    is_negative = rng.random((5, 4)) > 0.3
    given = tf.constant(positive, tf.float32), tf.constant(np.where(is_negative, negative, NEVER), tf.float32)
    masked = np.exp(negative) * is_negative
    softmax = np.mean(np.log(np.exp(positive[:, 0]) + masked.sum(axis=1)) - positive[:, 0])
    pairs = np.log1p(np.exp(negative - positive))[is_negative].mean()
    each = np.log1p(np.exp(-positive)).mean() + np.log1p(np.exp(negative))[is_negative].mean()
    assert float(softmax_loss(*given)) == pytest.approx(softmax, rel=1e-5)
    assert float(bpr_loss(*given)) == pytest.approx(pairs, rel=1e-5)
    assert float(bce_loss(*given)) == pytest.approx(each, rel=1e-5)
