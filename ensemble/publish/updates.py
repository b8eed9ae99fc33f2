"""`python -m ensemble.publish.updates FILE`: sends changed rows of embeddings to whoever serves the bundle;
no restart. The file is an `.npz`: for each column, `<column>_ids` int64 (N,) and `<column>_rows` float32
(N,W), as wide as the column's table in the bundle's manifest."""

from __future__ import annotations

import argparse
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from redis.exceptions import RedisError

from contract.arrays import Floats, Ids
from contract.bundle import BundleError, Manifest, read_manifest
from contract.environment import explain_redis
from ensemble.settings import load_settings
from ensemble.stores.client import connect
from ensemble.stores.embeddings.level import EmbeddingError
from ensemble.stores.embeddings.updates import publish_update

TIMEOUT_MS = 60_000


def read_update(path: Path, manifest: Manifest) -> dict[str, tuple[Ids, Floats]]:
    """Reads an update of a bundle: by column, ids (N,) and rows (N,W).

    Raises:
        EmbeddingError: it is no such file, or does not fit the bundle.
    """
    widths = {table.column: table.width for table in manifest.tables}
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise EmbeddingError(f"{path}: is no .npz of ids and rows: {error}") from None
    update = {}
    for column, width in widths.items():
        ids, rows = arrays.pop(f"{column}_ids", None), arrays.pop(f"{column}_rows", None)
        if ids is None and rows is None:
            continue
        if ids is None or ids.dtype != np.int64 or ids.ndim != 1 or len(np.unique(ids)) < len(ids):
            raise EmbeddingError(f"{path}: {column}_ids must be int64 (N,), each id once")
        if rows is None or rows.shape != (len(ids), width) or rows.dtype != np.float32:
            raise EmbeddingError(f"{path}: {column}_rows must be float32 ({len(ids)},{width})")
        if not np.isfinite(rows).all():
            raise EmbeddingError(f"{path}: {column}_rows holds what is no number")
        if len(ids):
            update[column] = (ids, rows)
    if arrays or not update:
        names = ", ".join(f"{column}_ids, {column}_rows" for column in widths) or "no table at all"
        raise EmbeddingError(f"{path}: has {', '.join(arrays) or 'no row'}; {manifest.bundle} has {names}")
    return update


def main(arguments: Sequence[str] | None = None) -> int:
    """Sends one update; 0, or 1 with one line that says what is wrong."""
    settings = load_settings()
    parser = argparse.ArgumentParser(prog="python -m ensemble.publish.updates", description=__doc__)
    parser.add_argument("file", type=Path, help="the .npz of the rows that changed")
    parser.add_argument("--bundle", type=Path, default=settings.bundle, help="the folder of the bundle")
    chosen = parser.parse_args(arguments)
    started = time.monotonic()
    try:
        manifest = read_manifest(chosen.bundle, verify=False)
        update = read_update(chosen.file, manifest)
        version = publish_update(connect(settings.redis_url, TIMEOUT_MS), manifest.bundle, update)
    except (BundleError, EmbeddingError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except RedisError as error:
        sys.stderr.write(f"Redis at {settings.redis_url.address}: {explain_redis(error)}\n")
        return 1
    rows, took_s = sum(len(ids) for ids, _ in update.values()), time.monotonic() - started
    sys.stdout.write(f"{manifest.bundle}: update {version}, {rows} rows, sent in {took_s:.1f} s\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
