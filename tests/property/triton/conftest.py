"""A small world for the property tests of the triton role, built once."""

from __future__ import annotations

import google.protobuf  # noqa: F401  before Merlin, which forces the slow Python implementation on later ones
import pytest

from ensemble.run.recommender import Recommender
from tests.builders.triton import World, make_recommender, make_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Gives 60 items and 20 users, on disk as a bundle and in memory."""
    return make_world(tmp_path_factory.mktemp("world") / "bundle")


@pytest.fixture
def recommender(world: World) -> Recommender:
    """Gives the chain on memory stores, K = 10."""
    return make_recommender(world)
