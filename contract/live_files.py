"""Where the files of what came live are kept, under the run-time folder, and how they are read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Read = TypeVar("Read")


def live_folder(var: Path, dataset: str) -> Path:
    """Where all that came live of a data set is kept."""
    return var / "live" / dataset


def read_files(listed: Callable[[], list[Path]], read: Callable[[Path], Read]) -> list[Read]:
    """Reads all files that are listed; anew where the consumer made one of several meanwhile."""
    while True:
        try:
            return [read(path) for path in listed()]
        except FileNotFoundError:
            continue
