"""Where the files of what came live are kept, under the run-time folder."""

from __future__ import annotations

from pathlib import Path


def live_folder(var: Path, dataset: str) -> Path:
    """Where all that came live of a data set is kept."""
    return var / "live" / dataset
