"""Writes what came through a stream to Parquet files by hour, each whole or not at all."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from contract.event_archive import hour_of
from contract.whole_file import drop_abandoned, whole_file
from live.streams import Entry

MERGED = "whole.parquet"
MERGE_AFTER_S = 600.0
"""Seconds after an hour's end: then nothing of it is still to come, unless a consumer was away."""
_COMPRESSION = "zstd"


class Archive:
    """The files of some streams, in folders by the hour in which entries were added.

    A file's name says its stream, its first entry and its last: one that is written again takes the same
    place, and a writer that lost its stream meanwhile takes no place of whoever wrote more.
    """

    def __init__(
        self,
        folder: Path,
        table: Callable[[Sequence[Entry]], pa.Table],
        once: Callable[[pa.Table], pa.Table] = lambda table: table,
    ) -> None:
        """Takes where it lies, what makes rows of entries, and what leaves out rows that come twice."""
        self.folder, self._table, self._once = folder, table, once

    def write(self, entries: Sequence[Entry]) -> None:
        """Writes entries of one stream, in their order; they are on the disk when it returns."""
        for path, mine in self._files(entries):
            _write(path, self._table(mine))

    def settle(self, entries: Sequence[Entry]) -> None:
        """Deletes what was left by a writer that died before it told that it had written, once all of these
        entries are told of: files that begin with one of theirs and end elsewhere."""
        for path, mine in self._files(entries):
            for other in path.parent.glob(f"{_name(mine[0])}-*.parquet"):
                if other != path:
                    other.unlink(missing_ok=True)

    def _files(self, entries: Sequence[Entry]) -> Iterator[tuple[Path, list[Entry]]]:
        """Gives the files in which entries of one stream stand, and those of each."""
        for hour, some in itertools.groupby(entries, lambda entry: hour_of(entry.added_ms)):
            mine = list(some)
            yield self.folder / hour / f"{_name(mine[0])}-{mine[-1].entry_id}.parquet", mine

    def merge(self, now_s: float) -> None:
        """Makes one file of those of an hour that is over; the oldest such hour that has several. What was
        left of files whose writer was killed goes."""
        drop_abandoned(self.folder)
        newest = hour_of(int((now_s - 3600 - MERGE_AFTER_S) * 1000))
        for hour in sorted(self.folder.iterdir()) if self.folder.is_dir() else ():
            files = sorted(hour.glob("*.parquet"))
            if hour.name > newest or len(files) < 2:
                continue
            tables = [pq.read_table(path, partitioning=None) for path in files]
            whole = self._once(pa.concat_tables(tables, promote_options="default"))
            _write(hour / MERGED, whole)
            for path in files:
                if path.name != MERGED:
                    path.unlink(missing_ok=True)
            return


def _name(entry: Entry) -> str:
    return f"{entry.stream.rpartition(':')[2]}-{entry.entry_id}"


def _write(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, is_durable=True) as file:
        pq.write_table(table, file, compression=_COMPRESSION)
