"""`python -m bench.embeddings.beside`: a copy of a bundle whose tables lie beside its models, that of users
with as many rows more as are asked for."""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

import numpy as np

from bench.embeddings.zipf import FIRST_ID
from contract.bundle import ENCODERS_FILE, MANIFEST_FILE, read_manifest, sha256
from contract.encoders import Encoders, Vocabulary
from contract.names import ITEM_ID, USER_ID
from training.export.tables import take_out

CHUNK = 200_000


def put_beside(bundle: Path, target: Path, users: int) -> None:
    """Writes the copy, of the same name."""
    shutil.copytree(bundle, target)
    manifest, encoders = read_manifest(target), Encoders.load(target / ENCODERS_FILE)
    columns = (USER_ID, ITEM_ID)
    tower, ranker, tables = take_out(target, columns, encoders.fields, manifest.user_tower, manifest.ranker)
    _add_users(target / f"{USER_ID}_rows.npy", users)
    known = encoders.vocabularies[USER_ID]
    added = FIRST_ID + np.arange(users)
    codes = np.concatenate([known.codes, known.cardinality + np.arange(users)])
    values = np.concatenate([np.asarray(known.values, dtype=np.int64), added])
    encoders.vocabularies[USER_ID] = Vocabulary(values, codes)
    encoders.save(target / ENCODERS_FILE)
    checksums = {file.name: sha256(file) for file in target.iterdir() if file.name != MANIFEST_FILE}
    changes = {
        "user_tower": tower,
        "ranker": ranker,
        "tables": tables,
        "checksums": checksums,
    }
    (target / MANIFEST_FILE).write_text(manifest.model_copy(update=changes).model_dump_json())


def _add_users(path: Path, users: int) -> None:
    known = np.load(path)
    temporary = path.with_suffix(".tmp")
    shape = (len(known) + users, known.shape[1])
    rows = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
    rows[: len(known)] = known
    rng = np.random.default_rng(0)
    for start in range(len(known), len(rows), CHUNK):
        end = min(start + CHUNK, len(rows))
        like = known[rng.integers(len(known), size=end - start)]
        rows[start:end] = like + 0.01 * rng.standard_normal(like.shape, np.float32)
    rows.flush()
    os.replace(temporary, path)


def main() -> None:
    """Reads the arguments, and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--target", type=Path, required=True)
    parser.add_argument("--users", type=int, required=True, help="who are added")
    chosen = parser.parse_args()
    put_beside(chosen.bundle, chosen.target, chosen.users)


if __name__ == "__main__":
    main()
