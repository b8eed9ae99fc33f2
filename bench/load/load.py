"""Loads the running gateway at a fixed rate with the data set's own users: `python -m bench.load.load`."""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import redis

from bench.load import report, result, traffic
from contract import names
from contract.bundle import BundleError, read_manifest
from contract.environment import RedisUrl, explain_redis
from contract.feast import feature_id, feature_keys_pattern
from contract.ids import OwnId
from contract.keys import seen_prefix
from contract.texts import USERS, Texts
from deploy.local.settings import LocalSettings, load_settings

LOOK_AT = 200_000
"""Most users looked at in Redis; the ones used are drawn from these."""

WARM_UP_S = 0.3


class LoadError(Exception):
    """Says in one line why there is nothing to load."""


def user_ids(url: RedisUrl, dataset: str, most: int, seed: int) -> list[int]:
    """Draws users of a data set that have seen something, from their keys in Redis; where nothing counts as
    seen, users that have features.

    Raises:
        LoadError: Redis does not answer, or holds no user.
    """
    try:
        with redis.Redis(**url.connection_kwargs()) as client:
            found = list(islice(_with_seen(client, dataset), LOOK_AT))
            found = found or list(islice(_with_features(client, dataset), LOOK_AT))
    except redis.RedisError as error:
        raise LoadError(f"Redis at {url.address}: {explain_redis(error)}") from None
    if not found:
        raise LoadError(f"Redis at {url.address} holds no user of {dataset}; run `make materialize`")
    found.sort()  # a scan has no order of its own; with it the same seed draws the same users
    return random.Random(seed).sample(found, min(most, len(found)))


def _with_seen(client: redis.Redis, dataset: str) -> Iterator[int]:
    prefix = seen_prefix(dataset)
    for key in client.scan_iter(f"{prefix}*", count=1000):
        yield int(key.decode().removeprefix(prefix))


def _with_features(client: redis.Redis, dataset: str) -> Iterator[int]:
    for key in client.scan_iter(feature_keys_pattern(names.USER_ID, dataset), count=1000):
        if (user_id := feature_id(key, names.USER_ID, dataset)) is not None:
            yield user_id


def own_ids(settings: LocalSettings, most: int, seed: int) -> Sequence[OwnId]:
    """Draws users of the data set that the gateway's bundle was trained on, gives their own ids.

    Raises:
        LoadError: there is no bundle, Redis does not answer or holds no user, or nobody's text is known.
    """
    try:
        manifest = read_manifest(settings.bundle, verify=False)
        users = user_ids(settings.redis, manifest.dataset, most, seed)
        if manifest.user_id_dtype == "int64":
            return users
        texts = Texts.open(settings.var / "data" / manifest.dataset, USERS)
    except (BundleError, OSError) as error:
        raise LoadError(f"{error}; nobody says whom to ask for: run `make train`") from None
    found = [text for user in users if (text := texts.of(user)) is not None]
    return found or list(manifest.sample_user_ids)


def positive(value: str) -> float:
    """Reads a number above zero."""
    number = float(value)
    if number <= 0:
        raise argparse.ArgumentTypeError(f"{value} must be above 0")
    return number


async def load(arguments: argparse.Namespace, users: Sequence[OwnId], headers: dict[str, str]) -> traffic.Run:
    """Warms up, which counts for nothing: it opens connections and fills caches; then loads."""
    request: dict[str, Any] = {"n": arguments.n, "seed": arguments.seed, "headers": headers}
    await traffic.closed_loop(arguments.port, users, clients=1, duration_s=WARM_UP_S, **request)
    return await traffic.open_loop(
        arguments.port, users, rate=arguments.rate, duration_s=arguments.duration, **request
    )


def main() -> int:
    """Runs, prints and writes the report; 1 where a request failed or there was nothing to load."""
    settings = load_settings()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=positive, default=50.0, help="requests per second (default: 50)")
    parser.add_argument("--duration", type=positive, default=10.0, help="seconds (default: 10)")
    parser.add_argument("--users", type=int, default=1000, help="most users to draw from (default: 1000)")
    parser.add_argument("--n", type=int, default=10, help="items per request (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the users and the arrivals (default: 0)")
    parser.add_argument("--port", type=int, default=settings.port, help=f"default: {settings.port}")
    arguments = parser.parse_args()
    url = f"http://{traffic.HOST}:{arguments.port}"
    try:
        httpx.get(f"{url}/healthz", timeout=5.0, trust_env=False).raise_for_status()
        users = own_ids(settings, max(arguments.users, 1), arguments.seed)
    except httpx.HTTPError as error:
        print(f"the gateway at {url} does not answer ({error}); run `make up`", file=sys.stderr)
        return 1
    except LoadError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"loading {url} for {arguments.duration:g} s at {arguments.rate:g} requests/s", flush=True)
    requested = {
        "n": arguments.n,
        "seed": arguments.seed,
        "rate": arguments.rate,
        "duration_s": arguments.duration,
    }
    found = result.count(asyncio.run(load(arguments, users, settings.headers)), arguments.duration)
    summary = report.summary(found, {**requested, "users": len(users)})
    print(report.text(summary, found.latency))
    name = f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%SZ}"
    for path in report.write(summary, found.latency, settings.var / "load", name):
        print(f"wrote       {os.path.relpath(path, Path.cwd())}")
    return 1 if found.errors else 0


if __name__ == "__main__":
    sys.exit(main())
