"""How a data set is divided to measure with, beside its own split, by name: one line each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from training.data.prepared import Prepared
from training.evaluation.protocols.leave_last_out import leave_last_out


@dataclass(frozen=True)
class Protocol:
    """Divides a data set anew; the note says what a reader of the tables must know."""

    divide: Callable[[Prepared], Prepared]
    note: str


TIME_SPLIT = "time-split"
"""The data set's own split, with which every bundle is measured when it is trained."""
PROTOCOLS = {
    "leave-last-out": Protocol(
        leave_last_out,
        "Leave-last-out: of every user the last new positive is the test, the one before it validation, and "
        "what came before that train. Each is asked on a clock of their own: what others did later may be "
        "known. The test holds positives alone, so that of the ranking of its rows there is nothing to tell.",
    ),
}
