"""A port for a server of a test's or a benchmark's own."""

from __future__ import annotations

import socket


def free_port() -> int:
    """Asks the kernel for a free port on loopback; another process may take it before it is used."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
