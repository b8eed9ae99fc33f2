from __future__ import annotations

import numpy as np

from contract.keys import decode_seen, encode_seen, seen_key


def test_what_is_written_is_what_is_read() -> None:
    items = np.array([7, 2**62, 0])
    assert decode_seen(encode_seen(items)).tolist() == items.tolist()


def test_a_user_of_another_data_set_is_another_user() -> None:
    assert seen_key("films", 12) == "seen:films:12" != seen_key("songs", 12)
