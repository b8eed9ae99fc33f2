"""Where the files of batch runs are kept, for whoever writes them and for whoever takes users out of them."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

SLATES_FOLDER = "slates"
"""Within the folder of a run: its slates, as `part-*.parquet`."""
MADE_AT = "made_at_ms"
"""A column of those: when each was made, Unix time in milliseconds."""


class BatchFiles(BaseSettings):
    """The setting that says where runs are kept, read by every role."""

    model_config = SettingsConfigDict(
        env_prefix="SHORTLIST_BATCH_", frozen=True, extra="ignore", env_ignore_empty=True
    )

    dir: Path | None = Field(
        None,
        description="Folder of runs, shared by all machines of a cluster. Default: batch under "
        "SHORTLIST_VAR_DIR.",
    )

    def runs(self, var: Path, dataset: str) -> Path:
        """Gives the folder that holds a folder for each run of a data set."""
        return (self.dir or var / "batch") / dataset


def slate_files(var: Path, dataset: str) -> list[Path]:
    """Lists the files of slates of all runs of a data set, wherever runs are kept."""
    return sorted(BatchFiles().runs(var, dataset).glob(f"*/{SLATES_FOLDER}/part-*.parquet"))
