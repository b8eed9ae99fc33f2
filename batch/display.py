"""Shows how far a run is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

LINE_S = 10.0
"""Seconds between two lines where there is no terminal."""


class UsersPerSecond(ProgressColumn):
    """Writes how many users are done per second."""

    def render(self, task: Task) -> Text:
        """Writes the speed of late."""
        return Text(f"{task.speed or 0:,.0f} users/s")


class ProgressDisplay:
    """Writes lines, and a bar with users per second and the time left."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(soft_wrap=True)
        columns = (TextColumn("users"), BarColumn(), MofNCompleteColumn(), UsersPerSecond())
        self._bar = Progress(
            *columns,
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task("users", visible=False)
        self._first: tuple[float, int] | None = None  # when, and how many were done
        self._said_s = 0.0

    def __enter__(self) -> ProgressDisplay:
        """Begins to show."""
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leaves the terminal as it was."""
        self._bar.stop()

    def say(self, line: str) -> None:
        """Writes a line."""
        self.console.print(line, markup=False, highlight=False)

    def progress(self, done: int, of: int) -> None:
        """Shows how many users are done, of how many."""
        self._bar.update(self._task, completed=done, total=of, visible=True)
        now_s = time.monotonic()
        if self._first is None:
            self._first, self._said_s = (now_s, done), now_s
        elif not self.console.is_terminal and now_s - self._said_s > LINE_S:
            self._said_s = now_s
            speed = (done - self._first[1]) / (now_s - self._first[0])
            left = f", {(of - done) / speed:,.0f} s left" if speed else ""
            self.say(f"{done:,} of {of:,} users, {speed:,.0f} users/s{left}")
