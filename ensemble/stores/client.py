"""One way to connect to Redis: short timeouts, one retry, so that a restarted Redis is used again at once."""

from __future__ import annotations

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry


def connect(address: str, timeout_ms: int) -> Redis:
    """Takes `host:port`, gives a client that connects at its first command."""
    host, _, port = address.rpartition(":")
    seconds = timeout_ms / 1000
    return Redis(
        host=host,
        port=int(port),
        socket_timeout=seconds,
        socket_connect_timeout=seconds,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 1),
        retry_on_error=[RedisConnectionError],
    )
