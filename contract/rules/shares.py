"""Shares of the places: how many of the first places are due to the items that have one."""

from __future__ import annotations

import math

_SPREAD = 0x9E3779B97F4A7C15  # Knuth 1973, Sorting and Searching, section 6.4: multiplicative hashing
_EPSILON = 1e-9


def places_due(share: float, user_id: int, shown: int, places: int) -> list[int]:
    """Counts for each place of a page how many of the items that have a share are to stand on this page up to
    there, at least; `shown` places came before.

    With a share of 1/m it is every m-th place. Where the first one is depends on the user's number alone: so
    the share holds over users also where slates are shorter than m, and each place gets its part.
    """
    phase = (user_id * _SPREAD % 2**64) / 2**64
    before = math.floor(shown * share + phase + _EPSILON)
    return [math.floor((shown + n) * share + phase + _EPSILON) - before for n in range(1, places + 1)]
