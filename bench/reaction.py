"""`python -m bench.reaction`: how a stranger's slate changes with five positive events of one category, on
the running stack, over all categories that are large enough."""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import httpx
import numpy as np
import redis

from contract.bundle import ITEM_IDS_FILE, BundleError, read_dataset, read_manifest
from contract.dataset import Dataset
from contract.keys import decode_tags, item_vector_key
from contract.slates import SlateSource
from deploy.local.settings import LocalSettings, load_settings
from shortlist import Client, ShortlistError

EVENTS, PLACES, TIMES, WITHIN_S = 5, 10, 3.0, 20.0
FIRST_STRANGER = 770_000_000_000
"""Users from here on are nobody's."""


def column_of(dataset: Dataset) -> str:
    """Names the column of items that categories are taken from: the first that users' affinities are made of
    and that may be filtered on.

    Raises:
        BundleError: there is none.
    """
    for name, column in dataset.items.items():
        if column.is_affinity and column.is_filterable:
            return name
    raise BundleError(f"{dataset.name}: no column of its items is both is_affinity and is_filterable")


def categories(settings: LocalSettings, client: redis.Redis, column: str) -> dict[str, list[int]]:
    """Gives of each category its items, as filters know them, where they fill a slate besides what is
    clicked."""
    ids = np.load(settings.bundle / ITEM_IDS_FILE).tolist()
    bundle = read_manifest(settings.bundle, verify=False).bundle
    pipe: Any = client.pipeline(transaction=False)
    for item_id in ids:
        pipe.hget(item_vector_key(bundle, item_id), column)
    found: dict[str, list[int]] = defaultdict(list)
    for item_id, tags in zip(ids, pipe.execute(), strict=True):
        for one in decode_tags(tags):
            found[one].append(item_id)
    return {one: found[one] for one in sorted(found) if len(found[one]) >= EVENTS + PLACES}


def shares(
    settings: LocalSettings, of_category: dict[str, list[int]], target: str
) -> dict[str, tuple[float, float]]:
    """Gives of each category its share of a stranger's slate before and after the events; of those of which
    the slate leaves room to treble it.

    Raises:
        ShortlistError: the gateway refuses.
        TimeoutError: events have no effect, or the ensemble does not answer.
    """
    found: dict[str, tuple[float, float]] = {}
    key = settings.api_key.get_secret_value() if settings.api_key else None
    with Client(settings.gateway_url, api_key=key, timeout_s=WITHIN_S) as client:
        for at, (name, items) in enumerate(of_category.items()):
            stranger, own = FIRST_STRANGER + time.time_ns() % 10**9 * 1000 + at, frozenset(items)
            before = _share(client, stranger, own)
            if before > 1 / TIMES:
                continue
            clicked = items[:: len(items) // EVENTS][:EVENTS]
            client.send_events([{"user_id": stranger, "item_id": one, target: 1} for one in clicked])
            until_s = time.monotonic() + WITHIN_S
            while len(client.seen(stranger).items) < EVENTS:
                if time.monotonic() > until_s:
                    raise TimeoutError(f"user {stranger}: no effect within {WITHIN_S:.0f} s; `make status`")
                time.sleep(0.05)
            found[name] = before, _share(client, stranger, own)
    return found


def _share(client: Client, user: int, own: frozenset[int]) -> float:
    slate = client.recommend(user, n=PLACES)
    if slate.source != SlateSource.ENSEMBLE:
        raise TimeoutError(f"the slate is {slate.source}, {', '.join(slate.degraded)}; `make status`")
    return sum(one in own for one in slate.item_ids) / PLACES


def lines(column: str, found: dict[str, tuple[float, float]]) -> Sequence[str]:
    """Says what was measured."""
    before, after = (sum(each) / len(found) for each in zip(*found.values(), strict=True))
    times = f": {after / before:.1f} times" if before else ""
    treble = sum(later >= TIMES * was and later > 0 for was, later in found.values())
    return (
        f"{len(found)} categories of {column}, {EVENTS} events each",
        f"share of the first {PLACES} places: {before:.3f} before, {after:.3f} after{times}",
        f"at least {TIMES:.0f} times, and not 0, in {treble} of them",
    )


def main() -> int:
    """Measures and prints; 0, or 1 with one line that says what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--column", help="of the items (default: the first that affinities are made of)")
    chosen, settings = parser.parse_args(), load_settings()
    try:
        dataset = read_dataset(settings.bundle)
        column = chosen.column or column_of(dataset)
        with closing(redis.Redis(**settings.redis.connection_kwargs())) as client:
            found = shares(settings, categories(settings, client, column), dataset.target)
    except (BundleError, ShortlistError, TimeoutError, httpx.HTTPError, redis.RedisError) as error:
        print(error, file=sys.stderr)
        return 1
    if not found:
        print(f"no category of {column} is small enough to treble", file=sys.stderr)
        return 1
    print("\n".join(lines(column, found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
