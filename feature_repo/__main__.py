"""`python -m feature_repo materialize`: brings into Redis, with Feast, what `python -m training features`
computed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from contract.dataset import DatasetError
from contract.environment import explain_full_disk, is_full_disk, read_settings
from feature_repo.computed import find
from feature_repo.connection import ConnectionSettings
from feature_repo.materialize import materialize


class RepositorySettings(ConnectionSettings):
    """Which features are brought where."""

    data: str = Field("default", description="The data set, as it was given when features were computed.")
    var_dir: Path = Field(Path("var"), description="Where prepared data and Feast's registry are kept.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; 0, or 1 with one line that says what is wrong."""
    settings = read_settings(RepositorySettings)
    parser = argparse.ArgumentParser(prog="python -m feature_repo", description=__doc__)
    command = parser.add_subparsers(required=True).add_parser("materialize", help="write what changed")
    command.add_argument(
        "--data", default=settings.data, help=f"a name or a folder (default: {settings.data})"
    )
    chosen = parser.parse_args(arguments)
    try:
        folder = find(settings.var_dir, chosen.data)
        materialize(folder, settings.redis_url)
    except DatasetError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except OSError as error:
        if not is_full_disk(error):
            raise
        sys.stderr.write(f"{explain_full_disk(error, settings.var_dir)}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
