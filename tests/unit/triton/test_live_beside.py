"""What is done beside the streams: one after the other, and what fails is said."""

from __future__ import annotations

import queue
import time
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from live.archive import Archive
from live.beside import Beside

WITHIN_S = 10.0


def test_what_fails_is_said_and_the_next_is_done_all_the_same(tmp_path: Path) -> None:
    hour = tmp_path / "2026-01-01T00"
    hour.mkdir()
    for name, users in (("0-1.parquet", pa.array([7])), ("1-1.parquet", pa.array(["seven"]))):
        pq.write_table(pa.table({"user_id": users}), hour / name)
    archive = Archive(tmp_path, lambda _: pa.table({}))
    lines: queue.Queue[str] = queue.Queue()
    beside = Beside("test", lines.put)
    beside.do(partial(archive.merge, time.time()), "not merged")
    beside.do(lambda: lines.put("the next"), "not done")
    said = lines.get(timeout=WITHIN_S)
    assert said.startswith("not merged: ArrowTypeError: Unable to merge: Field user_id")
    assert lines.get(timeout=WITHIN_S) == "the next"
    assert len([*hour.iterdir()]) == 2, "what is not merged stays"
