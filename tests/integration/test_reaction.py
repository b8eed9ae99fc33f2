"""What a stranger does is in the next slate: all servers, events sent as callers send them."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
import redis

from contract.bundle import ITEM_IDS_FILE
from contract.keys import decode_tags, item_vector_key
from shortlist import Client
from tests.builders.world import World, eventually

FIRST_STRANGER = 770_000_000_000
EVENTS, PLACES = 5, 10
TIMES = 3.0
WITHIN_S = 10.0


@pytest.fixture(scope="module")
def categories(stack: World, redis_client: redis.Redis) -> dict[str, list[int]]:
    """Category -> its items, of those that can fill a slate besides what is clicked, as filters know them."""
    bundle = stack.manifest()["bundle"]
    found: dict[str, list[int]] = defaultdict(list)
    for item_id in np.load(stack.settings.bundle / ITEM_IDS_FILE).tolist():
        told = redis_client.hget(item_vector_key(bundle, item_id), "item_category")
        assert isinstance(told, bytes)
        for one in decode_tags(told):
            found[one].append(item_id)
    return {one: items for one, items in found.items() if len(items) >= EVENTS + PLACES}


def test_five_clicks_on_a_category_treble_its_share_of_a_strangers_slate(
    stack: World, categories: dict[str, list[int]], record_property: Any
) -> None:
    """Over the categories that a stranger's slate leaves room to treble."""
    before: dict[str, float] = {}
    after: dict[str, float] = {}
    with Client(stack.url, timeout_s=20.0) as client:
        for at, (name, items) in enumerate(sorted(categories.items())):
            stranger = FIRST_STRANGER + at

            def share(user: int = stranger, own: frozenset[int] = frozenset(items)) -> float:
                slate = client.recommend(user, n=PLACES)
                assert slate.source == "ensemble"
                return sum(one in own for one in slate.item_ids) / PLACES

            if (was := share()) > 1 / TIMES:
                continue
            clicked = items[:: len(items) // EVENTS][:EVENTS]
            client.send_events([{"user_id": stranger, "item_id": one, "type": "click"} for one in clicked])

            def is_known(user: int = stranger) -> bool:
                return len(client.user(user)["seen"]) == EVENTS

            assert eventually(is_known, WITHIN_S)
            before[name], after[name] = was, share()
    record_property("shares", {one: (before[one], after[one]) for one in before})
    assert before, "no category is small enough to treble"
    assert sum(after.values()) >= TIMES * sum(before.values()), (before, after)
    assert all(after.values()), (before, after)
