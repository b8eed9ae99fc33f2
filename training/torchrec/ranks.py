"""The processes that train together: which one this is, where it computes, how they talk."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from contract.arrays import Floats

Value = TypeVar("Value")
ENDED, SAID = "ended", "said"
"""In the store of the process group: how many ranks have something to say, and that one has said it."""
SAID_S = 30.0
"""Seconds that the others wait for its line."""


@dataclass(frozen=True)
class Ranks:
    """One process of several, `rank` of `count`, all in one process group."""

    rank: int
    count: int
    device: torch.device

    @classmethod
    def current(cls) -> Ranks:
        """Reads them from the process group, whoever began it: torchrun, Ray Train, or `process_group`."""
        local = int(os.environ.get("LOCAL_RANK", 0))
        device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
        return cls(dist.get_rank(), dist.get_world_size(), device)

    @property
    def is_first(self) -> bool:
        """Whether this one writes and speaks for all."""
        return self.rank == 0

    def share(self, rows: int) -> slice:
        """Gives this one's part of so many rows, which all together cover."""
        return slice(rows * self.rank // self.count, rows * (self.rank + 1) // self.count)

    def gather(self, part: Tensor) -> Tensor:
        """Joins equal parts (B,) or (B,D) of all, in their order; gradients go back whence they came."""
        if self.count == 1:
            return part
        gathered: Tensor = _Gathered.apply(part)
        return gathered

    def mean(self, value: Tensor) -> Tensor:
        """Averages a number of all."""
        if self.count > 1:
            dist.all_reduce(value)
        return value / self.count

    def joined(self, part: Floats) -> Floats:
        """Joins parts of any number of rows (B,D) of all, in their order."""
        if self.count == 1:
            return part
        parts: list[Floats] = [part] * self.count
        dist.all_gather_object(parts, part)
        return np.concatenate(parts)

    def told_by_first(self, value: Value) -> Value:
        """Gives everyone what the first one says."""
        if self.count == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def wait(self) -> None:
        """Waits for all."""
        if self.count > 1:
            dist.barrier()

    def first_does(self, work: Callable[[], None]) -> None:
        """Lets the first one do what all others wait for; what it fails by, all of them do.

        Raises:
            OSError, RuntimeError: those of the work.
        """
        fault: OSError | RuntimeError | None = None
        if self.is_first:
            try:
                work()
            except (OSError, RuntimeError) as error:
                fault = error
        if fault := self.told_by_first(fault):
            raise fault

    def say_once(self, line: str) -> None:
        """Writes a line to standard error, unless another rank has one as well and is sooner: then it waits
        until that one is written, as what started the ranks may end them all with the first that leaves."""
        store = dist.distributed_c10d._get_default_store()
        if store.add(ENDED, 1) == 1:
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()
            store.set(SAID, "")
            return
        with suppress(RuntimeError):  # who wrote it is gone, and the store with it
            store.wait([SAID], timedelta(seconds=SAID_S))


class _Gathered(torch.autograd.Function):
    """Joins the parts (B,...) of all ranks; each gets back what all of them say of its part."""

    @staticmethod
    def forward(context: Any, part: Tensor) -> Tensor:  # noqa: ARG004  (nothing to remember)
        parts = [torch.empty_like(part) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, part.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004  (as above)
        said = gradients[0].contiguous().clone()
        dist.all_reduce(said)
        return said.chunk(dist.get_world_size())[dist.get_rank()]


@contextmanager
def process_group() -> Iterator[Ranks]:
    """Begins and ends the group that torchrun's variables describe; without them, of this process alone."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group(backend)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        ranks = Ranks.current()
        if ranks.device.type == "cuda":
            torch.cuda.set_device(ranks.device)
        yield ranks
    finally:
        dist.destroy_process_group()
