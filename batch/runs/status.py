"""What a person asks of the batch runs: which is read, which was before it, and what became of the last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from redis import Redis
from rich.table import Table

from batch.runs.changes import ChangedUsers
from batch.runs.lock import holder
from batch.runs.records import RunRecord, RunState
from batch.runs.registry import RunRegistry
from contract.slates import Published

INTERRUPTED = "interrupted"
READ, RENEWED, FORMER = "is read", "is read where not renewed", "can be rolled back to"


@dataclass(frozen=True)
class RunLine:
    """One run: `state` is its record's, or interrupted; `standing` says what it is to readers."""

    record: RunRecord
    state: str
    standing: str
    took_s: float

    def as_json(self) -> dict[str, Any]:
        """Gives its record and what was found out about it."""
        found = {"state": self.state, "standing": self.standing, "took_s": round(self.took_s, 3)}
        return asdict(self.record) | found | {"users_per_s": round(self.record.users_per_s, 1)}


@dataclass(frozen=True)
class Status:
    """The last runs of a data set, newest first, what is published, who is at work, and how many users are
    noted as changed."""

    dataset: str
    published: Published
    at_work: str | None
    changed_users: int
    lines: Sequence[RunLine]

    @classmethod
    def read(cls, redis: Redis, dataset: str, count: int) -> Status:
        """Asks Redis.

        Raises:
            BatchError: the pointer to the published run is something else.
        """
        registry = RunRegistry(redis, dataset)
        published, at_work, now_s = registry.published(), holder(redis, dataset), registry.now_s()
        lines: list[RunLine] = []
        is_somebody_at_work = at_work is not None
        for record in registry.last(count):
            state = str(record.state)
            if record.state is RunState.RUNNING and is_somebody_at_work:
                is_somebody_at_work = False  # one run holds the lock: the newest of those that go on
            elif record.state is RunState.RUNNING:
                state = INTERRUPTED
            ends_s = record.ended_at_s or (now_s if state == RunState.RUNNING else record.started_at_s)
            lines.append(
                RunLine(record, state, _standing(record.run, published), ends_s - record.started_at_s)
            )
        return cls(dataset, published, at_work, ChangedUsers(redis, dataset).count(), lines)

    def as_json(self) -> dict[str, Any]:
        """Gives everything, for programs."""
        return asdict(self) | {"lines": [line.as_json() for line in self.lines]}

    def table(self) -> Table:
        """Draws everything, for people."""
        about = f"{self.changed_users:,} users changed since they were computed"
        about += f"; at work: {self.at_work}" if self.at_work else "; no run is at work"
        table = Table(title=f"Batch runs of {self.dataset}", caption=about, title_justify="left")
        for name in ("run", "state", "for readers", "why", "users", "skipped", "took", "users/s", "bundle"):
            is_number = name in ("users", "skipped", "took", "users/s")
            table.add_column(name, justify="right" if is_number else "left", overflow="fold")
        for line in self.lines:
            table.add_row(*line_cells(line))
        return table


def line_cells(line: RunLine) -> tuple[str, ...]:
    """Writes a run as the cells of its row."""
    record = line.record
    skipped = ", ".join(f"{count:,} {reason}" for reason, count in record.skipped.items()) or "0"
    done = f"{record.done:,}" if record.done == record.users else f"{record.done:,} of {record.users:,}"
    state = f"{line.state}: {record.error}" if record.error else line.state
    took = "" if line.state == INTERRUPTED else _duration(line.took_s)
    speed = f"{record.users_per_s:,.0f}" if record.users_per_s else ""
    why = f"{record.trigger}: {record.selection}"
    return (record.run, state, line.standing, why, done, skipped, took, speed, record.bundle)


def _standing(run: str, published: Published) -> str:
    if run in published.lineage:
        return READ if run == published.lineage[0] else RENEWED
    return FORMER if run in published.former else ""


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s"
