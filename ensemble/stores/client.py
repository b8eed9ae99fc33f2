"""One way to connect to Redis: no round trip outlasts its time, and a Redis that does not answer is left
alone."""

from __future__ import annotations

import math
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import partial
from typing import Any, cast

from circuitbreaker import STATE_HALF_OPEN, CircuitBreaker
from redis import Redis
from redis.client import Pipeline
from redis.connection import Connection, ConnectionPool
from redis.exceptions import AuthenticationError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from contract.environment import AUTHENTICATION_FAILED, RedisUrl

_ENDS_S: ContextVar[float] = ContextVar("ends_s", default=math.inf)
"""When this thread's round trips end at the latest, in seconds of `time.monotonic`."""


@contextmanager
def ending_by(monotonic_s: float) -> Iterator[None]:
    """Ends every round trip of this thread by an instant of `time.monotonic`, whatever its own limit."""
    before = _ENDS_S.get()
    token = _ENDS_S.set(min(before, monotonic_s))
    try:
        yield
    finally:
        _ENDS_S.reset(token)


def _wait_s(most_s: float | None) -> float | None:
    """Gives how long the next wait may be, in seconds; None is for ever.

    Raises:
        TimeoutError: nothing is left.
    """
    ends_s = _ENDS_S.get()
    if ends_s == math.inf:
        return most_s
    left_s = ends_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("no time left")
    return left_s if most_s is None else min(most_s, left_s)


class TimedSocket(socket.socket):
    """A socket whose waits all end by the instant of `ending_by`: its timeout alone would start anew with
    every piece of a reply."""

    most_s: float | None = None

    def settimeout(self, value: float | None) -> None:
        """Sets the longest single wait, in seconds; 0 does not wait at all."""
        self.most_s = value
        super().settimeout(value)

    def recv_into(self, *arguments: Any) -> int:
        """Reads what is there, or waits for it."""
        self._bound()
        return super().recv_into(*arguments)

    def sendall(self, *arguments: Any) -> None:
        """Sends everything."""
        self._bound()
        super().sendall(*arguments)

    def _bound(self) -> None:
        if self.most_s != 0:
            super().settimeout(_wait_s(self.most_s))


class TimedTlsSocket(TimedSocket, ssl.SSLSocket):
    """The same with TLS, which sends in pieces."""

    def send(self, *arguments: Any) -> int:
        """Sends what one piece holds."""
        self._bound()
        return super().send(*arguments)


class TimedConnection(Connection):
    """A connection over a `TimedSocket`, with TLS where a context is given. Where a wait ends too early,
    redis-py closes it: what Redis still answers is never taken for the reply to a later command."""

    def __init__(self, *, tls: ssl.SSLContext | None = None, **options: Any) -> None:
        super().__init__(**options)  # type: ignore[no-untyped-call]
        self.tls = tls
        if tls is not None:
            tls.sslsocket_class = TimedTlsSocket

    def _connect(self) -> TimedSocket:
        self.socket_connect_timeout = _wait_s(self.socket_timeout)
        plain: socket.socket = super()._connect()  # type: ignore[no-untyped-call]
        timed: TimedSocket
        if self.tls is None:
            timed = TimedSocket(plain.family, plain.type, plain.proto, fileno=plain.detach())
        else:
            with plain:  # closed where the handshake fails
                plain.settimeout(_wait_s(self.socket_timeout))
                timed = cast(TimedTlsSocket, self.tls.wrap_socket(plain, server_hostname=self.host))
        timed.settimeout(self.socket_timeout)
        return timed


