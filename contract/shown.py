"""The note of one answer that was sent: what was shown to whom, by which bundle, and with which chance.

A note is an entry of the stream `shown:{dataset}`, later a row of a Parquet file; events name its request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from contract.live_files import live_folder

HEAD, ITEMS, SCORES, CHANCES = b"head", b"items", b"scores", b"chances"
"""The fields of an entry: JSON, then the columns of its places, packed."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One answer. `item_ids`, `scores` and `chances` are (N,), one per place, the first of which is
    `first_place`, from 1; a chance is the probability that the place got its item, given those before it.
    `is_plain`: it was asked for the best items and for nothing else, so that who is asked again can compare.
    """

    request_id: str
    at_ms: int
    """When it was sent, Unix time in milliseconds."""
    bundle: str
    arm: str
    source: str
    user_id: int
    item_ids: tuple[int, ...]
    scores: tuple[float, ...]
    chances: tuple[float, ...]
    degraded: tuple[str, ...] = ()
    context: Mapping[str, int] | None = None
    first_place: int = 1
    is_plain: bool = True

    def entry(self) -> dict[bytes, bytes]:
        """Packs it as the fields of a stream's entry; ids are little-endian int64, the others float32."""
        head = {name: getattr(self, name) for name in _OF_HEAD}
        return {
            HEAD: json.dumps(head, separators=(",", ":")).encode(),
            ITEMS: np.array(self.item_ids, dtype="<i8").tobytes(),
            SCORES: np.array(self.scores, dtype="<f4").tobytes(),
            CHANCES: np.array(self.chances, dtype="<f4").tobytes(),
        }

    @classmethod
    def of(cls, entry: Mapping[bytes, bytes]) -> Shown:
        """Unpacks `entry`.

        Raises:
            ValueError: it is something else.
        """
        try:
            fields: dict[str, Any] = json.loads(entry[HEAD])
            packed = ((ITEMS, "<i8"), (SCORES, "<f4"), (CHANCES, "<f4"))
            columns = [tuple(np.frombuffer(entry[name], dtype).tolist()) for name, dtype in packed]
            if len({len(column) for column in columns}) > 1:
                raise ValueError("its places differ in number")
            fields |= dict(zip(_OF_PLACES, columns, strict=True))
            return cls(**fields | {"degraded": tuple(fields["degraded"])})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"no note of an answer: {error!r}") from None


_OF_PLACES = ("item_ids", "scores", "chances")
_OF_HEAD = tuple(name for name in Shown.__slots__ if name not in _OF_PLACES)


def shown_folder(var: Path, dataset: str) -> Path:
    """Where the archive of a data set's notes lies."""
    return live_folder(var, dataset) / "shown"
