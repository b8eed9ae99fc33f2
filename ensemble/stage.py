"""The base of every stage: a Merlin operator that reads named tensors, adds named tensors and overwrites
nothing."""

from __future__ import annotations

import logging
import re
import time
from abc import abstractmethod
from functools import cached_property
from typing import Any

import merlin.dtypes as md
import numpy as np
from merlin.dag import BaseOperator, ColumnSelector
from merlin.schema import ColumnSchema, Schema
from redis.exceptions import RedisError

from contract.arrays import Array, filled
from contract.errors import ErrorCode, StageError

LOG = logging.getLogger(__name__)
Tensors = dict[str, Array]


def tensor(name: str, dtype: Any, *widths: int) -> ColumnSchema:
    """Describes a named tensor (B, *widths); no width means one of a few."""
    dtype = {np.object_: md.string, np.bool_: md.boolean}.get(dtype, dtype)
    return ColumnSchema(name, dtype=dtype, dims=(None, *(widths or (None,))))


def us_name(stage: str) -> str:
    """Names the tensor that holds a stage's duration: int64 (B,1), microseconds."""
    return f"{stage}_us"


class Stage(BaseOperator):
    """One stage: `run` is its pure function's shell, everything else is the same for all.

    The schema is checked when the graph is built: what it reads must be there, what it writes must not.
    Every earlier tensor passes through. A failure becomes a `StageError` unless `fallback` has an answer
    without this stage.
    """

    reads: tuple[str, ...] = ()

    @property
    @abstractmethod
    def writes(self) -> Schema:
        """The tensors that it adds."""

    @abstractmethod
    def run(self, **tensors: Array) -> Tensors:
        """Takes the tensors that it reads, gives those that it writes."""

    def fallback(self, **tensors: Array) -> Tensors | None:  # noqa: ARG002
        """Gives what to go on with when the outside world failed `run`; None, the default, fails the request.

        Our own bugs never fail open.
        """
        return None

    @cached_property
    def name(self) -> str:
        """The class name in snake case: metric label, span and log key."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()

    def compute_output_schema(
        self, input_schema: Schema, col_selector: ColumnSelector, prev_output_schema: Schema | None = None
    ) -> Schema:
        """Adds what it writes to what is there.

        Raises:
            ValueError: it reads a tensor that no earlier stage writes, or writes one that is there already.
        """
        del col_selector, prev_output_schema
        there, added = set(input_schema.column_names), self.writes
        if missing := [name for name in self.reads if name not in there]:
            raise ValueError(f"{type(self).__name__} reads {missing}, which no earlier stage writes")
        if clash := sorted(there & set(added.column_names)):
            raise ValueError(f"{type(self).__name__} writes {clash}, which an earlier stage wrote already")
        self._dtypes = {c.name: _numpy_dtype(c) for c in added.column_schemas.values()}
        return input_schema + added + Schema([tensor(us_name(self.name), np.int64, 1)])

    def transform(self, col_selector: ColumnSelector, transformable: Tensors) -> Tensors:
        """Adds to a table of numpy arrays what it writes, and its duration; gives the table.

        Raises:
            StageError: it failed; `dependency` where the outside world did, `contract` where we did.
        """
        del col_selector
        started = time.perf_counter_ns()
        read = {name: transformable[name] for name in self.reads}
        try:
            added = self.run(**read)
            self._check(added)
        except Exception as error:
            failure = self._as_stage_error(error)
            answer = self.fallback(**read) if failure.code is ErrorCode.DEPENDENCY else None
            if answer is None:
                raise failure from error
            LOG.warning("went on without: %s", failure)
            added = answer
        rows = len(next(iter(read.values())))
        duration_us = (time.perf_counter_ns() - started) // 1000
        transformable |= added
        transformable[us_name(self.name)] = filled((rows, 1), duration_us)
        return transformable

    def _check(self, added: Tensors) -> None:
        found = {name: array.dtype for name, array in added.items()}
        if found != self._dtypes:
            wrong = sorted(f"{k}: {v}" for k, v in set(found.items()) ^ set(self._dtypes.items()))
            raise StageError(ErrorCode.CONTRACT, self.name, f"wrote other tensors than it declares: {wrong}")

    def _as_stage_error(self, error: Exception) -> StageError:
        if isinstance(error, StageError):
            return StageError(error.code, self.name, error.message)
        is_outside = isinstance(error, (RedisError, OSError, TimeoutError))
        code = ErrorCode.DEPENDENCY if is_outside else ErrorCode.CONTRACT
        return StageError(code, self.name, f"{type(error).__name__}: {error}".splitlines()[0])


def _numpy_dtype(column: ColumnSchema) -> np.dtype[Any]:
    is_text = column.dtype.without_shape == md.string
    return np.dtype(np.object_ if is_text else column.dtype.to_numpy)
