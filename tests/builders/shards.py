"""A task's examples as shards."""

from __future__ import annotations

import io
from pathlib import Path

from contract.encoders import Encoders
from tests.builders.towers_task import FIELDS
from training.retrieval.task import FittingTask
from training.shards.cut import send_examples
from training.shards.pack import pack
from training.shards.wire import receive


def shards_of(task: FittingTask, folder: Path) -> str:
    """Writes them in four lanes; gives the folder."""
    pipe = io.BytesIO()
    encoders = Encoders(FIELDS, {}, {})
    send_examples(pipe, "world", encoders, task.catalogue, [task.examples], block_rows=32, lanes=4, seed=0)
    pipe.seek(0)
    pack(receive(pipe), str(folder))
    return str(folder)
