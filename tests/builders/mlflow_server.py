"""An MLflow server on a free port of loopback, over a store that is made already."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from training.tracking.store import TrackingError, check_server

PATIENCE_S = 240.0


class MlflowServer:
    """Begins to start, which takes half a minute; who needs it waits."""

    def __init__(self, var: Path) -> None:
        """Starts it as `make mlflow` does."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address, self.log = f"http://127.0.0.1:{port}", var / "server.log"
        given = {"VAR_DIR": str(var), "MLFLOW": "local", "MLFLOW_PORT": str(port)}
        environment = os.environ | {f"SHORTLIST_{name}": value for name, value in given.items()}
        command = [sys.executable, "-m", "training.tracking", "page"]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def wait(self) -> str:
        """Gives its address once it answers."""
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                check_server(self.address)
            except TrackingError:
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < until, self.log.read_text()
                time.sleep(0.2)
            else:
                return self.address

    def stop(self) -> None:
        """Ends it and what it began."""
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait()
