"""How fast a job was at its beginning and at its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

PART = 0.1
FEWEST = 20
"""Shards below which a tenth is one or two of them, and says nothing."""


@dataclass(frozen=True)
class Shard:
    """A part of the users that is done: at which instant, in seconds, and how many they are."""

    at_s: float
    users: int


@dataclass(frozen=True)
class Tenths:
    """Users per second in the first and in the last tenth of all users."""

    first: float
    last: float

    @property
    def ratio(self) -> float:
        """The last over the first."""
        return self.last / self.first


def tenths(shards: Sequence[Shard]) -> Tenths | None:
    """Compares the first and the last tenth of the users; None where there are too few shards to tell.

    A shard counts from the end of the one before to its own; the first one, whose beginning nobody noted,
    only starts the clock.
    """
    if len(shards) < FEWEST:
        return None
    done = sorted(shards, key=lambda shard: shard.at_s)
    instants, users = [shard.at_s for shard in done], [shard.users for shard in done[1:]]
    most = sum(users) * PART
    early = 1 + next(i for i, count in enumerate(accumulate(users)) if count >= most)
    late = 1 + next(i for i, count in enumerate(accumulate(reversed(users))) if count >= most)
    took_first, took_last = instants[early] - instants[0], instants[-1] - instants[-1 - late]
    if not (took_first > 0 and took_last > 0):
        return None
    return Tenths(sum(users[:early]) / took_first, sum(users[-late:]) / took_last)


def shards_of(run: Path, users: int, shard_users: int) -> list[Shard]:
    """Reads when each shard of a run was stored, from its files; all but the last hold `shard_users`."""
    parts = sorted((run / "slates").glob("part-*.parquet"))
    last = users - shard_users * (len(parts) - 1)
    return [Shard(part.stat().st_mtime, last if part is parts[-1] else shard_users) for part in parts]
