"""What training computes of users and items and the feature repository brings into Redis: the files of
`data/{dataset}/features`.

Every view's file holds the entity's id, `event_timestamp` and the view's columns: one row per entity and
instant from which it holds, in the order of both.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from contract.activity import Position

FOLDER = "features"
FEATURE_SET_FILE = "feature_set.json"
SEEN_FILE = "seen.parquet"
"""One row per user who has seen something: `user_id` and `SEEN_ITEM_IDS`, newest first, each once."""
SEEN_ITEM_IDS = "seen_item_ids"
STATE = "activity_state"
"""The column of an `ActivityState`."""


def view_file(view: str) -> str:
    """Names the file of a view."""
    return f"{view}.parquet"


def state_file(view: str) -> str:
    """Names the file of what a view of activity is folded from: the last state of each id, ascending."""
    return f"{view}_state.parquet"


class FeatureSet(BaseModel):
    """What was computed, for which `DATA`, and as of when."""

    model_config = ConfigDict(frozen=True)

    dataset: str
    data: str
    """The setting `DATA` as it was given: a name, a folder, or `default`."""
    as_of: datetime
    first_event: datetime
    """The instant from which features are known, in whole seconds."""
    rates: dict[str, float | None]
    """The overall rate of each label, towards which activity is smoothed; None where nothing is known."""
    horizon: dict[int, Position] = {}
    """Of each stream of events the last position that was computed."""
    made_at: datetime

    def write(self, folder: Path) -> None:
        """Writes itself into a folder of features."""
        (folder / FEATURE_SET_FILE).write_text(self.model_dump_json(indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> FeatureSet:
        """Reads what `write` wrote.

        Raises:
            OSError: there is none.
            ValueError: it is damaged.
        """
        return cls.model_validate_json((folder / FEATURE_SET_FILE).read_text())
