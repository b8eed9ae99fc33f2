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

    def __init__(self, place: Place, scratch: Path, most_files: int) -> None:
        """Takes where the shards lie, a folder for what is fetched, and how many files of it are kept.

        Raises:
            ShardError: the index is not there, or is damaged.
        """
        self._place, self._scratch, self._most_files = place, scratch, most_files
        (scratch / ROWS).mkdir()
        index = place.at_hand(f"{ROWS}/{INDEX_FILE}", scratch)
        try:
            shards = json.loads(index.read_text())["shards"]
            self._shards = [MDSReader.from_json(str(index.parent), None, shard) for shard in shards]
        except (ValueError, KeyError, TypeError) as error:
            raise ShardError(
                f"{place.address}: {ROWS}/{INDEX_FILE} is damaged ({error}); write the shards anew"
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
        reader, place = self._shards[shard], self._place
        name = f"{ROWS}/{reader.raw_data.basename}"
        file = place.at_hand(name, self._scratch)
        while place.folder is None and len(self._ready) >= self._most_files:
            self._ready.popitem(last=False)[1].evict()
        if get_hash(HASH, file.read_bytes()) != reader.raw_data.hashes[HASH]:
            raise ShardError(
                f"{place.address}: {name} is damaged, its checksum is another; write the shards anew"
            )
        return reader