class Patience:
    """How long Redis is waited for: `most_s` seconds a round trip, and not at all while its circuit is open.

    The circuit opens after `failures` round trips in a row without an answer, and stays open for `rest_s`
    seconds. Then a PING, which may take `probe_s` seconds, decides whether it closes, so that no request
    stakes all its time on it. A round trip that had less than `probe_s` proves nothing when it fails.
    """

    def __init__(self, most_s: float, failures: int = 3, rest_s: float = 0.25, probe_s: float = 0.02) -> None:
        self.most_s, self.rest_s, self.probe_s = most_s, rest_s, probe_s
        self.seconds = 0.0  # what all round trips together took
        self.server = ""  # the run of Redis that the newest connection leads to, where that is noted
        self.circuit = CircuitBreaker(
            failures, rest_s, (RedisConnectionError, RedisTimeoutError), name="redis"
        )

    @contextmanager
    def round_trip(self, ping: Callable[[], Any]) -> Iterator[None]:
        """Bounds one round trip, and learns from how it ends; `ping` asks Redis for a sign of life.

        Raises:
            RedisConnectionError: Redis did not answer of late, and is not asked.
            AuthenticationError: it refused user and password; the message says where they are set.
        """
        if not self.circuit.closed:
            self._probe(ping)
        now_s = time.monotonic()
        ends_s = min(_ENDS_S.get(), now_s + self.most_s)
        try:
            with ending_by(ends_s), self.circuit if ends_s - now_s >= self.probe_s else nullcontext():
                yield
        except AuthenticationError:
            raise AuthenticationError(AUTHENTICATION_FAILED) from None
        finally:
            self.seconds += time.monotonic() - now_s

    def _probe(self, ping: Callable[[], Any]) -> None:
        if self.circuit.state != STATE_HALF_OPEN:
            raise RedisConnectionError(
                f"Redis did not answer {self.circuit.failure_count} times in a row; "
                f"it is asked again every {self.rest_s:g} s"
            )
        with ending_by(time.monotonic() + self.probe_s), self.circuit:
            ping()


class TimedRedis(Redis):
    """A client whose every round trip keeps to its `Patience`."""

    def __init__(self, pool: ConnectionPool, patience: Patience) -> None:
        super().__init__(connection_pool=pool)
        self.patience = patience

    def execute_command(self, *arguments: Any, **options: Any) -> Any:
        """Makes one round trip with one command."""
        with self.patience.round_trip(self._ping):
            return super().execute_command(*arguments, **options)  # type: ignore[no-untyped-call]

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> TimedPipeline:
        """Collects commands that make one round trip together."""
        pipeline = TimedPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)
        pipeline.round_trip = partial(self.patience.round_trip, self._ping)
        return pipeline

    def _ping(self) -> None:
        super().execute_command("PING")  # type: ignore[no-untyped-call]


class TimedPipeline(Pipeline):
    """Commands that make one round trip."""

    round_trip: Callable[[], AbstractContextManager[None]]

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Sends all commands at once and gives their replies; once more, in what is left of the time, where
        the connection broke: whatever is sent here may be sent twice."""
        commands = self.command_stack
        with self.round_trip():
            try:
                replies: list[Any] = super().execute(raise_on_error)
            except RedisConnectionError:
                self.command_stack = commands
                replies = super().execute(raise_on_error)
        return replies


def connect(
    url: RedisUrl, timeout_ms: float, patience: Patience | None = None, notes_server: bool = False
) -> TimedRedis:
    """Takes where Redis is, gives a client that connects at its first command.

    A connection that Redis closed meanwhile is made anew, so that a restarted Redis is used at once. With
    `notes_server`, each new one first asks which run of Redis it leads to, which `patience.server` then says.
    """
    options = url.connection_kwargs()
    patience = patience or Patience(timeout_ms / 1000)

    def connected(connection: Connection) -> None:
        connection.on_connect()  # type: ignore[no-untyped-call]
        if notes_server:
            patience.server = _run_of(connection)

    pool = ConnectionPool(
        TimedConnection,
        **{name: value for name, value in options.items() if not name.startswith("ssl")},
        tls=url.tls_context(),
        socket_timeout=timeout_ms / 1000,
        socket_keepalive=True,
        redis_connect_func=connected,
    )
    return TimedRedis(pool, patience)


def _run_of(connection: Connection) -> str:
    """Asks a new connection for the id of Redis' run, another after each start; empty where it tells none."""
    connection.send_command("INFO", "server")  # type: ignore[no-untyped-call]
    try:
        told = connection.read_response()
    except ResponseError:
        return ""
    found = re.search(rb"run_id:(\w+)", told) if isinstance(told, bytes) else None
    return found[1].decode() if found else ""
