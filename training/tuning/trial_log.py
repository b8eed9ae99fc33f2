"""What the trials of a search reached, as they end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from training.record import TrainingRecord
from training.tuning.trial import TrialRunner, write_settings

VALUE = "value"
"""What validation said of a trial."""
Say = Callable[[str], None]


class TrialLog:
    """Says and records them, and writes the settings of the best."""

    def __init__(self, runner: TrialRunner, trials: int, record: TrainingRecord, say: Say) -> None:
        self.runner, self.trials, self.record, self.say = runner, trials, record, say
        self.best_file = runner.var / "tune" / runner.search / "best.yaml"
        self.rows: list[dict[str, Any]] = []
        self.failed: list[str] = []

    def add(self, drawn: dict[str, Any], value: float) -> None:
        """Adds a trial that has finished."""
        settings = self.runner.settings(drawn)
        row = {"trial": len(self.rows) + len(self.failed), VALUE: value, **settings[self.runner.model]}
        self.rows.append(row)
        best = self.best
        self.record.metric("trial", value, row["trial"])
        self.record.metric("best", best[VALUE], row["trial"])
        self.record.table("trials", self.rows)
        if best is row:
            write_settings(self.best_file, settings)
        chosen = ", ".join(
            f"{name} {settings[self.runner.model][name]}" for name in self.runner.space.settings
        )
        self.say(f"trial {row['trial'] + 1} of {self.trials}: {value:.5f}{' *' * (best is row)}  {chosen}")

    def add_failed(self, why: str) -> None:
        """Adds a trial that has failed."""
        self.failed.append(why)
        self.say(f"a trial failed: {why}")

    @property
    def best(self) -> dict[str, Any]:
        """The row of the best trial, the first of several."""
        sign = 1 if self.runner.space.is_more_better else -1
        return max(self.rows, key=lambda row: sign * row[VALUE])
