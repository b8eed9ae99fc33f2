"""What a run computes, and where it keeps it: enough to go on where another process stopped."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from contract.archive import number_of_any
from contract.batch_files import SLATES_FOLDER
from contract.whole_file import whole_file

PLAN_FILE = "plan.json"
UNKNOWN = "unknown"
"""Skipped: users of whom nothing is known, for whom the popular slate is as good."""


@dataclass(frozen=True)
class RunPlan:
    """One run: of what it is made, and its folder with the users and the slates as Parquet, shard by shard.

    `fingerprint` changes when the selected users may have. A shard whose slates' file is there is done.
    """

    run: str
    dataset: str
    bundle: str
    selection: str
    fingerprint: str
    parent: str | None
    n: int
    k: int
    max_overfetch: int
    max_seen: int
    retrieval: str
    shard_users: int
    folder: Path = field(compare=False)
    rules: str = ""  # of the order, as JSON
    users: int = field(default=0, compare=False)
    skipped: dict[str, int] = field(default_factory=dict, compare=False)

    @classmethod
    def load(cls, folder: Path) -> RunPlan | None:
        """Reads the plan of a run's folder; None where there is none that this version reads."""
        try:
            return cls(**json.loads((folder / PLAN_FILE).read_text()), folder=folder)
        except (OSError, ValueError, TypeError):
            return None

    def save(self) -> None:
        """Writes it into its folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        facts: dict[str, Any] = asdict(self)
        del facts["folder"]
        write(self.folder / PLAN_FILE, json.dumps(facts, indent=1).encode())

    def continues(self, other: RunPlan) -> bool:
        """Whether going on with the other gives what this one asks for."""
        return asdict(self) | self._own() == asdict(other) | self._own()

    def _own(self) -> dict[str, Any]:
        return {"run": "", "folder": "", "users": 0, "skipped": {}}

    @property
    def users_folder(self) -> Path:
        """Where the shards of users are: all of them, or no folder."""
        return self.folder / "users"

    @property
    def slates_folder(self) -> Path:
        """Where the slates of finished shards are."""
        return self.folder / SLATES_FOLDER

    def shards(self) -> list[Path]:
        """Lists the shards of users."""
        return sorted(self.users_folder.glob("part-*.parquet"))

    def slates_of(self, shard: Path) -> Path:
        """Names the file of a shard's slates."""
        return self.slates_folder / shard.name

    def stored(self) -> tuple[int, int]:
        """Counts the users of finished shards: those who have a slate, and those of whom nothing is known."""
        shards = [shard for shard in self.shards() if self.slates_of(shard).is_file()]
        done = sum(pq.read_metadata(self.slates_of(shard)).num_rows for shard in shards)
        return done, sum(pq.read_metadata(shard).num_rows for shard in shards) - done

    def counted(self) -> tuple[int, dict[str, int]]:
        """Counts the users who have a slate by now, and those who were skipped, by reason."""
        done, unknown = self.stored()
        return done, self.skipped | ({UNKNOWN: unknown} if unknown else {})

    def some_user(self, slates: Path) -> int | None:
        """Gives the number of a user whose slate is in a file of slates; None where it has none."""
        ids = pq.read_table(slates, columns=["user_id"])["user_id"].drop_null()
        return number_of_any(ids[0].as_py()) if len(ids) else None


def write(path: Path, data: bytes) -> None:
    """Writes a file whole, or not at all."""
    with whole_file(path) as file:
        file.write(data)
