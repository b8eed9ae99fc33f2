"""From the best checkpoint to ONNX: the towers with whole tables, unknown users and new items placed."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from contract.arrays import Array, Floats
from contract.bundle import ModelSpec
from contract.encoders import Field
from contract.whole_file import whole_file
from training.examples.safe_names import renamed, safe_name
from training.export.towers import model_spec
from training.retrieval.pieces import in_pieces
from training.retrieval.placing import place_unknown
from training.retrieval.task import FittingTask
from training.retrieval.torchrec import ITEM_TOWER, RESULT_FILE, USER_TOWER, USER_WEIGHTS, Result
from training.retrieval.tower_design import PRIOR_SPEED, TowersStart, score_range
from training.torchrec.batches import tensors
from training.torchrec.checkpoints import Checkpoints, Progress
from training.torchrec.tables import WholeTables
from training.torchrec.towers import Columns, TorchItemTower, TorchUserTower, TwoTowers
from training.torchrec.user_weights import weights_of

OPSET = 18
CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class WholeTowers:
    """The trained towers in one process, a `PlaceableTowers`."""

    name = "two-tower"
    user_features: tuple[str, ...]
    item_features: tuple[str, ...]
    towers: TwoTowers

    @property
    def user_tower(self) -> TorchUserTower:
        """The users' half."""
        return self.towers.user_tower

    @property
    def item_tower(self) -> TorchItemTower:
        """The items' half."""
        return self.towers.item_tower

    def encode_users(self, arrays: Mapping[str, Array]) -> Floats:
        """Takes encoded columns, (U,) or for lists (U,S), gives vectors (U, D + 1)."""
        return _encode(self.user_tower, self.user_features, arrays)

    def encode_items(self, arrays: Mapping[str, Array]) -> Floats:
        """Takes encoded columns, (I,) or for lists (I,L), gives vectors (I, D + 1)."""
        return _encode(self.item_tower, self.item_features, arrays)

    def users_to_onnx(self, spec: ModelSpec) -> onnx.ModelProto:
        """Converts the user tower."""
        return to_onnx(self.user_tower, spec)

    def items_to_onnx(self, spec: ModelSpec) -> onnx.ModelProto:
        """Converts the item tower."""
        return to_onnx(self.item_tower, spec)

    @property
    def score_range(self) -> tuple[float, float]:
        """Bounds of the inner product of any user with any item."""
        return score_range(self.item_tower.prior().detach().numpy(), self.item_tower.temperature)

    @property
    def item_popularity(self) -> Floats:
        """How popular every item code is, (item codes,)."""
        popularity: Floats = self.item_tower.popularity.numpy()
        return popularity

    @property
    def side_fields(self) -> tuple[Field, ...]:
        """What the item tower reads beside the id, by safe name."""
        return self.item_tower.fields

    @property
    def new_item_lift(self) -> float:
        """How much more popular than their features say new items are taken to be."""
        return float(self.item_tower.lift)

    def lift_new_items(self, lift: float) -> None:
        """Sets it."""
        self.item_tower.lift.fill_(lift)

    def place_new_items(self, base: Floats, tables: Mapping[str, Floats]) -> None:
        """Puts new items at `base` (D + 1,) and what `tables` (rows, D + 1) add."""
        self.item_tower.place_new_items(base, tables)

    def user_sums(self, arrays: Mapping[str, Array]) -> Floats:
        """Takes encoded columns (U,), lists (U,S), gives what vectors are made of, (U, D + 1)."""
        with torch.no_grad():
            sums: Floats = self.user_tower.sums(tensors(arrays, CPU)).numpy()
        return sums

    def place_newcomer(self, direction: Floats, sums: Floats) -> None:
        """Moves users without history as the unknown one, now at `sums` (D + 1,), moves to a direction."""
        self.user_tower.place_newcomer(direction, sums)


