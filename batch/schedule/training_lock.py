"""One training at a time on one machine, whoever begins it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = "retrain.lock"
AT_WORK = os.EX_TEMPFAIL
"""The status, 75, of a training that did nothing as another is at work."""


@contextmanager
def alone(var: Path) -> Iterator[None]:
    """Holds the lock within the block; the system lets go of it with the process, however that ends.

    Raises:
        BlockingIOError: another training is at work.
    """
    var.mkdir(parents=True, exist_ok=True)
    with (var / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def is_at_work(var: Path) -> bool:
    """Whether a training is at work; looks, and makes no lock where none was made yet."""
    try:
        with (var / LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
