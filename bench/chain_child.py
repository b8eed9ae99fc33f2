"""A chain in a process of its own, asked line by line: `python -P bench/chain_child.py`, with the folder of a
commit in `PYTHONPATH`.

Reads the users of a batch; writes the microseconds of CPU that their answers took, and the slates' digest.
It imports what older commits have as well.
"""

from __future__ import annotations

import gc
import hashlib
import os
import sys
import time
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import google.protobuf  # noqa: F401  before Merlin, as in the model

N = 10


def opened() -> Any:
    """Opens the current bundle as Triton's process does."""
    from ensemble.triton.lean_merlin import import_lean_merlin

    import_lean_merlin()
    from ensemble.bundle import LoadedBundle
    from ensemble.run.recommender import Recommender, redis_stores
    from ensemble.settings import load_settings

    settings = load_settings()
    bundle = LoadedBundle.open(settings.bundle, settings.provider, settings.ort_threads)
    stores = redis_stores(bundle, settings)
    recommender = Recommender(bundle, stores, settings)
    recommender.start()
    recommender.warm_up()
    if stores.watch is not None:
        stores.watch.look()
    gc.collect()
    gc.freeze()
    return recommender


def main() -> None:
    """Says that it is ready, then answers."""
    recommender = opened()
    import numpy as np

    from contract.tensors import PAD_ID, plain_request

    context = recommender.bundle.manifest.context
    print("ready", flush=True)
    for line in sys.stdin:
        users = [int(word) for word in line.split()]
        requests = [plain_request(np.array([user], dtype=np.int64), N, context) for user in users]
        began = time.thread_time()
        answers = recommender.answer(requests)
        took_us = 1e6 * (time.thread_time() - began)
        slates = [[i for i in one["item_ids"][0, :N].tolist() if i != PAD_ID] for one in answers]
        print(f"{took_us:.0f} {hashlib.sha256(repr(slates).encode()).hexdigest()}", flush=True)
    recommender.stop()


if __name__ == "__main__":
    main()
