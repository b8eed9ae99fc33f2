"""Computes features and brings them into a test's Redis, as `make materialize` does."""

from __future__ import annotations

from contract.environment import RedisUrl
from feature_repo.materialize import Arrived, materialize
from tests.builders.datasets import quiet
from training.data.prepared import Prepared
from training.features.tables import write_features


def load(prepared: Prepared, url: RedisUrl) -> Arrived:
    """Computes a data set's features and brings them into Redis."""
    write_features(prepared, "own")
    return materialize(prepared.folder, url, say=quiet)
