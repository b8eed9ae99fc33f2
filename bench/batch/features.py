"""`python -m bench.batch.features`: features and seen items in Redis, as of an instant.

Training's own materialisation does it, on a copy of the prepared data set whose clock stands at the instant;
the data set that the copy is of, and its Feast project, are not touched.
"""

from __future__ import annotations

import argparse
import shutil
import time
from datetime import datetime
from pathlib import Path

import pyarrow.parquet as pq

from contract.dataset import DATASET_FILE, ITEMS_FILE, DatasetError
from contract.environment import read_settings
from feature_repo.connection import ConnectionSettings
from feature_repo.materialize import materialize
from training.config import load_settings
from training.data.prepared import FILES, dataset_yaml, load_prepared, to_arrow
from training.export.write import write_json
from training.features.tables import write_features

TEST_START, CLOCK = "test-start", "clock"


def copied(source: Path, target: Path, moment: str) -> datetime | None:
    """Copies a prepared data set with its clock at the moment; gives the instant, None for now.

    At the start of the test part every item is available: availability is of today, and training's evaluation
    does not look at it.
    """
    prepared = load_prepared(source)
    as_of = prepared.split.validate_until if moment == TEST_START else prepared.dataset.as_of
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in FILES.values():
        shutil.copy2(source / name, target / name)
    flag = prepared.dataset.availability
    if moment == TEST_START and flag:
        items = to_arrow(prepared.items.assign(**{flag: True}), prepared.dataset.items)
        pq.write_table(items, target / ITEMS_FILE, compression="zstd")
    dataset = prepared.dataset.model_copy(update={"as_of": as_of, "split": prepared.split})
    (target / DATASET_FILE).write_text(dataset_yaml(dataset))
    return as_of


def main() -> int:
    """Copies, materialises, and notes what arrived."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prepared", type=Path, required=True, help="the prepared data set's folder")
    parser.add_argument("--target", type=Path, required=True, help="VAR/data/NAME, written anew")
    parser.add_argument("--moment", choices=(CLOCK, TEST_START), required=True)
    parser.add_argument("--report", type=Path, required=True)
    chosen = parser.parse_args()
    settings, started = load_settings(), time.monotonic()
    try:
        as_of = copied(chosen.prepared, chosen.target, chosen.moment)
        write_features(load_prepared(chosen.target), settings.data, max_seen=settings.max_seen)
        arrived = materialize(chosen.target, read_settings(ConnectionSettings).redis_url)
    except DatasetError as error:
        raise SystemExit(str(error)) from None
    write_json(
        chosen.report,
        {
            "as_of": (as_of or arrived.as_of).isoformat(),
            "rows": arrived.rows,
            "seen_users": arrived.seen_users,
            "seconds": time.monotonic() - started,
        },
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
