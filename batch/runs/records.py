"""What is remembered of each batch run: its plan, how far it is, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from pydantic import TypeAdapter, ValidationError


class RunState(StrEnum):
    """How far a run is."""

    RUNNING = "running"  # or interrupted, where nobody holds the lock
    PUBLISHED = "published"  # it was, at its end; the pointer says what is read now
    FAILED = "failed"  # it ended with an error; it is resumed where it stopped
    ABANDONED = "abandoned"  # it will not be resumed; its slates are gone


class Trigger(StrEnum):
    """Why a run was begun."""

    HAND = "hand"
    SCHEDULE = "schedule"
    BUNDLE = "bundle"  # another bundle was promoted
    CHANGES = "changes"  # enough users changed


@dataclass(frozen=True)
class RunRecord:
    """One run. `parent` is the run whose slates it renews in part; `users` are to be computed, `done` are
    stored, `skipped` counts the others by reason. Times are Unix time, durations seconds."""

    run: str
    dataset: str
    bundle: str
    trigger: Trigger
    selection: str
    started_at_s: float
    state: RunState = RunState.RUNNING
    parent: str | None = None
    ended_at_s: float | None = None
    users: int = 0
    done: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)
    n: int = 0
    k: int = 0
    error: str = ""
    start_up_s: float = 0.0
    compute_s: float = 0.0
    stage_s: Mapping[str, float] = field(default_factory=dict)
    bytes_per_user: float = 0.0
    peak_mib: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_unfinished(self) -> bool:
        """Whether it may be resumed."""
        return self.state in (RunState.RUNNING, RunState.FAILED)

    @property
    def users_per_s(self) -> float:
        """Users computed per second, start-up apart; 0 before any was."""
        return self.done / self.compute_s if self.compute_s else 0.0

    def encode(self) -> bytes:
        """Packs it as JSON."""
        return _RECORD.dump_json(self)

    @classmethod
    def decode(cls, value: bytes) -> RunRecord:
        """Unpacks `encode`; a field that another version added is left out.

        Raises:
            ValueError: it is something else.
        """
        try:
            return _RECORD.validate_json(value)
        except ValidationError as error:
            raise ValueError(f"no record of a batch run: {error.errors()[0]['msg']}") from None


_RECORD = TypeAdapter(RunRecord)
