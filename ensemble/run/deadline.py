"""The deadlines of a running batch: who is late, who has gone, who has no time for all of the chain."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from copy import copy

import numpy as np

from contract.errors import ErrorCode, StageError
from contract.tensors import NO_DEADLINE
from ensemble.run.pace import Pace
from ensemble.run.requests import Rows
from ensemble.stage import Array

IsCancelled = Callable[[], bool]
ASKING_S = 12e-6
"""Seconds that Triton needs at least to say whether a request's caller still waits. It is another process:
where cores are short, its answer takes milliseconds."""
ASKING_SHARE = 0.01
"""Most of a batch's time that is spent on asking."""
LATE = "the deadline passed before this stage"
GONE = "the caller has gone"


class Watch:
    """Knows which rows of a batch still run. `rows` (B',) are their numbers in the batch, in the order of the
    table; `stopped` says of a request why its rows stopped, `counts` how many did, by stage and reason."""

    def __init__(
        self,
        deadlines_us: Array,
        owners: Array,
        is_cancelled: Sequence[IsCancelled],
        asking: Pace,
        now_s: Callable[[], float],
    ) -> None:
        """Takes each row's deadline (B,) in microseconds of unix time, and the request that it is of (B,);
        and what tells of each request whether its caller has gone, or nothing where no one knows; `asking` is
        what that took of late."""
        self.deadlines_us, self.owners = deadlines_us, owners
        self.is_cancelled, self.asking, self.now_s = is_cancelled, asking, now_s
        self.rows: Rows = np.arange(len(owners))
        self.stopped: dict[int, StageError] = {}
        self.counts: Counter[tuple[str, str]] = Counter()
        self._has_stopped = np.zeros(len(owners), dtype=np.bool_)
        self._earliest_us = int(deadlines_us.min())
        self._asked_s = now_s()

    def look(self, stage: str) -> Rows | None:
        """Looks before a stage; gives the positions in the table of the rows that go on, None for all."""
        kept: Rows | None = None
        now_s = self.now_s()
        if self.is_cancelled and self._may_ask(now_s) and (gone := self._gone()):
            kept = self.stop(self.owned_by(gone), _dependency(stage, GONE))
        if now_s * 1e6 >= self._earliest_us:
            still = self.stop(self.deadlines_us[self.rows] <= now_s * 1e6, _dependency(stage, LATE))
            kept = still if kept is None else kept[still]
        return kept

    def _may_ask(self, now_s: float) -> bool:
        rows = len(self.rows)
        costs_s = max(ASKING_S * rows, self.asking.of(rows))
        return (now_s - self._asked_s) * ASKING_SHARE >= costs_s

    def _gone(self) -> list[int]:
        started = time.perf_counter()
        running = np.unique(self.owners[self.rows]).tolist()
        gone = [request for request in running if self.is_cancelled[request]()]
        self.asking.note(len(self.rows), time.perf_counter() - started)
        self._asked_s = self.now_s()
        return gone

    def stop(self, is_over: Array, error: StageError) -> Rows:
        """Takes a mask over `rows` and the reason; gives the positions of those that go on."""
        self.stopped.update(dict.fromkeys(self.owners[self.rows[is_over]].tolist(), error))
        self.counts[error.stage, error.message] += int(is_over.sum())
        self._has_stopped[self.rows[is_over]] = True
        kept: Rows = np.flatnonzero(~is_over)
        self._keep(self.rows[kept])
        return kept

    def running(self) -> list[int]:
        """Lists the requests of which a row did not stop, wherever it is."""
        found: list[int] = np.unique(self.owners[~self._has_stopped]).tolist()
        return found

    def hurried(self, seconds: float) -> Array | None:
        """Marks the rows (B',) of requests that have less than so many seconds left; None where none has.

        A request is answered whole: half of its rows decide.
        """
        ends_us = (self.now_s() + seconds) * 1e6
        if ends_us <= self._earliest_us:
            return None
        owners = self.owners[self.rows]
        rows, short = np.bincount(owners), np.bincount(owners[self.deadlines_us[self.rows] < ends_us])
        short = np.pad(short, (0, len(rows) - len(short)))
        marked: Array = ((short > 0) & (2 * short >= rows))[owners]
        return marked if marked.any() else None

    def split(self, mask: Array) -> Watch:
        """Takes a mask over `rows`; gives a watch of those, and keeps the others. Both tell of all rows why
        they stopped."""
        ahead = copy(self)
        ahead._keep(self.rows[mask])
        self._keep(self.rows[~mask])
        return ahead

    def _keep(self, rows: Rows) -> None:
        self.rows = rows
        self._earliest_us = int(self.deadlines_us[rows].min(initial=NO_DEADLINE))

    def owned_by(self, requests: Sequence[int]) -> Array:
        """Marks, among `rows`, those of some requests."""
        mask: Array = np.isin(self.owners[self.rows], requests)
        return mask

    def left_s(self) -> float:
        """Seconds until the last of the deadlines; infinite where a row has none."""
        latest_us = int(self.deadlines_us[self.rows].max(initial=0))
        return math.inf if latest_us >= NO_DEADLINE else latest_us / 1e6 - self.now_s()


def _dependency(stage: str, why: str) -> StageError:
    return StageError(ErrorCode.DEPENDENCY, stage, why)
