"""A chain whose clock moves one second with every stage: a test says at which stage a row is late."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ensemble.run.recommender import Recommender
from ensemble.stage import Stage


class SteppingClock:
    """Seconds of unix time: the number of stages that ran since `start`."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class SteppingStage:
    """A stage that moves the clock when it has run, and counts the rows that it was given."""

    def __init__(self, stage: Stage, clock: SteppingClock) -> None:
        self.stage, self.clock, self.name = stage, clock, stage.name
        self.rows: list[int] = []

    def add(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        self.rows.append(len(tensors["user_id"]))
        added: dict[str, Any] = self.stage.add(tensors)
        self.clock.now_s += 1
        return added


def make_it_step(recommender: Recommender) -> tuple[SteppingClock, list[SteppingStage]]:
    """Puts a stepping clock into a recommender; a deadline of s seconds has passed before the s-th stage."""
    clock = SteppingClock()
    stages = [SteppingStage(stage, clock) for stage in recommender.line.stages]
    recommender.now_s, recommender.line.stages = clock, stages  # type: ignore[assignment]
    return clock, stages
