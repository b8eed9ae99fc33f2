"""The deadlines of a running batch: a row whose deadline has passed leaves it before the next stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np

from contract.arrays import Array
from contract.errors import ErrorCode, StageError
from contract.tensors import NO_DEADLINE
from ensemble.run.batch import Places, take
from ensemble.stage import Tensors


class Deadlines:
    """Knows which rows of a batch still run. `rows` (B',) are their places in the batch, in the order of the
    table; `stopped` says of a request why its rows stopped, `late` how many were late, by stage."""

    def __init__(self, deadlines_us: Array, owners: Array, now_s: Callable[[], float]) -> None:
        """Takes each row's deadline (B,) in microseconds of unix time, and the request that it is of (B,)."""
        self.deadlines_us, self.owners, self.now_s = deadlines_us, owners, now_s
        self.stopped: dict[int, StageError] = {}
        self.late: Counter[str] = Counter()
        self._keep(np.arange(len(owners)))

    def before(self, stage: str, table: Tensors) -> Tensors:
        """Takes the late rows out of the table; an empty one where none is left."""
        now_us = self.now_s() * 1e6
        if now_us < self._earliest_us:
            return table
        is_late = self.deadlines_us[self.rows] <= now_us
        self.late[stage] += int(is_late.sum())
        self.stop(is_late, StageError(ErrorCode.DEPENDENCY, stage, "the deadline passed before this stage"))
        return take(table, np.flatnonzero(~is_late)) if len(self.rows) else {}

    def stop(self, is_over: Array, error: StageError) -> None:
        """Takes a mask over `rows`, and why they do not go on."""
        self.stopped.update(dict.fromkeys(self.owners[self.rows[is_over]].tolist(), error))
        self._keep(self.rows[~is_over])

    def running(self) -> list[int]:
        """Lists the requests of which a row still runs."""
        found: list[int] = np.unique(self.owners[self.rows]).tolist()
        return found

    def _keep(self, rows: Places) -> None:
        self.rows = rows
        self._earliest_us = int(self.deadlines_us[rows].min(initial=NO_DEADLINE))
