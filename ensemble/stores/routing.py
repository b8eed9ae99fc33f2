"""The routing record as the ensemble's commands read and change it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from redis import Redis

from contract.bundle import read_manifest
from contract.keys import gateways_key, routing_key
from contract.routing import REPLACE, GatewayReport, Routing, RoutingError, Written

TRIES = 10
"""Of a change while others change the record as well."""


def read_routing(redis: Redis, current: Path) -> Written:
    """Reads the record of the data set of the bundle `current`, which answers everyone where there is none.

    The bundles that what comes and goes must be brought to are `.routing.bundles`; each lies in the folder
    `bundle_folder(current, name)`.

    Raises:
        BundleError: there is no such bundle.
        RoutingError: the key holds something else.
    """
    manifest = read_manifest(current, verify=False)
    value: Any = redis.get(routing_key(manifest.dataset))
    return Written.read(value, manifest.bundle)


def read_reports(redis: Redis, dataset: str) -> dict[str, GatewayReport]:
    """Reads what the gateways say of the record, those that ended among them."""
    values: Any = redis.hgetall(gateways_key(dataset))
    found = {}
    for gateway, value in values.items():
        with suppress(ValidationError):  # of another version
            found[gateway.decode()] = GatewayReport.model_validate_json(value)
    return found


def bundle_folder(current: Path, bundle: str) -> Path:
    """The folder of a bundle: beside the one that `current` is, or leads to."""
    return current.resolve().with_name(bundle)


def change_routing(redis: Redis, current: Path, change: Callable[[Routing], Routing]) -> Routing:
    """Replaces the record by what `change` makes of it, in one write; again where somebody was faster.

    Raises:
        BundleError: there is no bundle `current`.
        RoutingError: `change` refuses, or the record never stood still.
    """
    dataset = read_manifest(current, verify=False).dataset
    for _ in range(TRIES):
        written = read_routing(redis, current)
        changed = change(written.routing)
        run: Any = redis.eval
        if run(REPLACE, 1, routing_key(dataset), written.text, changed.encode()):
            return changed
    raise RoutingError(f"the routing record of {dataset} is being changed by others; try again")
