"""A chain whose clock moves one second with every stage: a test says at which stage a row is late."""

from __future__ import annotations

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

    def transform(self, selector: Any, table: dict[str, Any]) -> dict[str, Any]:
        self.rows.append(len(table["user_id"]))
        table = self.stage.transform(selector, table)
        self.clock.now_s += 1
        return table


def make_it_step(recommender: Recommender) -> tuple[SteppingClock, list[SteppingStage]]:
    """Puts a stepping clock into a recommender; a deadline of s seconds has passed before the s-th stage."""
    recommender.now_s = clock = SteppingClock()
    stages = [SteppingStage(node.op, clock) for node in recommender.chain]
    for node, stage in zip(recommender.chain, stages, strict=True):
        node.op = stage
    return clock, stages
