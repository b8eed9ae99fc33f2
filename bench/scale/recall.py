"""`python -m bench.scale.recall`: recall@K of the index as it serves, for users drawn anew.

Users are read from the feature store and encoded by the user tower, as for a request.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import google.protobuf  # noqa: F401  before Merlin, which forces the slow Python implementation on who comes later
import numpy as np

from ensemble.bundle import LoadedBundle
from ensemble.publish.recall import Exact, measure
from ensemble.settings import load_settings
from ensemble.stores.client import connect
from ensemble.stores.features import RedisFeatureStore
from ensemble.stores.head import HeadedVectorIndex
from ensemble.stores.vectors import RedisVectorIndex

USERS = 1000
SEED = 12345
PATIENCE_MS = 60_000


def main() -> int:
    """Measures, and writes the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, required=True, help="ids are 1 to this")
    parser.add_argument("--report", type=Path, required=True)
    chosen = parser.parse_args()
    settings = load_settings()
    bundle = LoadedBundle.open(settings.bundle)
    redis = connect(settings.redis_url, PATIENCE_MS)
    rng = np.random.default_rng(SEED)
    users = rng.choice(chosen.users, min(USERS, chosen.users), replace=False) + 1
    store = RedisFeatureStore(redis, bundle.dataset, bundle.dataset.clock, settings.max_seen)
    rows = store.read_users(users)
    raw = {"user_id": users, **rows.columns}
    codes = {name: bundle.encoders.encode(name, raw[name]) for name in bundle.user_tower.features}
    vectors = bundle.user_tower(codes)
    exact = Exact.of(bundle.item_ids, bundle.item_vectors, vectors, settings.k)
    graph = RedisVectorIndex(redis, bundle.manifest.bundle, bundle.manifest.filters)
    head = settings.head_items if bundle.manifest.index.kind == "HNSW" else 0
    index = HeadedVectorIndex(graph, bundle.head(head))
    started = time.perf_counter()
    found = measure(index, exact, exact.k + (graph.beyond or 0), settings.recall_target, head)
    seconds = time.perf_counter() - started
    report = asdict(found) | {"ms_per_search": seconds / len(users) * 1e3}
    chosen.report.write_text(json.dumps(report))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
