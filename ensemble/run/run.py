"""One batch on its way through the chain: late rows leave it, hurried ones go ahead without the ranker."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from contract.errors import ErrorCode, StageError
from contract.tensors import StageName, bundle_id
from ensemble.run.deadline import Watch
from ensemble.run.line import run_line
from ensemble.run.pace import Pace
from ensemble.run.requests import Answer, Batch, take
from ensemble.stage import Array, Stage, Tensors, us_name
from ensemble.stages.score import IS_RANKED
from ensemble.stores.client import ending_by

Answers = dict[int, Answer | StageError]
AtOnce = Callable[[int, Answer], None]
"""Takes a request's place in the batch and its answer, before the others have theirs."""
ADDED_AT_THE_END = ("stage_us", "bundle_id")
"""The tensors of an answer that no stage writes."""


class Line:
    """The stages in order, whose bundle they serve, and how long the scoring takes of late."""

    def __init__(self, stages: Sequence[Stage], finish_s: float, bundle: str) -> None:
        """Takes the seconds of each deadline that are kept for ordering and answering, and the bundle's
        name."""
        self.stages, self.finish_s, self.bundle_id = list(stages), finish_s, bundle_id(bundle)
        self.names = tuple(stage.name for stage in stages)
        self.scoring = self.names.index(StageName.SCORE_CANDIDATES)
        self.pace = Pace()

    def finished(self, table: Tensors) -> Tensors:
        """Adds `stage_us` (B,T) and `bundle_id` (B,1) to a last table, and learns how long the scoring
        took."""
        table["bundle_id"] = np.full((len(table["user_id"]), 1), self.bundle_id, dtype=np.int64)
        table["stage_us"] = np.concatenate([table[us_name(name)] for name in self.names], axis=1)
        if ranked := int(np.count_nonzero(table[IS_RANKED])):
            self.pace.note(ranked, int(table["stage_us"][0, self.scoring]) / 1e6)
        return table


class Run:
    """Runs the requests of a batch. `answers` are theirs, by place; `tables` the last ones of what ran
    together, `stage_us` the microseconds by stage."""

    def __init__(self, line: Line, batch: Batch, watch: Watch, at_once: AtOnce | None = None) -> None:
        self.line, self.batch, self.watch, self.at_once = line, batch, watch, at_once
        self.answers: Answers = {}
        self.tables: list[Tensors] = []
        self.stage_us: Counter[str] = Counter()

    def start(self) -> list[int]:
        """Runs the chain; gives the requests that are to be tried alone, because one of them may have failed
        the others. A dependency fails all of them."""
        if not len(self.watch.rows):
            return []
        everyone = len(self.watch.rows) == len(self.batch.owners)
        table = self.batch.tensors if everyone else take(self.batch.tensors, self.watch.rows)
        try:
            with ending_by(time.monotonic() + self.watch.left_s() - self.line.finish_s):
                self._go(0, table, self.watch)
        except StageError as error:
            failed = [r for r in self.watch.running() if r not in self.answers]
            if len(failed) > 1 and error.code is not ErrorCode.DEPENDENCY:
                return failed
            self.answers |= dict.fromkeys(failed, error)
        return []

    def _go(self, start: int, table: Mapping[str, Array], watch: Watch, ahead: bool = False) -> None:
        def going_on(place: int, table: Tensors) -> Tensors | None:
            kept = watch.look(self.line.names[start + place])
            if kept is not None:
                if not len(kept):
                    return None
                table = take(table, kept)
            return self._hurry(table, watch) if start + place == self.line.scoring else table

        last = run_line(self.line.stages[start:], table, going_on)
        if last:
            self.tables.append(self.line.finished(last))
            durations_us = last["stage_us"][0, start:].tolist()
            self.stage_us.update(dict(zip(self.line.names[start:], durations_us, strict=True)))
            answers = self.batch.cut(last, watch.rows)
            self.answers |= answers
            if ahead and self.at_once is not None:
                for request, answer in answers.items():
                    self.at_once(request, answer)

    def _hurry(self, table: Tensors, watch: Watch) -> Tensors:
        """Lowers the quality of those to 0 whom the ranker would make late. Where there is time for it for
        others, they go ahead, so that they do not wait for its run."""
        ranked = int(np.count_nonzero(table["quality"] > 0))
        hurried = watch.hurried(self.line.pace.of(ranked) + self.line.finish_s) if ranked else None
        if hurried is None:
            return table
        if hurried.all():
            return {**table, "quality": np.zeros_like(table["quality"])}
        self._go(self.line.scoring, take(table, hurried), watch.split(hurried), ahead=True)
        return take(table, ~hurried)
