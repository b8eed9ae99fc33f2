"""How Ray is told to keep to itself. It reads these when it is imported, which is done where it is used."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

LOOPBACK = "127.0.0.1"
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}
"""Its own words on the terminal are of no use to who reads ours."""
ALONE = {
    # Else Ray replaces the loopback address by the machine's own, and its servers listen on every one.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Seconds that what outlives a killed run goes on looking for it; else a minute.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "15",
}
"""For a Ray of a command's own."""


@contextmanager
def silent() -> Iterator[None]:
    """Drops what is written to the standard error: Ray tells there that it was told to be quiet."""
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
