"""Writes shards from what comes through standard input: `make shards`, in the role torch."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

from streaming.base.format import MDSWriter

from contract.arrays import Array
from training.config import load_settings
from training.shards.layout import ENCODERS_FILE, HASH, HEADER_FILE, ROWS, ArrayFile, ShardError, ShardsHeader
from training.shards.place import Place, Staging, written_whole
from training.shards.wire import BLOCK, CATALOGUE, ENCODERS, END, FACTS, Message, WireError, receive

SHARD_BYTES = 1 << 25
"""Of one file. Larger: fewer requests to an address; smaller: less that is held of it on a reader's disk."""


class Packer:
    """Writes the messages of `cut.send_examples` as the files of shards."""

    def __init__(self, staging: Staging) -> None:
        self._staging, self._folder = staging, staging.folder
        self._arrays: dict[str, dict[str, ArrayFile]] = {CATALOGUE: {}, FACTS: {}}
        self._blocks: MDSWriter | None = None
        self._shards = 0
        self._span_days = 0.0

    def take(self, message: Message) -> None:
        """Writes one message."""
        if message.kind == BLOCK:
            self._write_block(message.arrays)
        elif message.kind == ENCODERS:
            (self._folder / ENCODERS_FILE).write_bytes(message.arrays[ENCODERS].tobytes())
        elif message.kind == END:
            self._finish(message.facts)
        else:
            self._append(message.kind, message.arrays)
            self._span_days = max(self._span_days, message.facts.get("span_days", 0.0))

    def _append(self, group: str, arrays: Mapping[str, Array]) -> None:
        files = self._arrays[group]
        for at, (name, array) in enumerate(arrays.items()):
            rows = files[name].shape[0] if name in files else 0
            file, shape = f"{group}-{at}.bin", (rows + len(array), *array.shape[1:])
            with (self._folder / file).open("ab") as out:
                out.write(array.tobytes())
            files[name] = ArrayFile(file=file, name=name, dtype=array.dtype.str, shape=shape)

    def _write_block(self, arrays: Mapping[str, Array]) -> None:
        if self._blocks is None:
            columns = {name: f"ndarray:{array.dtype.name}" for name, array in arrays.items()}
            out = str(self._folder / ROWS)
            self._blocks = MDSWriter(columns=columns, out=out, hashes=[HASH], size_limit=SHARD_BYTES)
        self._blocks.write(dict(arrays))
        self._hand_over()

    def _hand_over(self) -> None:
        assert self._blocks is not None
        for shard in self._blocks.shards[self._shards :]:
            self._staging.done(f"{ROWS}/{shard['raw_data']['basename']}")
        self._shards = len(self._blocks.shards)

    def _finish(self, facts: Mapping[str, Any]) -> None:
        assert self._blocks is not None
        self._blocks.finish()
        self._hand_over()
        groups = {group: tuple(files.values()) for group, files in self._arrays.items()}
        header = ShardsHeader(span_days=self._span_days, **groups, **facts)
        (self._folder / HEADER_FILE).write_text(header.model_dump_json(indent=1))


def pack(messages: Iterable[Message], address: str) -> int:
    """Writes the shards that messages hold, whole or not at all; gives their rows.

    Raises:
        ShardError: they cannot be written there.
        WireError: the pipe ended before they were whole.
    """
    rows = 0
    with written_whole(Place(address)) as staging:
        packer = Packer(staging)
        for message in messages:
            packer.take(message)
            rows = message.facts.get("rows", 0)
    return rows


def main() -> int:
    """Writes once; 0, or 1 with one line that says what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--to", help="a folder, or an address that fsspec reaches (default: below var/shards)"
    )
    address, messages = parser.parse_args().to, receive(sys.stdin.buffer)
    try:
        if not address:
            first = next(messages)
            address = str(load_settings().var_dir / "shards" / first.facts["dataset"])
            messages = chain([first], messages)
        started = time.perf_counter()
        rows = pack(messages, address)
    except (ShardError, WireError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    seconds = time.perf_counter() - started
    sys.stderr.write(f"{address}: {rows:,} examples in {seconds:.0f} s\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
