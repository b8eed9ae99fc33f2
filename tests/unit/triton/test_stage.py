"""The base of every stage."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from merlin.dag import Graph
from merlin.schema import Schema
from redis.exceptions import ConnectionError as RedisConnectionError

from contract.arrays import Array
from contract.errors import ErrorCode, StageError
from ensemble.run.chain import chain_of, run_chain
from ensemble.stage import Stage, Tensors, tensor


class DoubleIt(Stage):
    """Doubles x, or does what a test wants instead."""

    reads = ("x",)

    def __init__(self, writes: str = "y", error: Exception | None = None, dtype: Any = np.int64) -> None:
        super().__init__()
        self.added, self.error, self.dtype = writes, error, dtype

    @property
    def writes(self) -> Schema:
        return Schema([tensor(self.added, np.int64, 1)])

    def run(self, x: Array) -> Tensors:  # type: ignore[override]
        if self.error:
            raise self.error
        return {self.added: (2 * x).astype(self.dtype)}


class KeepGoing(DoubleIt):
    """Answers 0 where it fails."""

    def fallback(self, x: Array) -> Tensors:  # type: ignore[override]
        return {self.added: np.zeros_like(x)}


SCHEMA = Schema([tensor("x", np.int64, 1), tensor("other", np.float32, 3)])


def run(stage: Stage) -> Any:
    graph = Graph(SCHEMA.column_names >> stage)
    graph.construct_schema(SCHEMA)
    return run_chain(chain_of(graph), {"x": np.array([[1], [2]]), "other": np.ones((2, 3), np.float32)})


def test_a_stage_adds_its_tensors_and_its_duration_and_keeps_the_others() -> None:
    table = run(DoubleIt())
    assert list(table) == ["x", "other", "y", "double_it_us"]
    assert table["y"].tolist() == [[2], [4]]
    assert table["double_it_us"].shape == (2, 1)


def test_reading_a_tensor_that_nobody_writes_fails_when_the_graph_is_built() -> None:
    graph = Graph(["other"] >> DoubleIt())
    with pytest.raises(ValueError, match=r"DoubleIt reads \['x'\], which no earlier stage writes"):
        graph.construct_schema(Schema([tensor("other", np.float32, 3)]))


def test_overwriting_a_tensor_fails_when_the_graph_is_built() -> None:
    with pytest.raises(
        ValueError, match=r"DoubleIt writes \['other'\], which an earlier stage wrote already"
    ):
        Graph(SCHEMA.column_names >> DoubleIt("other")).construct_schema(SCHEMA)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RedisConnectionError("gone"), ErrorCode.DEPENDENCY),
        (TimeoutError("late"), ErrorCode.DEPENDENCY),
        (ZeroDivisionError("ours"), ErrorCode.CONTRACT),
        (StageError(ErrorCode.BAD_REQUEST, "somewhere", "yours"), ErrorCode.BAD_REQUEST),
    ],
    ids=str,
)
def test_a_failure_says_who_is_responsible_and_where(error: Exception, code: ErrorCode) -> None:
    with pytest.raises(StageError) as caught:
        run(DoubleIt(error=error))
    assert caught.value.code is code
    assert caught.value.stage == "double_it"
    parsed = StageError.parse(f"in Triton's own words: {caught.value}")
    assert parsed is not None
    assert (parsed.code, parsed.stage) == (code, "double_it")


def test_our_own_bug_never_fails_open() -> None:
    with pytest.raises(StageError) as caught:
        run(KeepGoing(error=ZeroDivisionError("ours")))
    assert caught.value.code is ErrorCode.CONTRACT


def test_a_stage_with_a_fallback_goes_on() -> None:
    assert run(KeepGoing(error=RedisConnectionError("gone")))["y"].tolist() == [[0], [0]]


def test_writing_another_dtype_than_declared_is_our_bug() -> None:
    with pytest.raises(StageError, match="wrote other tensors than it declares") as caught:
        run(DoubleIt(dtype=np.float32))
    assert caught.value.code is ErrorCode.CONTRACT


def test_a_branching_graph_is_refused() -> None:
    first = SCHEMA.column_names >> DoubleIt("y")
    graph = Graph((first >> DoubleIt("z")) + (first >> DoubleIt("w")))
    with pytest.raises(ValueError, match="the chain must be a line"):
        chain_of(graph)
