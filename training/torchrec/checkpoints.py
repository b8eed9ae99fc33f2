"""Where a training is: tables and optimizer, cut as they lie, in files that any other number of ranks reads.

A checkpoint is written beside its place and renamed once all ranks have written their part; the one before it
goes only then. So whatever ends the training, there is a whole one.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor import Shard, ShardedTensor

from training.torchrec.ranks import Ranks

PROGRESS_FILE = "progress.json"
MOMENTS = ("exp_avg", "exp_avg_sq")
STEPS = "steps"
"""How many Adam has made, of all parameters alike."""


class CheckpointError(RuntimeError):
    """Says which checkpoint is of no use, and what to do."""


@dataclass
class Progress:
    """How far a training is."""

    digest: str
    """Of what is learned: task and batch size."""
    is_fresh: bool = False
    """Whether these are the last steps, of users as of just before."""
    step: int = 0
    """Steps done of these or of those before them."""
    losses: list[float] = field(default_factory=list)
    """Since the last evaluation."""
    history: list[dict[str, float]] = field(default_factory=list)
    best_at: int = -1
    """The place in `history` of the evaluation whose weights are kept."""
    waited: int = 0
    """Evaluations since."""
    fresh_from: int = -1
    """The place in `history` where the last steps begin."""
    is_done: bool = False

    def begin_fresh(self) -> None:
        """Goes over to the last steps."""
        self.is_fresh, self.step, self.waited, self.losses = True, 0, 0, []
        self.fresh_from = len(self.history)

    @property
    def ended_fresh(self) -> bool:
        """Whether the weights that are kept are of the last steps."""
        return self.is_fresh and self.best_at >= self.fresh_from

    @property
    def place(self) -> tuple[bool, int]:
        """Grows as the training goes on."""
        return self.is_fresh, self.step


class Checkpoints:
    """The checkpoints of one training, in one folder that all ranks see."""

    def __init__(self, folder: Path, ranks: Ranks) -> None:
        self.folder, self.ranks = folder, ranks
        if ranks.is_first:
            folder.mkdir(parents=True, exist_ok=True)
        ranks.wait()

    def last(self, digest: str) -> tuple[Path, Progress] | None:
        """Finds the newest one.

        Raises:
            CheckpointError: it is of another model, or damaged.
        """
        found = []
        for file in self.folder.glob(f"at-*/{PROGRESS_FILE}"):
            try:
                found.append((file.parent, Progress(**json.loads(file.read_text()))))
            except (ValueError, TypeError) as error:
                raise CheckpointError(f"{file}: damaged ({error}); remove {self.folder}") from None
        if not found:
            return None
        newest = max(found, key=lambda one: one[1].place)
        if newest[1].digest != digest:
            raise CheckpointError(
                f"{newest[0]}: is of another model: fields, examples, settings or batch differ; "
                f"remove {self.folder}"
            )
        return newest

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
        """Writes down where the training is.

        Raises:
            OSError: a rank cannot write; what was there stays.
        """
        name = f"at-{int(progress.is_fresh)}-{progress.step:08d}"
        state = {"model": model.state_dict(), "optimizer": optimizer_state(model, optimizer)}
        self._write(name, state, asdict(progress))
        wanted = {name, _best_name(progress.best_at)}
        if self.ranks.is_first:
            for old in self.folder.iterdir():
                if old.name not in wanted:
                    shutil.rmtree(old, ignore_errors=True)
        self.ranks.wait()

    def load(self, path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Brings model and optimizer to where they were, however their tables lay then.

        Raises:
            CheckpointError: it is damaged.
        """
        state = {"model": model.state_dict(), "optimizer": optimizer_state(model, optimizer)}
        _read(path, state)
        for held in optimizer.state.values():
            held["step"].copy_(state["optimizer"][STEPS])

    def save_best(self, model: nn.Module, at: int) -> None:
        """Keeps the weights of an evaluation.

        Raises:
            OSError: as `save`.
        """
        self._write(_best_name(at), {"model": model.state_dict()}, {})

    def load_best(self, model: nn.Module, at: int, *, alone: bool = False) -> None:
        """Brings the weights of an evaluation back; `alone`, without the other ranks."""
        _read(self.folder / _best_name(at), {"model": model.state_dict()}, alone=alone)

    def _write(self, name: str, state: dict[str, Any], facts: dict[str, Any]) -> None:
        temporary, target = self.folder / f".{name}.tmp", self.folder / name

        def begin() -> None:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()

        def end() -> None:
            (temporary / PROGRESS_FILE).write_text(json.dumps(facts))
            shutil.rmtree(target, ignore_errors=True)
            temporary.rename(target)

        try:
            self.ranks.first_does(begin)
            _save(state, temporary)
            self.ranks.first_does(end)
        finally:
            if self.ranks.is_first:
                shutil.rmtree(temporary, ignore_errors=True)


def _best_name(at: int) -> str:
    return f"best-{at}"


class PartWriter(dcp.FileSystemWriter):
    """Writes a rank's part, and says why it could not."""

    def write_data(self, *plan: Any) -> Any:
        """Writes it.

        Raises:
            OSError: it could not; torch itself says of a full disk that a position is not as expected.
        """
        try:
            return super().write_data(*plan)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def _save(state: dict[str, Any], folder: Path) -> None:
    """Writes all ranks' parts; where one of them cannot, all raise its error."""
    try:
        dcp.save(state, storage_writer=PartWriter(folder))
    except dcp.api.CheckpointException as error:
        for fault, _ in error.failures.values():
            if isinstance(fault, OSError):
                raise fault from None
        raise


def _read(path: Path, state: dict[str, Any], *, alone: bool = False) -> None:
    try:
        dcp.load(state, checkpoint_id=path, no_dist=alone)
    except (dcp.api.CheckpointException, OSError, ValueError, RuntimeError) as error:
        said = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise CheckpointError(f"{path}: damaged ({said[0][:200]}); remove {path.parent}") from error


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Gives Adam's state by parameter, of cut tables cut alike: loading into it moves the optimizer."""
    known = model.state_dict()
    by_parameter: dict[str, Any] = {STEPS: next(iter(optimizer.state.values()))["step"].clone()}
    for name, parameter in model.named_parameters():
        state = optimizer.state.get(parameter)
        whole = known[name]
        for moment in MOMENTS:
            if isinstance(whole, ShardedTensor):
                by_parameter[f"{name}.{moment}"] = _cut_alike(whole, state and state[moment])
            elif state:
                by_parameter[f"{name}.{moment}"] = state[moment]
    return by_parameter


def _cut_alike(whole: ShardedTensor, mine: Tensor | None) -> ShardedTensor:
    shards = [Shard(mine, shard.metadata) for shard in whole.local_shards() if mine is not None]
    return ShardedTensor._init_from_local_shards_and_global_metadata(shards, whole.metadata())
