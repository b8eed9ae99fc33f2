"""Says what training does while it does it: one line per step, with its seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

Say = Callable[[str], None]


class TrainingProgress:
    """Shows the running step with a clock on a terminal, and a line per finished step everywhere."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self.seconds: dict[str, float] = {}

    def say(self, line: str) -> None:
        """Writes one line."""
        self.console.print(f"  {line}", markup=False, soft_wrap=True)

    @contextmanager
    def step(self, name: str, seconds: str = "") -> Iterator[Say]:
        """Runs one named step; what it yields writes a line of detail. `seconds`: how long it may take."""
        started = time.perf_counter()
        hint = f" ({seconds})" if seconds else ""
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        if not self.console.is_terminal:
            self.console.print(f"{name}{hint} ...", markup=False, soft_wrap=True)
        with Progress(
            *columns, console=self.console, transient=True, disable=not self.console.is_terminal
        ) as bar:
            bar.add_task(f"{name}{hint}", total=None)
            yield self.say
        self.seconds[name] = time.perf_counter() - started
        self.console.print(f"{name}: {self.seconds[name]:.1f} s", markup=False, soft_wrap=True)
