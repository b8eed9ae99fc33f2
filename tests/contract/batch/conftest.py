"""One real Redis for the contract tests of the batch role; every test starts with it empty."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import google.protobuf  # noqa: F401  before Merlin, which forces the slow Python implementation on later ones
import pytest

from batch.compute import engine
from batch.settings import BatchSettings
from ensemble.stores.client import connect
from tests.builders.batch import BatchWorld, make_batch_world
from tests.builders.redis_fixtures import redis, redis_url  # noqa: F401
from tests.builders.search_redis import running_redis


@pytest.fixture(scope="session")
def batch_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BatchWorld]:
    """Gives a small world whose Redis, its own, has what online requests read."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "redis").mkdir()
    with running_redis(folder / "redis") as url:
        client = connect(url, 5000)
        yield make_batch_world(folder / "var", url, client, users=1_001)
        client.close()


@pytest.fixture(scope="session")
def one_ray() -> Iterator[int]:
    """Starts Ray as a run does, but once, for all runs of this process; gives the number of workers."""
    with engine.connected(BatchSettings(workers=2)) as workers, pytest.MonkeyPatch.context() as monkeypatch:

        @contextmanager
        def connected(_: BatchSettings) -> Iterator[int]:
            yield workers

        monkeypatch.setattr(engine, "connected", connected)
        yield workers
