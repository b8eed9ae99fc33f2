"""Trains a small bundle once, for the tests that look at one."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from tests.builders.datasets import small_world
from training.config import QualityLevel, TrainingSettings
from training.data.prepared import Prepared
from training.pipeline import train_bundle
from training.progress import TrainingProgress


def small_bundle(
    var_dir: Path, *, again: bool = False, seed: int = 0, ranker: str = "dlrm"
) -> tuple[Prepared, Path]:
    """Prepares the small world and trains on it at QUALITY=tiny; half a minute."""
    prepared = small_world(var_dir)
    settings = TrainingSettings(
        var_dir=var_dir, quality=QualityLevel.TINY, seed=seed, threads=1, ranker=ranker
    ).at_quality()
    return prepared, train_bundle(prepared, settings, TrainingProgress(Console(quiet=True)), again=again)
