"""Files that are whole or not there: written under a temporary name, then renamed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

ABANDONED_S = 3600.0
"""Seconds since somebody wrote to a temporary file, after which nobody is at it any more."""


@contextmanager
def whole_file(path: Path, *, is_durable: bool = False) -> Iterator[BinaryIO]:
    """Gives a file to write, which takes its name once the body has ended well, and is gone otherwise. One
    that `is_durable` is on the disk by then: a crash of the machine leaves it whole or away as well."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            if is_durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.rename(path)
        if is_durable:
            _sync_names(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def drop_abandoned(folder: Path) -> None:
    """Deletes the temporary files, in a folder and those below, whose process was killed while it wrote."""
    for temporary in folder.rglob(".*.tmp"):
        with suppress(FileNotFoundError):  # it took its name meanwhile
            if time.time() - temporary.stat().st_mtime > ABANDONED_S:
                temporary.unlink()


def _sync_names(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
