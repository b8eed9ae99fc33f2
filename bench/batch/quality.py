"""`python -m bench.batch.quality`: stored slates, evaluated by training's own code."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from redis import Redis

from bench.batch.stored import as_lists, published_slates
from contract import names
from contract.bundle import METRICS_FILE
from contract.environment import read_settings
from contract.tensors import PAD_ID
from feature_repo.connection import ConnectionSettings
from training.data.prepared import load_prepared
from training.examples.split import held_out, rows_of
from training.export.write import write_json
from training.slates.search import evaluate_lists

SECTION = "end_to_end"
WIDTH = 10
"""Of the lists that the evaluation looks at."""


def main() -> int:
    """Evaluates, beside what was measured when the bundle was trained."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prepared", type=Path, required=True, help="the prepared data set's folder")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--report", type=Path, required=True)
    chosen = parser.parse_args()
    prepared = load_prepared(chosen.prepared)
    split, item_ids = prepared.split, prepared.items[names.ITEM_ID].to_numpy(np.int64)
    held = held_out(prepared, split.validate_until, split.test_until)
    users = held.user_ids.tolist()
    redis = Redis(**read_settings(ConnectionSettings).redis_url.connection_kwargs())
    slates = published_slates(redis, prepared.dataset.name, users)
    lists = as_lists(slates, users, WIDTH)
    positions = np.where(lists == PAD_ID, -1, rows_of(item_ids, lists.ravel()).reshape(lists.shape))
    values = evaluate_lists(held, positions)
    metrics = json.loads((chosen.bundle / METRICS_FILE).read_text())
    if SECTION not in metrics["sections"]:
        raise SystemExit(f"{chosen.bundle}: nobody found anything new in its test part; there is no quality")
    write_json(
        chosen.report,
        {
            "users": len(users),
            "without_slate": len(users) - len(slates),
            "stored": {name: float(np.nanmean(of_users)) for name, of_users in values.items()},
            "trained": {name: metrics["sections"][SECTION][metrics["served"]][name] for name in values},
            "seeds": len(metrics["seeds"]),
        },
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