def _encode(tower: nn.Module, features: tuple[str, ...], arrays: Mapping[str, Array]) -> Floats:
    columns = {name: arrays[name] for name in features}
    with torch.no_grad():
        return in_pieces(lambda some: tower(tensors(some, CPU)).numpy(), columns)


def best_towers(
    task: FittingTask, start: TowersStart, progress: Progress, checkpoints: Checkpoints
) -> WholeTowers:
    """Reads the best weights, and places who is unknown.

    Raises:
        CheckpointError: the weights are damaged.
    """
    towers = TwoTowers(task.tower_fields, start, task.config, WholeTables).eval()
    checkpoints.load_best(towers, progress.best_at, alone=True)
    model = WholeTowers(tuple(task.user_columns), tuple(task.catalogue), towers)
    place_unknown(model, task, task.validation)
    return model


def export(
    task: FittingTask, start: TowersStart, progress: Progress, checkpoints: Checkpoints, to: Path
) -> None:
    """Writes both towers of the best weights, what rows of users go on learning with, and the `Result`, that
    last.

    Raises:
        CheckpointError: the weights are damaged.
    """
    model = best_towers(task, start, progress, checkpoints)
    user = model_spec(model.user_features, task.fields, USER_TOWER, "user_vector")
    item = model_spec(model.item_features, task.fields, ITEM_TOWER, "item_vector")
    for spec, graph in ((user, model.users_to_onnx(user)), (item, model.items_to_onnx(item))):
        with whole_file(to / spec.file) as file:
            file.write(graph.SerializeToString())
    with whole_file(to / USER_WEIGHTS) as file:
        np.savez(file, **weights_of(model.user_tower))
    result = Result(
        user_tower=user,
        item_tower=item,
        prior_factor=PRIOR_SPEED * float(model.item_tower.factor.detach()),
        temperature=task.config.temperature,
        history=tuple(progress.history),
        fresh_share=task.config.fresh_share if progress.ended_fresh else 0.0,
    )
    with whole_file(to / RESULT_FILE) as file:
        file.write(json.dumps(result.model_dump(mode="json")).encode())


def to_onnx(tower: TorchUserTower | TorchItemTower, spec: ModelSpec) -> onnx.ModelProto:
    """Builds the graph of a tower of inputs as `spec` packs them."""
    inputs = _inputs(spec)
    own = {f"input_{at}": name for at, name in enumerate(inputs)}
    rows = torch.export.Dim("rows")
    packed = tuple(torch.zeros((2, width), dtype=dtype) for width, dtype in inputs.values())
    program = torch.onnx.export(
        _Packed(tower, spec).eval(),
        packed,
        input_names=[*own],
        output_names=[spec.output],
        dynamic_shapes={"packed": tuple({0: rows} for _ in inputs)},
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    buffer = io.BytesIO()
    program.save(buffer)
    return renamed(onnx.load_from_string(buffer.getvalue()), own)


class _Packed(nn.Module):
    """A tower behind inputs as they are packed for serving."""

    def __init__(self, tower: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        self.tower, self.spec = tower, spec

    def forward(self, *packed: Tensor) -> Tensor:
        inputs = dict(zip(_inputs(self.spec), packed, strict=True))
        columns: Columns = {
            safe_name(name): inputs[name] for name in (*self.spec.lists, *self.spec.embeddings)
        }
        for kind, several in (("categorical", self.spec.categorical), ("numeric", self.spec.numeric)):
            columns = {
                **columns,
                **{safe_name(name): inputs[kind][:, at] for at, name in enumerate(several)},
            }
        vectors: Tensor = self.tower(columns)
        return vectors


def _inputs(spec: ModelSpec) -> dict[str, tuple[int, torch.dtype]]:
    inputs = {name: (length, torch.int64) for name, length in spec.lists.items()}
    inputs |= {name: (length, torch.float32) for name, length in spec.embeddings.items()}
    if spec.categorical:
        inputs["categorical"] = len(spec.categorical), torch.int64
    if spec.numeric:
        inputs["numeric"] = len(spec.numeric), torch.float32
    return inputs
