"""What each step trains on: drawn anew for every step, so that any step can be begun at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count
from typing import Protocol

import numpy as np
import torch

from contract import names
from contract.arrays import Array, Bools, Floats, Ints
from contract.encoders import OOV_CODE
from training.examples.safe_names import with_safe_names
from training.retrieval.sampling import BatchMix, sampling_probabilities, unknown_columns
from training.retrieval.task import FittingTask
from training.torchrec.ranks import Ranks
from training.torchrec.towers import Columns


class Batches(Protocol):
    """One rank's examples of every step; step n is the same whenever and however often it is asked for, and
    all ranks together have the rows that one alone has."""

    def read(self, fresh_share: float, start: int) -> Iterator[dict[str, Array]]:
        """Gives encoded columns of users and items from a step on, (B,), lists (B,S); of users, `fresh_share`
        are as of just before."""


class DrawnBatches:
    """`Batches` of a task whose examples are at hand: as the first trainer draws them."""

    def __init__(self, task: FittingTask, ranks: Ranks) -> None:
        self.task, self.ranks = task, ranks
        self.size = task.batch_of(ranks.count)
        mix = BatchMix.of(task.examples, task.config, self.size)
        self._sizes, self.blanks = mix.sizes, mix.sizes[1]
        self._ends = [np.cumsum(chances) for chances in mix.chances]
        shares = sampling_probabilities(task.fields, task.examples, task.catalogue, mix.mixed)
        self.log_chances = logarithms(shares)
        """The logarithm of every item code's chance to be drawn, (item codes,)."""

    def read(self, fresh_share: float, start: int) -> Iterator[dict[str, Array]]:
        """Draws from a step on; the last `blanks` rows of all ranks' have their user withheld."""
        for step in count(start):
            rng = np.random.default_rng([self.task.seed, int(fresh_share > 0), step])
            drawn = zip(self._ends, self._sizes, strict=True)
            rows = np.concatenate([self._draw(rng, ends, size) for ends, size in drawn])
            is_fresh = rng.random(self.size) < fresh_share
            is_dropped = rng.random(self.size) < self.task.config.user_dropout
            is_blank = np.arange(self.size) >= self.size - self.blanks
            mine = self.ranks.share(self.size)
            yield self._columns(rows[mine], is_fresh[mine], is_dropped[mine], is_blank[mine])

    def _draw(self, rng: np.random.Generator, ends: Array, size: int) -> Ints:
        rows = np.searchsorted(ends, rng.random(size) * ends[-1], side="right")
        drawn: Ints = np.minimum(rows, len(self.task.examples) - 1)
        return drawn

    def _columns(self, rows: Ints, is_fresh: Bools, is_dropped: Bools, is_blank: Bools) -> dict[str, Array]:
        columns = self.task.examples.batch(rows, is_fresh)
        blank = unknown_columns(self.task.fields, columns)
        for name, values in columns.items():
            chosen = is_blank if values.ndim == 1 else is_blank[:, None]
            columns[name] = np.where(chosen, blank[name], values)
        columns[names.USER_ID] = np.where(is_dropped, OOV_CODE, columns[names.USER_ID])
        items = self.task.examples.items[rows]
        return columns | {name: values[items] for name, values in self.task.catalogue.items()}


def logarithms(chances: Array) -> Floats:
    """Takes chances, gives their logarithms; of none, that of the least number."""
    logs: Floats = np.log(np.maximum(chances, np.finfo(np.float32).tiny)).astype(np.float32)
    return logs


def tensors(columns: Mapping[str, Array], device: torch.device) -> Columns:
    """Brings encoded columns to a device, by safe name."""
    found = {name: torch.from_numpy(_own(values)) for name, values in columns.items()}
    return {name: values.to(device, non_blocking=True) for name, values in with_safe_names(found).items()}


def _own(values: Array) -> Array:
    """Copies what is mapped from a file, which torch does not take."""
    whole = np.ascontiguousarray(values)
    return whole if whole.flags.writeable else whole.copy()
