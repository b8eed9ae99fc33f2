"""`python -m bench.embeddings.lookups`: what a lookup of one user's row, and of 100 items', takes in levels,
in a process whose memory is limited, against all rows in memory."""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.embeddings.engines import forget, memory
from bench.embeddings.zipf import Zipf, ids_of
from contract.arrays import Ids
from contract.encoders import OOV_CODE, Vocabulary
from contract.environment import RedisUrl
from ensemble.run.embeddings import warm
from ensemble.stores.client import connect
from ensemble.stores.embeddings.cache import RowCache
from ensemble.stores.embeddings.disk import EmbeddingDisk, TableRows
from ensemble.stores.embeddings.level import Level
from ensemble.stores.embeddings.mapped import MappedEmbeddings, MappedTable
from ensemble.stores.embeddings.redis import RedisRows
from ensemble.stores.embeddings.tiers import TieredTable
from ensemble.stores.embeddings.updates import Changes

COLUMN, FIRST = "user_id", OOV_CODE + 1
SHARES = (0.5, 0.9, 0.99)
SIZES = {"1 row": 1, "100 rows": 100}
CHUNK = 200_000
TIMEOUT_MS = 5_000
Read = Callable[[Ids], object]


def write_table(path: Path, users: int, width: int) -> None:
    """Writes random rows (users + 3, width), the codes in the order of their frequency."""
    rows = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(users + FIRST, width))
    rng = np.random.default_rng(0)
    for start in range(0, len(rows), CHUNK):
        rows[start : start + CHUNK] = rng.standard_normal(
            (len(rows[start : start + CHUNK]), width), np.float32
        )
    rows.flush()


def table_of(path: Path, users: int, *, in_memory: bool = False) -> MappedTable:
    """Opens what `write_table` wrote."""
    rows = np.load(path, mmap_mode=None if in_memory else "r")
    ids = ids_of(np.arange(users))
    order = np.argsort(ids)
    return MappedTable(rows, Vocabulary(ids[order], order + FIRST))


def build(folder: Path, users: int, width: int) -> dict[str, Any]:
    """Writes the table, and builds the disk from it."""
    started = time.perf_counter()
    write_table(folder / "rows.npy", users, width)
    made = time.perf_counter()
    table = table_of(folder / "rows.npy", users)
    EmbeddingDisk.build(folder / "disk", {COLUMN: TableRows(*table.known, table.rows)}, "bench")
    data = (folder / "disk" / "data.mdb").stat()
    return {
        "name": "build",
        "write_s": made - started,
        "build_s": time.perf_counter() - made,
        "rows_gb": (folder / "rows.npy").stat().st_size / 1e9,
        "disk_gb": data.st_blocks * 512 / 1e9,
    }


def in_memory(folder: Path, users: int, seconds: float) -> Iterator[dict[str, Any]]:
    """Every row in this process."""
    table = table_of(folder / "rows.npy", users, in_memory=True)
    embeddings = MappedEmbeddings({COLUMN: table})
    for share in SHARES:
        zipf = Zipf.with_share(share, users // 10, users)
        yield from _measured(
            "all in memory", share, zipf, lambda ids: embeddings.read(COLUMN, ids, 0), seconds
        )


def in_levels(
    folder: Path, users: int, width: int, seconds: float, redis_url: str | None, is_cold: bool
) -> Iterator[dict[str, Any]]:
    """The cache of a tenth of the rows, Redis with another tenth where there is one, and the disk."""
    trained = table_of(folder / "rows.npy", users)
    name = "cache, Redis, disk" if redis_url else "cache, disk"
    name += ", its file not in memory" if is_cold else ""
    for share in SHARES:
        if is_cold:
            forget(folder / "disk")
        disk, cache = EmbeddingDisk(folder / "disk"), RowCache(width, users // 10)
        below: list[Level] = [disk.rows_of(COLUMN, width)]
        if redis_url:
            client = connect(RedisUrl(redis_url), TIMEOUT_MS)
            client.flushall()
            below.insert(0, RedisRows(client, "bench", COLUMN, width, users // 5))
        table = TieredTable(COLUMN, trained.unknown, cache, below, 0.9)
        warm(table, trained, Changes())
        zipf = Zipf.with_share(share, cache.capacity, users)
        rng, changes = np.random.default_rng(1), Changes()

        def read(ids: Ids, table: TieredTable = table, changes: Changes = changes) -> object:
            return table.read(changes.keys_of(COLUMN, ids))

        until = time.monotonic() + (0 if is_cold else 2 * seconds)  # until the levels hold what is asked for
        while time.monotonic() < until:
            read(ids_of(zipf.draw(rng, 2000)))
        counts: dict[str, float] = {}
        table.count = lambda _, amount=1, counts=counts, **labels: counts.__setitem__(
            labels["level"], counts.get(labels["level"], 0) + amount
        )
        for row in _measured(name, share, zipf, read, seconds):
            total = sum(counts.values())
            yield row | {"hit_rate": counts.get("cache", 0) / total} | memory()
            counts.clear()
        table.stop()
        disk.close()


def _measured(name: str, share: float, zipf: Zipf, read: Read, seconds: float) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(2)
    for size, count in SIZES.items():
        took, until = [], time.monotonic() + seconds
        while time.monotonic() < until:
            ids = ids_of(zipf.draw(rng, count))
            started = time.perf_counter()
            read(ids)
            took.append(time.perf_counter() - started)
        p50, p99 = (float(one) * 1e3 for one in np.percentile(took, [50, 99]))
        yield {
            "name": name,
            "wanted": share,
            "exponent": zipf.exponent,
            "size": size,
            "lookups": len(took),
            "p50_ms": p50,
            "p99_ms": p99,
        } | memory()


def main() -> None:
    """Measures one part in this process, and adds what was found to a JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("build", "memory", "levels"))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--users", type=int, required=True)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each series")
    parser.add_argument("--limit-mib", type=int, help="of this process' own memory: the system refuses more")
    parser.add_argument("--redis", help="URL of an empty Redis for the second level")
    parser.add_argument("--cold", action="store_true", help="the disk's file is dropped from memory first")
    parser.add_argument("--report", type=Path, required=True)
    chosen = parser.parse_args()
    if chosen.limit_mib:
        resource.setrlimit(resource.RLIMIT_DATA, (chosen.limit_mib * 2**20,) * 2)
    folder, users, width = chosen.folder, chosen.users, chosen.width
    if chosen.part == "build":
        found = [build(folder, users, width)]
    elif chosen.part == "memory":
        found = list(in_memory(folder, users, chosen.seconds))
    else:
        found = list(in_levels(folder, users, width, chosen.seconds, chosen.redis, chosen.cold))
    chosen.report.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
