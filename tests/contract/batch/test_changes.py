"""Who changed is noted once, by when, until a run covers it."""

from __future__ import annotations

import numpy as np
from redis import Redis

from batch.runs.changes import CHUNK, ChangedUsers


def read(noted: ChangedUsers, until_s: float = float("inf")) -> list[int]:
    return sorted({user_id for page in noted.read(until_s) for user_id in page.tolist()})


def test_nobody_changed_at_first(redis: Redis) -> None:
    noted = ChangedUsers(redis, "small")
    assert noted.count() == 0
    assert read(noted) == []


def test_the_last_change_of_a_user_counts(redis: Redis) -> None:
    noted = ChangedUsers(redis, "small")
    noted.note(np.array([7, 8]), 5.0)
    noted.note(np.array([8]), 15.0)
    assert noted.count() == 2
    assert noted.count(10.0) == 1
    assert read(noted, 10.0) == [7]
    assert noted.forget(10.0) == 1
    assert read(noted) == [8]


def test_many_are_read_in_pieces(redis: Redis) -> None:
    noted = ChangedUsers(redis, "small")
    user_ids = np.arange(2 * CHUNK + 5)
    noted.note(user_ids, 1.0)
    pages = list(noted.read())
    assert max(map(len, pages)) == CHUNK
    assert all(page.dtype == np.int64 for page in pages)
    assert read(noted) == user_ids.tolist()


def test_nobody_is_lost_who_changes_while_they_are_read(redis: Redis) -> None:
    """A change moves its user to the end of the order; whoever reads by rank would skip another for it."""
    noted = ChangedUsers(redis, "small")
    noted.note(np.arange(3 * CHUNK), 1.0)
    seen: set[int] = set()
    for page in noted.read(10.0):
        seen.update(page.tolist())
        noted.note(page[:100], 20.0)
    noted.forget(10.0)
    assert seen | set(read(noted)) == set(range(3 * CHUNK))
