"""One place of several in which rows of a table of embeddings may lie, and how a row is named, packed and
checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from contract.arrays import Array, Bools, Floats, Ids

Stamps = npt.NDArray[np.int32]
_SIGN = np.uint64(1 << 63)
_MIX = np.uint64(0x9E3779B97F4A7C15)
_KEY = np.dtype([("id", ">u8"), ("stamp", ">i4")])
KEY_BYTES = _KEY.itemsize


@dataclass(frozen=True, eq=False)
class RowKeys:
    """Names rows: `ids` int64 (N,), and `stamps` int32 (N,), which update wrote the row; 0 is the training.

    What a key names never changes. So no level holds anything outdated, and no answer mixes two updates.
    """

    ids: Ids
    stamps: Stamps

    @classmethod
    def trained(cls, ids: Ids) -> RowKeys:
        """Names the rows that the training wrote."""
        return cls(ids, np.zeros(len(ids), dtype=np.int32))

    def __len__(self) -> int:
        """Counts the keys."""
        return len(self.ids)

    def some(self, which: Array | slice) -> RowKeys:
        """Keeps some, by position or by mask."""
        return RowKeys(self.ids[which], self.stamps[which])

    def packed(self) -> list[bytes]:
        """Gives each as `KEY_BYTES` bytes, which sort as the ids do."""
        keys = np.empty(len(self.ids), dtype=_KEY)
        keys["id"] = self.ids.astype(np.uint64) ^ _SIGN
        keys["stamp"] = self.stamps
        packed: list[bytes] = keys.view(f"V{KEY_BYTES}").tolist()
        return packed


@dataclass(frozen=True, eq=False)
class FoundRows:
    """What a level has of some keys: `rows` float32 (N,W), anything where it has none; `is_found` (N,);
    `is_damaged` (N,): there is one, and it is not what was written."""

    rows: Floats
    is_found: Bools
    is_damaged: Bools


@runtime_checkable
class Level(Protocol):
    """Holds rows by their keys."""

    @property
    def name(self) -> str:
        """What metrics and logs call it."""
        ...

    def read(self, keys: RowKeys) -> FoundRows:
        """Looks up keys, in any order, one more than once as well.

        Raises:
            OSError, RedisError, EmbeddingError: it is away.
        """
        ...

    def write(self, keys: RowKeys, rows: Floats) -> None:
        """Takes rows (N,W) in; a bounded level may let go of others for them, or leave them out.

        Raises:
            OSError, RedisError, EmbeddingError: it is away, or has no room.
        """
        ...


class EmbeddingError(OSError):
    """Says in one line what is wrong with the rows on the disk, or with an update of them, and what to do."""


def mixed(ids: Ids) -> npt.NDArray[np.uint64]:
    """Spreads ids over 64 bits, the upper ones best.

    Source: Knuth, The Art of Computer Programming 3, section 6.4: multiplicative hashing by the golden ratio.
    """
    spread = ids.astype(np.uint64) * _MIX
    spread ^= spread >> np.uint64(32)
    return spread * _MIX


def pack_rows(keys: RowKeys, rows: Floats) -> list[bytes]:
    """Gives each row as bytes: W floats, little-endian, and a checksum of them and of their key."""
    width = rows.shape[1]
    words = np.empty((len(rows), width + 1), dtype="<u4")
    words[:, :width] = np.ascontiguousarray(rows, dtype="<f4").view("<u4")
    words[:, width] = _checksums(keys, words[:, :width])
    packed: list[bytes] = words.view(f"V{4 * (width + 1)}")[:, 0].tolist()
    return packed


def unpack_rows(keys: RowKeys, packed: Sequence[bytes | None], width: int) -> FoundRows:
    """Takes what `pack_rows` gave for keys, None where there is nothing, and looks whether it is whole."""
    size = 4 * (width + 1)
    blank = bytes(size)
    whole = [value if value is not None and len(value) == size else blank for value in packed]
    words = np.frombuffer(b"".join(whole), dtype="<u4").reshape(len(packed), width + 1)
    is_there = np.fromiter((value is not None for value in packed), np.bool_, len(packed))
    is_long_enough = np.fromiter((len(value or blank) == size for value in packed), np.bool_, len(packed))
    is_whole = (words[:, width] == _checksums(keys, words[:, :width])) & is_long_enough
    rows = words[:, :width].view("<f4").astype(np.float32, copy=False)
    return FoundRows(rows, is_there & is_whole, is_there & ~is_whole)


def _checksums(keys: RowKeys, words: Array) -> npt.NDArray[np.uint32]:
    """Sums the words of each row, each times an odd number of its place, and the key: a change of one word,
    two that changed places, and a row that stands at another's key are all noticed."""
    places = np.arange(words.shape[1], dtype=np.uint64) * _MIX
    factors = (places >> np.uint64(32)).astype(np.uint32) | np.uint32(1)
    key = mixed(keys.ids) ^ keys.stamps.astype(np.uint64)
    sums = (words * factors).sum(axis=1, dtype=np.uint32) + (key >> np.uint64(32)).astype(np.uint32)
    checksums: npt.NDArray[np.uint32] = sums + key.astype(np.uint32) + np.uint32(1)
    return checksums
