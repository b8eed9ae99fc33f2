"""Metrics of probabilities, where there is nothing to measure or the answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from training.metrics.ranking import auc, bootstrap_users, calibration_error, gauc


def test_one_class_alone_has_no_auc() -> None:
    assert np.isnan(auc([1, 1], [0.2, 0.3]))
    assert np.isnan(gauc([1, 1, 2], [1, 1, 0], [0.2, 0.3, 0.9]))


def test_a_constant_probability_is_off_by_its_distance_from_the_frequency() -> None:
    labels = np.tile([0, 0, 0, 1], 100)
    assert calibration_error(labels, np.full(400, 0.4), bins=1) == pytest.approx(0.15)


def test_the_interval_of_a_mean_is_reproducible_and_holds_it() -> None:
    users, values = np.repeat(np.arange(50), 4), np.random.default_rng(0).random(200)
    low, high = bootstrap_users(lambda rows: float(values[rows].mean()), users)
    assert low < values.mean() < high
    assert (low, high) == bootstrap_users(lambda rows: float(values[rows].mean()), users)
