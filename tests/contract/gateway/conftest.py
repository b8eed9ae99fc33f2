from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.environment import RedisUrl
from tests.builders.ports import free_port
from tests.builders.redis_server import redis_binary


@pytest.fixture
def anyio_backend() -> str:
    """What `pytest.mark.anyio` runs on."""
    return "asyncio"


@pytest.fixture
def unused_port() -> int:
    """A port of this machine where nothing listens."""
    return free_port()


class RedisProcess:
    """A real Redis on a port of its own, which a test may stop and start again."""

    def __init__(self, port: int, folder: Path, *options: str) -> None:
        self.port, self.url = port, RedisUrl(f"redis://127.0.0.1:{port}")
        self._command = [redis_binary(), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
        self._command += ["--dir", str(folder), *options]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it and waits until it answers."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError(f"redis-server did not answer at {self.url.address}")

    def stop(self) -> None:
        """Stops it, if it runs."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
            self._process = None


@pytest.fixture
def redis_process(unused_port: int, tmp_path: Path) -> Iterator[RedisProcess]:
    """A running Redis."""
    process = RedisProcess(unused_port, tmp_path)
    process.start()
    yield process
    process.stop()
