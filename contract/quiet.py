"""Keeps the warnings of libraries out of what a command says: what they lack in an environment is meant to be
away, and what they will change is no caller's concern."""

from __future__ import annotations

import warnings

LIBRARIES = ("merlin", "nvtabular", "treelite", "dask", "feast", "tensorflow", "keras")


def quieten() -> None:
    """Ignores them from now on: to be called before the first of them is imported."""
    for library in LIBRARIES:
        warnings.filterwarnings("ignore", module=rf"{library}\b.*")
