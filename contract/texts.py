"""The way back from numbers to ids that are text: arrays in files, of a bundle's items or a data set's
users."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from contract.arrays import Ids

CACHED_TEXTS = 65_536
"""Texts that are at hand, those asked for last."""
ITEMS, USERS = "item", "user"


def text_files(kind: str) -> tuple[str, str, str]:
    """Names the files of `ITEMS` or `USERS`: numbers, ascending, texts in UTF-8 one after the other, ends."""
    return f"{kind}_ids.npy", f"{kind}_texts.npy", f"{kind}_text_ends.npy"


class Texts:
    """Finds the text of a number in arrays that are mapped from files, so that processes share them."""

    def __init__(self, numbers: Ids, texts: npt.NDArray[np.uint8], ends: Ids) -> None:
        """Takes numbers (I,), ascending, their texts one after the other, and where each ends (I,)."""
        # As plain arrays of the same memory: each slice of numpy's memmap costs a Python call.
        self._numbers, self._texts, self._ends = (np.asarray(array) for array in (numbers, texts, ends))
        self.of = lru_cache(CACHED_TEXTS)(self._find)

    @classmethod
    def open(cls, folder: Path, kind: str) -> Texts:
        """Maps the files of a kind.

        Raises:
            OSError, ValueError: one is missing, or no array.
        """
        return cls(*(np.load(folder / file, mmap_mode="r", allow_pickle=False) for file in text_files(kind)))

    @staticmethod
    def write(folder: Path, kind: str, numbers: Ids, texts: Sequence[str]) -> None:
        """Writes numbers (I,), ascending, and their texts."""
        encoded = [text.encode() for text in texts]
        arrays: tuple[npt.NDArray[np.generic], ...] = (
            numbers,
            np.frombuffer(b"".join(encoded), dtype=np.uint8),
            np.cumsum([len(text) for text in encoded], dtype=np.int64),
        )
        for file, array in zip(text_files(kind), arrays, strict=True):
            np.save(folder / file, array)

    def _find(self, number: int) -> str | None:
        """Gives the text; None where the number is of nobody."""
        at = int(self._numbers.searchsorted(number))
        if at == len(self._numbers) or self._numbers[at] != number:
            return None
        start = int(self._ends[at - 1]) if at else 0
        return self._texts[start : int(self._ends[at])].tobytes().decode()
