"""A machine stands still where all of its cores do; what is under way then is told apart."""

from __future__ import annotations

import time

from bench.pauses import Pauses, in_common, watched_pauses


def test_a_pause_is_one_of_every_core() -> None:
    first = [(1.0, 1.05), (3.0, 3.2), (5.0, 5.5)]
    second = [(2.0, 2.5), (3.1, 3.3), (5.1, 5.105), (5.2, 5.4)]
    assert in_common([first, second]) == ((3.1, 3.2), (5.2, 5.4))
    assert in_common([first]) == tuple(first)
    assert in_common([]) == ()


def test_what_is_under_way_in_a_pause_is_found() -> None:
    pauses = Pauses(((1.0, 1.1), (4.0, 4.3)), is_known=True)
    assert pauses.touch(0.9, 1.01)
    assert pauses.touch(4.1, 4.2)
    assert pauses.touch(0.0, 9.0)
    assert not pauses.touch(1.2, 3.9)
    assert round(pauses.longest_ms) == 300


def test_watching_ends_with_the_body_and_finds_ascending_spans() -> None:
    with watched_pauses() as found:
        began = time.perf_counter()
        time.sleep(0.05)
        ended = time.perf_counter()
    (pauses,) = found
    assert all(begin < end for begin, end in pauses.spans)
    assert all(begin < ended + 1 and end > began - 1 for begin, end in pauses.spans)
