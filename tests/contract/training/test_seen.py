from __future__ import annotations

import numpy as np

from ensemble import contract
from feature_repo import seen


def test_training_writes_what_the_ensemble_reads() -> None:
    items = np.array([7, 2**62, 0])
    assert seen.seen_key(12) == contract.seen_key(12)
    assert seen.encode_seen(items) == contract.encode_seen(items)
    assert contract.decode_seen(seen.encode_seen(items)).tolist() == items.tolist()
