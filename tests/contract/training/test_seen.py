from __future__ import annotations

import numpy as np

from contract.keys import decode_seen, encode_seen, seen_key


def test_training_writes_what_the_ensemble_reads() -> None:
    items = np.array([7, 2**62, 0])
    assert seen_key(12) == seen_key(12)
    assert encode_seen(items) == encode_seen(items)
    assert decode_seen(encode_seen(items)).tolist() == items.tolist()
