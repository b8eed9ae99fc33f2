"""A server on a free port that accepts connections like Redis, and answers only when it is told to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from contract.environment import RedisUrl


class SilentRedis:
    """Keeps what it was sent; answers every read with `reply`, or with nothing while it is None. The first
    `hang_ups` connections end at their first command; with `trickle_s`, a reply never ends."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = RedisUrl(f"redis://127.0.0.1:{self.listener.getsockname()[1]}")
        self.reply: bytes | None = None
        self.trickle_s: float | None = None
        self.hang_ups = 0
        self.received: list[bytes] = []
        self.connections: list[socket.socket] = []
        self._closing = threading.Event()

    def serve(self) -> None:
        """Accepts until it is closed."""
        with suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.connections.append(connection)
                threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def close(self) -> None:
        """Ends every connection."""
        self._closing.set()
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in self.connections:
            connection.close()

    def _talk(self, connection: socket.socket) -> None:
        with suppress(OSError):
            while data := connection.recv(65536):
                self.received.append(data)
                if self.hang_ups:
                    self.hang_ups -= 1
                    connection.close()
                    return
                if self.reply is not None:
                    connection.sendall(self.reply)
                elif self.trickle_s is not None:
                    connection.sendall(b"$1000000\r\n")
                    while not self._closing.wait(self.trickle_s):
                        connection.sendall(b"x")


@contextmanager
def silent_redis() -> Iterator[SilentRedis]:
    """Runs one, silent at first."""
    server = SilentRedis()
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join(5)
