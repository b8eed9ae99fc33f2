"""What may go wrong with a batch run, each as one line that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from redis.exceptions import OutOfMemoryError, RedisError

from contract.environment import RedisUrl, explain_redis

INTERRUPTED = "interrupted; the same command goes on where it stopped"


class BatchError(RuntimeError):
    """Says in one line what is wrong with a batch run, and what to do."""


class HeldError(BatchError):
    """Says that another run is at work."""


def explain(error: RedisError, url: RedisUrl) -> str:
    """Says in one line what the Redis at `url` refused, and what to do."""
    if isinstance(error, OutOfMemoryError) or "OOM" in str(error):
        return (
            f"Redis at {url.address} is full; raise its maxmemory, or store less: a smaller "
            f"SHORTLIST_BATCH_N, a shorter SHORTLIST_BATCH_TTL_S. What was published is still read"
        )
    return f"Redis at {url.address}: {explain_redis(error)}"


@contextmanager
def redis_explained(url: RedisUrl) -> Iterator[None]:
    """Turns whatever Redis refuses in its body into one line.

    Raises:
        BatchError: The Redis at `url` is full, unreachable, or refused.
    """
    try:
        yield
    except RedisError as error:
        raise BatchError(explain(error, url)) from error
