"""What training cuts is what the other trainer reads: through the pipe, from one role to the other."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.builders.datasets import small_world
from tests.builders.encoded import encoders_of
from training.data.prepared import Prepared
from training.examples.positives import UserHistories, item_columns, retrieval_examples
from training.shards.cut import deal, send_examples
from training.shards.layout import FACTS_OF

ROOT = Path(__file__).parents[3]
TORCH = ROOT / ".venv" / "torch" / "bin" / "python"
READ = """
import sys
import numpy as np
from training.shards.layout import FACTS_OF
from training.shards.pack import pack
from training.shards.read import ExampleShards
from training.shards.wire import receive

pack(receive(sys.stdin.buffer), sys.argv[1])
shards = ExampleShards.open(sys.argv[1])
blocks = list(shards.blocks())
columns = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
np.savez(sys.argv[2], **columns, **{name: getattr(shards.facts, name) for name in FACTS_OF})
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return small_world(tmp_path_factory.mktemp("world"))


def test_the_other_role_reads_the_examples_that_training_has(prepared: Prepared, tmp_path: Path) -> None:
    encoders = encoders_of(prepared)
    examples = retrieval_examples(prepared, UserHistories.of(prepared, encoders), prepared.split.train_until)
    command = [str(TORCH), "-c", READ, str(tmp_path / "shards"), str(tmp_path / "read.npz")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=ROOT) as reader:
        assert reader.stdin is not None
        send_examples(
            reader.stdin,
            "world",
            encoders,
            item_columns(prepared, encoders),
            [examples],
            block_rows=256,
            lanes=4,
            seed=0,
        )
        reader.stdin.close()
    assert reader.returncode == 0
    read = np.load(tmp_path / "read.npz")
    assert sorted(read["row"].tolist()) == list(range(len(examples)))
    for prefix, is_fresh in (("", False), ("just before: ", True)):
        expected = examples.batch(read["row"], np.full(len(examples), is_fresh))
        for name, values in expected.items():
            stored = read[prefix + name if prefix + name in read else name]
            assert stored.dtype == values.dtype
            np.testing.assert_array_equal(stored, values, err_msg=name)
    for name in FACTS_OF:
        np.testing.assert_array_equal(read[name], getattr(examples, name), err_msg=name)


def test_blocks_are_as_heavy_as_each_other() -> None:
    weights = np.random.default_rng(0).lognormal(0, 2, 10_000)
    blocks = deal(weights, block_rows=500, lanes=4, rng=np.random.default_rng(1))
    assert len(blocks) == 20
    np.testing.assert_array_equal(np.sort(np.concatenate(blocks)), np.arange(10_000))
    heaviest = weights.max() / weights.sum() * 20  # what one row alone may make of a block
    sums = np.array([weights[block].sum() for block in blocks])
    assert np.abs(sums / sums.mean() - 1).max() < heaviest
