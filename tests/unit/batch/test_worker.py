"""A worker takes whole shards, and tells what became of one in a single small row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch.compute.chain import UserSlates
from batch.compute.worker import PATH, ShardTask, ShardWorker, SlateFiles
from batch.settings import BatchSettings
from contract.environment import RedisUrl
from contract.tensors import PAD_ID
from ensemble.settings import EnsembleSettings
from tests.builders.triton import make_world


@pytest.fixture
def worker(tmp_path: Path) -> ShardWorker:
    world = make_world(tmp_path / "bundle")
    chain = EnsembleSettings(bundle_dir=world.folder, redis_url=RedisUrl("redis://127.0.0.1:1"))
    (tmp_path / "slates").mkdir()
    return ShardWorker(ShardTask("r-1", tmp_path / "slates", chain, BatchSettings(redis_timeout_ms=100)))


def shard(folder: Path, name: str, users: int, rows: slice = slice(None)) -> Any:
    """Writes a shard, gives the block that Ray Data makes of it, or of a part of it."""
    ids = np.arange(users)
    path = folder / name
    pq.write_table(pa.table({"user_id": ids}), path)
    return pa.table({"user_id": ids[rows], PATH: [str(path)] * len(ids[rows])})


def test_half_a_shard_is_refused(worker: ShardWorker, tmp_path: Path) -> None:
    """Its slates' file would say that the other half is done as well."""
    with pytest.raises(ValueError, match="a block of 3 users is not one whole shard"):
        worker._compute(shard(tmp_path, "part-00000.parquet", 5, slice(0, 3)))


def test_two_shards_in_one_block_are_refused(worker: ShardWorker, tmp_path: Path) -> None:
    parts = [shard(tmp_path, f"part-0000{part}.parquet", 4) for part in range(2)]
    with pytest.raises(ValueError, match="a block of 8 users is not one whole shard"):
        worker._compute(pa.concat_tables(parts))


def test_a_redis_that_does_not_answer_is_told(worker: ShardWorker, tmp_path: Path) -> None:
    (record,) = worker(shard(tmp_path, "part-00000.parquet", 5)).to_pylist()
    assert record["error"].startswith("Redis at 127.0.0.1:1: ")
    assert record["users"] == 0
    assert not list((tmp_path / "slates").iterdir())


def test_a_bundle_that_cannot_be_opened_is_told(worker: ShardWorker, tmp_path: Path) -> None:
    (tmp_path / "bundle" / "ranker.onnx").unlink()
    (record,) = worker(shard(tmp_path, "part-00000.parquet", 5)).to_pylist()
    assert "ranker.onnx" in record["error"]


def test_what_it_tells_does_not_grow_with_the_shard(worker: ShardWorker, tmp_path: Path) -> None:
    rows = [worker(shard(tmp_path, "part-00000.parquet", users)) for users in (1, 5000)]
    assert [row.num_rows for row in rows] == [1, 1]
    assert not any(pa.types.is_nested(column.type) for row in rows for column in row.schema)


def test_files_of_slates_hold_the_ids_that_callers_have() -> None:
    slates = UserSlates(
        np.array([5, 6]),
        np.array([[3, 4], [4, PAD_ID]]),
        np.array([[0.5, 0.25], [0.5, -np.inf]], np.float32),
        np.zeros(2, np.int64),
    )
    numbers = SlateFiles().table(slates, 7)
    texts = SlateFiles({5: "anna"}.get, {3: "B3", 4: "B4"}.get).table(slates, 7)
    assert numbers["item_ids"].to_pylist() == [[3, 4], [4]]
    assert texts["user_id"].to_pylist() == ["anna", None]  # nobody's text is known of the second
    assert texts["item_ids"].to_pylist() == [["B3", "B4"], ["B4"]]
    assert texts.drop(["user_id", "item_ids"]).equals(numbers.drop(["user_id", "item_ids"]))
