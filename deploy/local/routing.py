"""Which bundles this machine serves: the routing record, and the link that a cold start follows."""

from __future__ import annotations

from contextlib import closing, suppress
from http.client import HTTPException
from typing import Any

import redis

from contract.bundle import BundleError, read_manifest
from contract.routing import RoutingError
from deploy.local.settings import LOOPBACK, LocalSettings
from ensemble.publish.serve import BundleServer, described
from ensemble.settings import EnsembleSettings
from ensemble.stores.routing import change_routing, read_routing
from ensemble.triton.repository import ModelRepository

TIMEOUT_S = 5.0
LOAD_S = 120.0


def linked(settings: LocalSettings) -> str:
    """Names the bundle of the link `current`; empty where there is none."""
    with suppress(BundleError):
        return read_manifest(settings.bundle, verify=False).bundle
    return ""


def dataset_of(settings: LocalSettings) -> str:
    """Names the data set of that bundle; empty where there is none."""
    with suppress(BundleError):
        return read_manifest(settings.bundle, verify=False).dataset
    return ""


def champion(settings: LocalSettings) -> str:
    """Names the bundle that answers those whom no arm takes; that of the link where Redis does not say."""
    with suppress(redis.RedisError, RoutingError, BundleError), closing(_client(settings)) as client:
        return read_routing(client, settings.bundle).routing.champion
    return linked(settings)


def told_routing(settings: LocalSettings) -> list[str]:
    """Says which bundle answers whom, in lines; none where the record cannot be read."""
    with suppress(redis.RedisError, RoutingError, BundleError), closing(_client(settings)) as client:
        return described(read_routing(client, settings.bundle).routing)
    return []


def follow_link(settings: LocalSettings) -> str:
    """Makes the bundle of the link the champion, where the record names another: it was promoted while
    nothing ran. Gives what to say of it; empty where nothing changed.

    Raises:
        BundleError, RoutingError, redis.RedisError: link or record cannot be read.
    """
    name = linked(settings)
    with closing(_client(settings)) as client:
        written = read_routing(client, settings.bundle)
        if not written.text or written.routing.champion == name:
            return ""
        why = "promoted while nothing ran"
        change_routing(client, settings.bundle, lambda routing: routing.promoted(name, why))
    return f"{name} is the champion, which was {why}"


def serve_link(settings: LocalSettings) -> str:
    """Lets the running servers serve the bundle of the link, where they serve another. Gives what to say of
    it; empty where nothing changed.

    Raises:
        BundleError, LoadError, RoutingError, redis.RedisError, OSError: it is refused; the other goes on.
    """
    name = linked(settings)
    if champion(settings) == name:
        return ""
    with closing(_client(settings)) as client:
        BundleServer(client, ensemble_settings(settings)).promote(name, "the link's, at make up")
    return f"{name} is the champion"


def ensemble_settings(settings: LocalSettings) -> EnsembleSettings:
    """The ensemble's settings of these servers, whatever this process was told of Redis."""
    values: dict[str, Any] = {"redis_url": settings.redis, "var_dir": settings.var}
    values |= {"bundle_dir": settings.bundle, "triton_http": f"{LOOPBACK}:{settings.triton_http_port}"}
    return EnsembleSettings(**values)


def load_anew(settings: LocalSettings) -> None:
    """Lets a running Triton load again what was exported anew since; it answers meanwhile.

    Raises:
        LoadError: the new export does not load; the old one goes on.
    """
    repository = ModelRepository(LOOPBACK, settings.triton_http_port)
    with suppress(OSError, HTTPException, ValueError):
        for model in repository.ready():
            repository.load(model, LOAD_S)


def _client(settings: LocalSettings) -> redis.Redis:
    return redis.Redis(**settings.redis.connection_kwargs(), socket_timeout=TIMEOUT_S)
