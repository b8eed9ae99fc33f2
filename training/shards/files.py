"""The files of shards as a reader has them: in place, or fetched when they are needed and then let go."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path

import numpy as np
from streaming.base.format.mds import MDSReader
from streaming.base.hashing import get_hash
from streaming.base.spanner import Spanner

from contract.arrays import Array, Ints
from training.shards.layout import HASH, ROWS, ShardError
from training.shards.place import Place

INDEX_FILE = "index.json"


class BlockFiles:
    """Gives blocks of rows by their number. Each file is checked when it is opened."""

    def __init__(self, place: Place, scratch: Path, kept: int) -> None:
        """Takes where the shards lie, a folder for what is fetched, and how many files of it are kept.

        Raises:
            ShardError: the index is not there, or is damaged.
        """
        self._place, self._kept = place, kept
        self._folder = (place.folder or scratch) / ROWS
        self._is_far = place.folder is None
        self._folder.mkdir(exist_ok=True)
        index = self._folder / INDEX_FILE
        if self._is_far:
            place.fetch(f"{ROWS}/{INDEX_FILE}", index)
        try:
            told = json.loads(index.read_text())["shards"]
            self._shards = [MDSReader.from_json(str(self._folder), None, shard) for shard in told]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ShardError(
                f"{place.address}: {ROWS}/{INDEX_FILE} is damaged ({error}); write it anew"
            ) from None
        self.sizes: Ints = np.array([shard.samples for shard in self._shards], dtype=np.int64)
        self._spanner = Spanner(self.sizes)
        self._ready: OrderedDict[int, MDSReader] = OrderedDict()

    def __len__(self) -> int:
        return int(self.sizes.sum())

    def block(self, number: int) -> dict[str, Array]:
        """Gives the columns of a block, as narrow as they are stored.

        Raises:
            ShardError: its file is damaged, not there, or not reached.
        """
        shard, at = self._spanner[number]
        reader = self._ready.get(shard) or self._open(shard)
        self._ready[shard] = reader
        self._ready.move_to_end(shard)
        columns: dict[str, Array] = reader.get_item(at)
        return columns

    def _open(self, shard: int) -> MDSReader:
        reader = self._shards[shard]
        name = reader.raw_data.basename
        file = self._folder / name
        if self._is_far:
            self._place.fetch(f"{ROWS}/{name}", file)
            while len(self._ready) >= self._kept:
                self._ready.popitem(last=False)[1].evict()
        try:
            is_whole = get_hash(HASH, file.read_bytes()) == reader.raw_data.hashes[HASH]
        except FileNotFoundError:
            raise ShardError(
                f"{self._place.address}: there is no {ROWS}/{name}; write the shards anew"
            ) from None
        if not is_whole:
            raise ShardError(
                f"{self._place.address}: {ROWS}/{name} is damaged, its checksum is another; write the shards "
                "anew"
            )
        return reader
