"""The bench of diversity measures the slates that a bundle serves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.diversity import measure
from contract.bundle import METRICS_FILE
from training.config import TrainingSettings
from training.data.prepared import Prepared
from training.promotion import slate_quality


def test_without_diversity_slates_are_as_good_as_the_bundles_own(small_bundle: tuple[Prepared, Path]) -> None:
    prepared, folder = small_bundle
    metrics = json.loads((folder / METRICS_FILE).read_text())
    plain, diverse = measure(prepared, folder, TrainingSettings().k, (0.0, 1.0))
    assert plain.ndcg == pytest.approx(slate_quality(metrics), rel=0.01)
    assert diverse.distance > plain.distance
