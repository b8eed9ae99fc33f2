"""What every other design is built from, as its build is told."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

USERS_FILE = "users.json"
"""The users who may be asked for, in the target folder."""


def build_arguments(description: str | None) -> argparse.Namespace:
    """Reads bundle, saved_models, features, target, k and n; begins the target folder anew."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--bundle", type=Path, required=True, help="the bundle's folder")
    parser.add_argument("--saved-models", type=Path, required=True, help="those of the same training run")
    parser.add_argument("--features", type=Path, required=True, help="folder of our Feast project's sources")
    parser.add_argument("--target", type=Path, required=True, help="written anew")
    parser.add_argument("--k", type=int, default=100, help="candidates")
    parser.add_argument("--n", type=int, default=10, help="items answered")
    given = parser.parse_args()
    shutil.rmtree(given.target, ignore_errors=True)
    given.target.mkdir(parents=True)
    return given
