"""`python -m bench.batch.notebook`: the published notebook's way, a Python loop over users.

After the idea of redis-nvidia-recsys' offline batch notebook, written anew: per user the features from
tables in memory, the user tower, the nearest items by inner product, the DLRM on the K candidates, sorting,
and one write to Redis. Seen and unavailable items are left out, and the order is that of both scores, so that
slates can be held against the batch job's. The features are gathered by training's own code, which is faster
than the original's data frames. The models are SavedModels of the same training run, so already compiled.

Three ways to run them: `predict`, as Keras is commonly used; `loader`, as the original's loop does, which
turns each user's candidates into a data frame, a data set and a loader, and calls the model on its only
batch; `direct`, the least that TensorFlow takes.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contract.arrays import Array, Floats, Ids

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import merlin.io
import numpy as np
import numpy.typing as npt
import pandas as pd
import tensorflow as tf
from merlin.dataloader.tensorflow import Loader
from redis import Redis

from bench.batch.stored import agreement, published_slates
from contract import names
from contract.bundle import ENCODERS_FILE, ITEM_IDS_FILE, ITEM_VECTORS_FILE, Manifest, read_manifest
from contract.dataset import Dataset
from contract.encoders import Encoders
from contract.environment import read_settings
from contract.keys import decode_seen, seen_key
from contract.ordering import order_scores
from feature_repo.connection import ConnectionSettings
from training.data.prepared import load_prepared
from training.examples.snapshot import Candidates, items_as_of, users_as_of
from training.examples.split import all_user_ids, rows_of
from training.export.write import write_json

Predict = Callable[[Mapping[str, Array]], Floats]
WARM_USERS = 5
PREFIX = "notebook:"
SEED = 7


class SavedNetwork(tf.keras.Model):
    """A SavedModel as the Keras model that a notebook holds."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.loaded = tf.saved_model.load(str(folder))
        self.signature = self.loaded.signatures["serving_default"]
        _, self.specs = self.signature.structured_input_signature

    def call(self, inputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Takes named columns, gives the only output."""
        (output,) = self.signature(**inputs).values()
        return output

    def columns(self, given: Mapping[str, Array]) -> dict[str, Array]:
        """Picks what the model reads, in its dtypes."""
        return {name: given[name].astype(spec.dtype.as_numpy_dtype) for name, spec in self.specs.items()}

    def by_predict(self, given: Mapping[str, Array]) -> Floats:
        """Calls `predict`, as a notebook does."""
        columns = self.columns(given)
        rows = len(next(iter(columns.values())))
        output: Floats = self.predict(columns, batch_size=rows, verbose=0)
        return output

    def by_loader(self, given: Mapping[str, Array]) -> Floats:
        """Calls the model on the only batch of a loader over a data set over a data frame."""
        columns = self.columns(given)
        rows = len(next(iter(columns.values())))
        frame = pd.DataFrame({name: v if v.ndim == 1 else list(v) for name, v in columns.items()})
        batch, _ = next(iter(Loader(merlin.io.Dataset(frame), batch_size=rows, shuffle=False)))
        tensors = {
            name: batch[name] if name in batch else tf.reshape(batch[f"{name}__values"], (rows, -1))
            for name in columns
        }
        output: Floats = self.call(tensors).numpy()
        return output

    def directly(self, given: Mapping[str, Array]) -> Floats:
        """Calls the compiled function behind it, without what Keras puts around."""
        tensors = {name: tf.constant(values) for name, values in self.columns(given).items()}
        output: Floats = self.call(tensors).numpy()
        return output


@dataclass(frozen=True, eq=False)
class Notebook:
    """What the cells before the loop made: tables in memory, vectors, and what users have seen."""

    manifest: Manifest
    encoders: Encoders
    candidates: Candidates
    user_ids: Ids
    item_ids: Ids
    item_vectors: Floats
    is_available: npt.NDArray[np.bool_]
    redis: Redis
    k: int
    n: int

    def recommend(self, user_id: int, tower: Predict, ranker: Predict) -> Ids:
        """Gives one user's slate."""
        row = rows_of(self.user_ids, np.array([user_id]))
        user = self.encoders.encode_all({name: v[row] for name, v in self.candidates.users.items()})
        scores = self.item_vectors @ tower(user)[0]
        value: Any = self.redis.get(seen_key(self.manifest.dataset, user_id))
        seen = rows_of(self.item_ids, decode_seen(value))
        scores[seen[seen >= 0]] = -np.inf
        scores[~self.is_available] = -np.inf
        best = np.argsort(-scores, kind="stable")[: self.k]
        best = best[np.isfinite(scores[best])]
        ranking = ranker(self.candidates.columns(row, best[None])).ravel()
        order = np.argsort(-order_scores(ranking, scores[best], self.manifest.order), kind="stable")
        slate: Ids = self.item_ids[best[order[: self.n]]]
        return slate

    def loop(self, users: Sequence[int], tower: Predict, ranker: Predict) -> dict[int, Ids]:
        """Recommends to one user after the other, and writes each slate as JSON, as the notebook does."""
        slates = {}
        for user in users:
            slates[user] = self.recommend(user, tower, ranker)
            document = {"user_id": user, "recommendations": slates[user].tolist()}
            self.redis.set(f"{PREFIX}{user}", json.dumps(document))
        return slates


def opened(prepared_folder: Path, bundle: Path, redis: Redis, k: int, n: int) -> Notebook:
    """Makes the tables, as of the data set's clock.

    Raises:
        ValueError: the bundle's items are not the data set's.
    """
    prepared, encoders = load_prepared(prepared_folder), Encoders.load(bundle / ENCODERS_FILE)
    dataset: Dataset = prepared.dataset
    item_ids = np.load(bundle / ITEM_IDS_FILE)
    if not np.array_equal(item_ids, prepared.items[names.ITEM_ID].to_numpy(np.int64)):
        raise ValueError(f"{bundle}: its items are not those of {prepared_folder}; train again")
    instant, flag = dataset.clock(), dataset.availability
    users, items = users_as_of(prepared, instant), items_as_of(prepared, instant)
    is_available = (
        prepared.items[flag].fillna(True).to_numpy(np.bool_) if flag else np.ones(len(item_ids), bool)
    )
    return Notebook(
        manifest=read_manifest(bundle),
        encoders=encoders,
        candidates=Candidates(dataset, encoders, users, items),
        user_ids=all_user_ids(prepared),
        item_ids=item_ids,
        item_vectors=np.load(bundle / ITEM_VECTORS_FILE),
        is_available=is_available,
        redis=redis,
        k=k,
        n=n,
    )


def main() -> int:
    """Times the loop each way, and compares the slates with the stored ones."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prepared", type=Path, required=True, help="the prepared data set's folder")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--saved-models", type=Path, required=True, help="those of the same training run")
    parser.add_argument("--users", type=int, required=True, help="users of the sample")
    parser.add_argument("--k", type=int, required=True, help="candidates")
    parser.add_argument("--n", type=int, required=True, help="items of a slate")
    parser.add_argument("--report", type=Path, required=True)
    chosen = parser.parse_args()
    redis, started = (
        Redis(**read_settings(ConnectionSettings).redis_url.connection_kwargs()),
        time.monotonic(),
    )
    notebook = opened(chosen.prepared, chosen.bundle, redis, chosen.k, chosen.n)
    tower, ranker = (SavedNetwork(chosen.saved_models / name) for name in ("user_tower", "ranker"))
    facts: dict[str, Any] = {"start_up_s": time.monotonic() - started}
    drawn = np.random.default_rng(SEED).permutation(notebook.user_ids).tolist()
    users, others = drawn[: chosen.users], drawn[chosen.users :][:WARM_USERS]
    stored = published_slates(redis, load_prepared(chosen.prepared).dataset.name, users)
    ways = {
        "predict": (tower.by_predict, ranker.by_predict),
        "loader": (tower.directly, ranker.by_loader),
        "direct": (tower.directly, ranker.directly),
    }
    for name, models in ways.items():
        notebook.loop(others, *models)
        started = time.perf_counter()
        slates = notebook.loop(users, *models)
        seconds = time.perf_counter() - started
        facts[name] = {"users": len(users), "seconds": seconds, "users_per_s": len(users) / seconds}
        facts[name] |= agreement(slates, stored)
    redis.unlink(*(f"{PREFIX}{user}" for user in [*users, *others]))
    write_json(chosen.report, facts)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
