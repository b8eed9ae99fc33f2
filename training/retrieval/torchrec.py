"""Retrieval's model, trained by TorchRec in processes of the role torch, and read back as ONNX."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import onnx
import onnxruntime as ort
from onnx import numpy_helper
from pydantic import BaseModel, ConfigDict

from contract.arrays import Array, Floats
from contract.bundle import ModelSpec
from contract.encoders import Field
from contract.whole_file import whole_file
from training.examples.positives import RetrievalExamples
from training.examples.safe_names import renamed
from training.retrieval.config import TorchrecConfig, TwoTowerConfig
from training.retrieval.pieces import in_pieces
from training.retrieval.task import FittingTask, TrainerError
from training.retrieval.tower_design import score_range
from training.retrieval.validation import Validation

USER_TOWER, ITEM_TOWER, RESULT_FILE = "user_tower.onnx", "item_tower.onnx", "result.json"
POPULARITY = "popularity"
"""How the item tower's graph calls its table of how popular item codes are."""
USER_WEIGHTS = "user_weights.npz"
"""The user tower as torch has it, but for its table of users."""
CONFIG_FILE = "torchrec.json"
"""How it is to be trained; may differ from one try to the next."""
ENCODED = 8192
"""Rows that are encoded at a time."""


class Result(BaseModel):
    """What a training of towers came to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    user_tower: ModelSpec
    item_tower: ModelSpec
    prior_factor: float
    """Logits by which an item's score is higher with each deviation of its popularity."""
    temperature: float
    history: tuple[dict[str, float], ...]
    """What every evaluation measured: `step`, `loss`, `validation`."""
    fresh_share: float
    """What share of the examples of the steps that it ended with were as of just before."""


@dataclass(frozen=True, eq=False)
class OnnxTowers:
    """Trained towers as ONNX, a `RetrievalModel`."""

    name = "two-tower"
    users: onnx.ModelProto
    items: onnx.ModelProto
    result: Result
    user_weights: bytes = b""
    """The file `USER_WEIGHTS`, with which rows of users go on learning."""

    @property
    def user_features(self) -> tuple[str, ...]:
        """The columns that `encode_users` reads."""
        return self.result.user_tower.columns

    @property
    def item_features(self) -> tuple[str, ...]:
        """The columns that `encode_items` reads."""
        return self.result.item_tower.columns

    @property
    def score_range(self) -> tuple[float, float]:
        """Bounds of the inner product of any user with any item."""
        return score_range(self.result.prior_factor * self.item_popularity, self.result.temperature)

    @property
    def item_popularity(self) -> Floats:
        """How popular every item code is, (item codes,)."""
        popularity: Floats = numpy_helper.to_array(self._popularity)
        return popularity

    def renew_popularity(self, popularity: Floats) -> None:
        """Sets it, in the graph that is asked from now on."""
        self._popularity.CopyFrom(numpy_helper.from_array(popularity, self._popularity.name))
        self.__dict__.pop("_sessions", None)

    @property
    def _popularity(self) -> onnx.TensorProto:
        (found,) = (one for one in self.items.graph.initializer if one.name.endswith(POPULARITY))
        return found

    @property
    def history(self) -> tuple[dict[str, float], ...]:
        """What every evaluation measured."""
        return self.result.history

    @property
    def fresh_share(self) -> float:
        """What share of the last steps' examples were as of just before."""
        return self.result.fresh_share

    @cached_property
    def _sessions(self) -> tuple[ort.InferenceSession, ort.InferenceSession]:
        users, items = (
            ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
            for graph in (self.users, self.items)
        )
        return users, items

    def encode_users(self, arrays: Mapping[str, Array]) -> Floats:
        """Takes encoded columns, (U,) or for lists (U,S), gives vectors (U, D + 1)."""
        return _run(self._sessions[0], self.result.user_tower, arrays)

    def encode_items(self, arrays: Mapping[str, Array]) -> Floats:
        """Takes encoded columns, (I,) or for lists (I,L), gives vectors (I, D + 1)."""
        return _run(self._sessions[1], self.result.item_tower, arrays)

    def users_to_onnx(self, spec: ModelSpec) -> onnx.ModelProto:
        """Gives the user tower; its inputs are packed as `spec` packs the columns in the same order."""
        return _with_output(self.users, spec.output)

    def items_to_onnx(self, spec: ModelSpec) -> onnx.ModelProto:
        """Gives the item tower."""
        return _with_output(self.items, spec.output)

    def keep_weights(self, path: Path) -> None:
        """Writes the user tower's weights, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            file.write(self.user_weights)


def _run(session: ort.InferenceSession, spec: ModelSpec, arrays: Mapping[str, Array]) -> Floats:
    return in_pieces(lambda some: session.run([spec.output], some)[0], spec.pack(arrays), ENCODED)


def _with_output(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Copies a graph, and calls its only output by a name."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return renamed(copy, {copy.graph.output[0].name: name})


def fit_torchrec(
    fields: Mapping[str, Field],
    examples: RetrievalExamples,
    catalogue: Mapping[str, Array],
    config: TwoTowerConfig,
    torchrec: TorchrecConfig,
    workers: int,
    folder: Path,
    seed: int,
    validate: Validation | None = None,
) -> OnnxTowers:
    """Trains as `fit_two_tower` does, in `workers` processes of the role torch.

    A training that ended early goes on where it was: what it left lies in `folder`, under a name that is of
    its fields, examples and settings.

    Raises:
        TrainerError: it failed, and its reason stands above; or the batch does not divide among the workers.
    """
    task = FittingTask(fields, examples, catalogue, config, seed, validate)
    task.batch_of(workers)
    work = folder / task.digest()
    task.save(work)
    (work / CONFIG_FILE).write_text(torchrec.model_dump_json())
    run_trainer(work, workers)
    result = Result.model_validate_json((work / RESULT_FILE).read_text())
    towers = [onnx.load(work / spec.file) for spec in (result.user_tower, result.item_tower)]
    weights = (work / USER_WEIGHTS).read_bytes()
    shutil.rmtree(work)
    return OnnxTowers(towers[0], towers[1], result, weights)


def trainer_python() -> str:
    """Finds the interpreter of the role torch, beside this one's.

    Raises:
        TrainerError: there is none.
    """
    python = Path(sys.prefix).parent / "torch" / "bin" / "python"
    if not python.exists():
        raise TrainerError(f"{python}: is missing; build it: make setup ROLES=torch")
    return str(python)


def run_trainer(work: Path, workers: int) -> None:
    """Runs the trainer on a folder, to its end.

    Raises:
        TrainerError: there is no role torch, or it failed.
    """
    several = ["--workers", str(workers)] if workers > 1 else []
    command = [trainer_python(), "-m", "training.torchrec", "fit", str(work), *several]
    if code := subprocess.run(command).returncode:
        raise TrainerError(f"the trainer ended with {code}; its reason stands above, what it did in {work}")
