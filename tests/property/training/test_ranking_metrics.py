"""Metrics of probabilities equal scikit-learn's, user by user where it says so."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from training.metrics import ranking as ranking_metrics

SEEDS = st.integers(0, 2**32)


@given(SEEDS, st.integers(2, 60))
def test_auc_is_that_of_scikit_learn(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    labels, scores = rng.integers(0, 2, rows), rng.integers(0, 6, rows) / 5
    labels[:2] = 0, 1
    assert ranking_metrics.auc(labels, scores) == pytest.approx(metrics.roc_auc_score(labels, scores))


@given(SEEDS, st.integers(2, 80))
def test_gauc_weighs_each_users_auc_by_their_rows(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    users, labels = rng.integers(0, 5, rows), rng.integers(0, 2, rows)
    scores = rng.integers(0, 6, rows) / 5
    users[:2], labels[:2] = 9, (0, 1)
    mixed = [users == u for u in np.unique(users) if len(np.unique(labels[users == u])) == 2]
    expected = np.average(
        [metrics.roc_auc_score(labels[at], scores[at]) for at in mixed], weights=[at.sum() for at in mixed]
    )
    assert ranking_metrics.gauc(users, labels, scores) == pytest.approx(expected)


@given(SEEDS, st.integers(2, 60))
def test_log_loss_is_that_of_scikit_learn(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    labels, scores = rng.integers(0, 2, rows), rng.uniform(0.01, 0.99, rows)
    expected = metrics.log_loss(labels, scores, labels=[0, 1])
    assert ranking_metrics.log_loss(labels, scores) == pytest.approx(expected)


@given(SEEDS, st.integers(1, 60), st.integers(1, 12))
def test_reliability_bins_hold_every_row_once(seed: int, rows: int, bins: int) -> None:
    rng = np.random.default_rng(seed)
    labels, scores = rng.integers(0, 2, rows), rng.random(rows)
    table = ranking_metrics.reliability(labels, scores, bins)
    assert sum(row["rows"] for row in table) == rows
    assert sum(row["rows"] * row["observed"] for row in table) == pytest.approx(labels.sum())
    assert 0 <= ranking_metrics.calibration_error(labels, scores, bins) <= 1
