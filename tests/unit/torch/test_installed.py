"""What the role's environment brings works together: tables, and shards that stream."""

from __future__ import annotations

from pathlib import Path

import fbgemm_gpu  # noqa: F401  registers the operators that torchrec calls
import numpy as np
import streaming
import torch
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor


def test_a_bag_of_embeddings_is_the_mean_of_its_rows() -> None:
    table = EmbeddingBagConfig(
        name="item",
        embedding_dim=4,
        num_embeddings=10,
        feature_names=["history"],
        pooling=PoolingType.MEAN,
    )
    bags = EmbeddingBagCollection(tables=[table])
    features = KeyedJaggedTensor(["history"], torch.tensor([1, 2, 5]), lengths=torch.tensor([2, 1]))
    rows = bags.embedding_bags["item"].weight
    expected = torch.stack([(rows[1] + rows[2]) / 2, rows[5]])
    torch.testing.assert_close(bags(features)["history"], expected)


def test_shards_are_written_and_read_without_pictures_or_texts(tmp_path: Path) -> None:
    columns = {"user": "ndarray:int64:4"}
    with streaming.MDSWriter(out=str(tmp_path), columns=columns) as writer:
        for start in (0, 4):
            writer.write({"user": np.arange(start, start + 4)})
    read = streaming.LocalDataset(str(tmp_path))
    assert np.concatenate([read[at]["user"] for at in range(len(read))]).tolist() == list(range(8))
