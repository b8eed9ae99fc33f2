"""Where the bundles of a run-time folder lie, and the links among them."""

from __future__ import annotations

from pathlib import Path

CURRENT = "current"
"""The link to the bundle that is served."""
LATEST = "latest"
"""The link to the bundle that the last training made, or found unchanged."""


def bundles_folder(var: Path) -> Path:
    """Gives the folder that holds a folder for each bundle, and the links."""
    return var / "bundles"
