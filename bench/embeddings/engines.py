"""`python -m bench.embeddings.engines`: LMDB, RocksDB and a mapped file as the level that holds every row.

RocksDB is measured where `rocksdict` is installed, which is no dependency: in an environment of its own, with
lmdb and numpy, this file runs as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

CHUNK = 100_000
SIZES = (1, 5, 100)
SMALL = 20_000
"""Rows of which all are soon in memory."""
Keys = list[bytes]
Get = Callable[[Keys], Any]


def keys_of(ids: npt.NDArray[np.int64]) -> Keys:
    """Gives keys that sort as the ids do."""
    keys: Keys = ids.astype(">i8").view("V8").ravel().tolist()
    return keys


def chunks(rows: int, width: int) -> Iterator[tuple[Keys, list[bytes]]]:
    """Draws rows, with a checksum's room, in the order of their keys."""
    rng = np.random.default_rng(0)
    for start in range(0, rows, CHUNK):
        count = min(CHUNK, rows - start)
        values = rng.standard_normal((count, width + 1), np.float32).view(f"V{4 * (width + 1)}")
        yield keys_of(np.arange(start, start + count)), values.ravel().tolist()


def with_lmdb(folder: Path, rows: int, width: int) -> Get:
    """As it is served."""
    import lmdb

    folder.mkdir()
    env = lmdb.open(str(folder), map_size=1 << 40, sync=False, lock=False)
    for keys, values in chunks(rows, width):
        with env.begin(write=True) as write:
            write.cursor().putmulti(zip(keys, values, strict=True), append=True)
    env.sync(True)
    env.close()
    forget(folder)
    env = lmdb.open(str(folder), map_size=1 << 40, readahead=False)

    def get(keys: Keys) -> object:
        with env.begin() as read:
            return dict(read.cursor().getmulti(keys))

    return get


def with_rocksdb(folder: Path, rows: int, width: int) -> Get:
    """Sorted files, taken in without compression; 64 MiB of blocks in memory."""
    from rocksdict import BlockBasedOptions, Cache, DBCompressionType, Options, Rdict, SstFileWriter

    options, blocks, files = Options(raw_mode=True), BlockBasedOptions(), []
    options.set_compression_type(DBCompressionType.none())
    blocks.set_block_cache(Cache(64 << 20))
    blocks.set_bloom_filter(10, True)
    options.set_block_based_table_factory(blocks)
    sorted_files = folder.with_suffix(".sst")
    sorted_files.mkdir()
    for at, (keys, values) in enumerate(chunks(rows, width)):
        writer = SstFileWriter(options=options)
        files.append(str(sorted_files / f"{at:05}.sst"))
        writer.open(files[-1])
        for key, value in zip(keys, values, strict=True):
            writer[key] = value
        writer.finish()
    made = Rdict(str(folder), options=options)
    made.ingest_external_file(files)
    made.close()
    shutil.rmtree(sorted_files)
    forget(folder)
    opened = Rdict(str(folder), options=options)
    get: Get = opened.get
    return get


def with_file(folder: Path, rows: int, width: int) -> Get:
    """A mapped array: what the bundle itself is, by position."""
    folder.mkdir()
    path = folder / "rows.npy"
    file = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, width + 1))
    for at, (_, values) in enumerate(chunks(rows, width)):
        file[at * CHUNK : at * CHUNK + len(values)] = np.frombuffer(b"".join(values), np.float32).reshape(
            len(values), -1
        )
    file.flush()
    del file
    forget(folder)
    mapped = np.load(path, mmap_mode="r")
    return lambda keys: mapped[np.frombuffer(b"".join(keys), ">i8").astype(np.int64)]


ENGINES = {"LMDB": with_lmdb, "RocksDB": with_rocksdb, "mapped file": with_file}


def measure(name: str, folder: Path, rows: int, width: int, seconds: float) -> dict[str, float]:
    """Builds, and looks up rows: cold ones, ones that all are in memory soon, and any."""
    started = time.perf_counter()
    get = ENGINES[name](folder, rows, width)
    found = {"build_s": time.perf_counter() - started}
    files = [file for file in folder.rglob("*") if file.is_file()]
    found["disk_gb"] = sum(file.stat().st_blocks * 512 for file in files) / 1e9
    rng = np.random.default_rng(1)
    some = rng.integers(0, rows, SMALL)
    for size in SIZES:
        found |= timed(get, partial(rng.integers, 0, rows, size), f"cold_{size}", seconds / 5)
    for start in range(0, SMALL, 100):
        get(keys_of(some[start : start + 100]))
    for size in SIZES:
        found |= timed(get, partial(rng.choice, some, size), f"warm_{size}", seconds)
    return found | memory()


def timed(get: Get, draw: Callable[[], Any], name: str, seconds: float) -> dict[str, float]:
    """Looks up as often as there is time for; gives percentiles, ms."""
    took, until = [], time.monotonic() + seconds
    while time.monotonic() < until:
        ids = draw()
        started = time.perf_counter()
        get(keys_of(ids))
        took.append((time.perf_counter() - started) * 1e3)
    p50, p99 = np.percentile(took, [50, 99]).tolist()
    return {f"{name}_p50_ms": p50, f"{name}_p99_ms": p99}


def memory() -> dict[str, float]:
    """This process' memory, MiB: what is its own, and what is mapped of files and may be dropped."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = {key: value for key, _, value in (line.partition(":") for line in lines)}
    return {
        "own_mib": int(fields["RssAnon"].split()[0]) / 1024,
        "mapped_mib": int(fields["RssFile"].split()[0]) / 1024,
    }


def forget(folder: Path) -> None:
    """Asks the system to drop what it holds of the files of a folder, which nobody has mapped."""
    for file in folder.rglob("*"):
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def main() -> None:
    """Measures the engines that are installed, each in a process of its own, and prints them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=tuple(ENGINES), help="one alone, in this process")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each series")
    chosen = parser.parse_args()
    for name in (chosen.engine,) if chosen.engine else ENGINES:
        process = 0 if chosen.engine else os.fork()
        if process:
            os.waitpid(process, 0)
            continue
        folder = chosen.folder / name.replace(" ", "_")
        try:
            figures = measure(name, folder, chosen.rows, chosen.width, chosen.seconds)
            print(
                json.dumps({"engine": name, **{key: round(value, 3) for key, value in figures.items()}}),
                flush=True,
            )
        except ImportError as error:
            print(f"{name}: not measured: {error}", flush=True)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if not chosen.engine:
            os._exit(0)


if __name__ == "__main__":
    main()
