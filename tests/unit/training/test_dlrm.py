"""The ranker: it learns, ignores padding, is repeatable, and survives its export."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from contract.encoders import OOV_CODE, PAD_CODE, Field
from training.examples.candidates import CandidateRows
from training.examples.ranking import RankingExamples
from training.metrics.ranking import auc
from training.ranking.columns import MaskedMean
from training.ranking.config import DlrmConfig
from training.ranking.dlrm import Dlrm, fit_dlrm
from training.ranking.fit import label_weights
from training.ranking.neural import CANDIDATE, TARGET

FIELDS = {
    field.name: field
    for field in (
        Field("user_id", "categorical", "user_id", 40),
        Field("item_id", "categorical", "item_id", 30),
        Field("user_recent_item_ids", "list", "item_id", 30, 5),
        Field("item_price", "numeric"),
        Field("context_tab", "categorical", "context_tab", 6),
    )
}
TINY = DlrmConfig(width=4, bottom=(8,), top=(8,), batch_size=128, epochs=12, learning_rate=0.02, members=2)
Columns = dict[str, np.ndarray]


def make_rows(rows: int, seed: int) -> tuple[Columns, np.ndarray]:
    """Makes encoded rows whose label depends on price and tab."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 6, rows)
    lists = rng.integers(3, 30, (rows, 5))
    columns = {
        "user_id": rng.integers(2, 40, rows),
        "item_id": rng.integers(2, 30, rows),
        "user_recent_item_ids": np.where(np.arange(5) < lengths[:, None], lists, PAD_CODE),
        "item_price": rng.normal(size=rows).astype(np.float32),
        "context_tab": rng.integers(1, 6, rows),
    }
    chance = 1 / (1 + np.exp(-2 * columns["item_price"] - (columns["context_tab"] - 3)))
    return columns, (rng.random(rows) < chance).astype(np.float32)


@pytest.fixture(scope="module")
def fitted() -> Dlrm:
    train, labels = make_rows(800, 0)
    return fit_dlrm(RankingExamples(FIELDS, train, labels, *make_rows(300, 1)), 3, TINY)


def test_it_learns_what_decides(fitted: Dlrm) -> None:
    columns, labels = make_rows(500, 2)
    probabilities = fitted.predict(columns)
    assert probabilities.dtype == np.float32
    assert ((probabilities > 0) & (probabilities < 1)).all()
    assert auc(labels, probabilities) > 0.75


def test_the_same_seed_gives_the_same_ranker(fitted: Dlrm) -> None:
    train, labels = make_rows(800, 0)
    again = fit_dlrm(RankingExamples(FIELDS, train, labels, *make_rows(300, 1)), 3, TINY)
    columns, _ = make_rows(50, 4)
    np.testing.assert_array_equal(again.predict(columns), fitted.predict(columns))


def test_the_padding_length_does_not_matter(fitted: Dlrm) -> None:
    columns, _ = make_rows(50, 5)
    padded = np.pad(columns["user_recent_item_ids"], ((0, 0), (0, 3)), constant_values=PAD_CODE)
    longer = fitted.predict({**columns, "user_recent_item_ids": padded})
    np.testing.assert_allclose(longer, fitted.predict(columns), atol=1e-6)


def test_a_score_does_not_depend_on_other_rows(fitted: Dlrm) -> None:
    columns, _ = make_rows(20, 6)
    alone = [fitted.predict({n: v[i : i + 1] for n, v in columns.items()})[0] for i in range(20)]
    np.testing.assert_allclose(alone, fitted.predict(columns), atol=1e-6)


def test_unknown_ids_and_empty_lists_are_scored(fitted: Dlrm) -> None:
    columns, _ = make_rows(4, 7)
    columns["user_id"][:] = OOV_CODE
    columns["item_id"][:] = OOV_CODE
    columns["user_recent_item_ids"][:] = PAD_CODE
    assert np.isfinite(fitted.predict(columns)).all()


def test_the_mean_of_a_list_leaves_out_padding() -> None:
    table = tf.keras.layers.Embedding(9, 3, mask_zero=True)
    mean = MaskedMean()
    short, long = tf.constant([[4, 6]]), tf.constant([[4, 6, 0, 0, 0]])
    expected = table(short).numpy().mean(axis=1)
    np.testing.assert_allclose(mean(table(short)), expected, rtol=1e-6)
    np.testing.assert_allclose(mean(table(long)), expected, rtol=1e-6)
    np.testing.assert_array_equal(mean(table(tf.constant([[0, 0]]))), np.zeros((1, 3)))


def test_other_labels_count_only_where_the_target_is_unknown() -> None:
    labels = np.array([[1, 0, 1], [np.nan, 1, np.nan], [0, np.nan, 1]], dtype=np.float32)
    heads, config = [TARGET, "auxiliary_1", CANDIDATE], DlrmConfig(auxiliary_weight=0.5, candidate_weight=0.5)
    weights = label_weights(labels, heads, (), config)
    np.testing.assert_array_equal(weights, [[1, 0, 0], [0, 0.5, 0], [1, 0, 0]])
    weights = label_weights(labels, heads, (2.0, 6.0), config)
    np.testing.assert_array_equal(weights, [[1, 0, 0], [0, 1.5, 0], [1, 0, 0]])
    weights = label_weights(labels, heads, (2.0, 6.0), config, every_label=True)
    np.testing.assert_array_equal(weights, [[1, 1.5, 0.5], [0, 1.5, 0], [1, 0, 0.5]])


def test_histories_train_the_embeddings_but_not_the_targets_head() -> None:
    train, labels = make_rows(400, 9)
    target = np.where(np.arange(400) < 200, labels, np.nan)
    other = np.where(np.arange(400) < 200, np.nan, 1 - labels)
    ranker = fit_dlrm(
        RankingExamples(FIELDS, train, np.stack([target, other], 1), *make_rows(300, 1)), 0, TINY
    )
    columns, expected = make_rows(400, 10)
    assert auc(expected, ranker.predict(columns)) > 0.7


def test_candidates_have_a_head_of_their_own_whose_probability_counts_the_negatives_left_out() -> None:
    train, labels = make_rows(600, 11)
    columns, clicked = make_rows(600, 12)
    clicked = clicked * (columns["context_tab"] == 4)  # what is shown decides here, not what pleases
    sampled = (clicked == 1) | (np.random.default_rng(0).random(600) < 0.5)
    candidates = CandidateRows({n: v[sampled] for n, v in columns.items()}, clicked[sampled], sampled=0.5)
    ranker = fit_dlrm(RankingExamples(FIELDS, train, labels, *make_rows(300, 1), candidates), 0, TINY)
    fresh, pleased = make_rows(600, 13)
    chosen = pleased * (fresh["context_tab"] == 4)
    served = ranker.predict_candidates(fresh)
    assert auc(chosen, served) > auc(chosen, ranker.predict(fresh))
    assert served.mean() == pytest.approx(chosen.mean(), abs=0.05)


def test_without_candidates_both_answers_are_the_same(fitted: Dlrm) -> None:
    columns, _ = make_rows(20, 14)
    np.testing.assert_array_equal(fitted.predict(columns), fitted.predict_candidates(columns))
