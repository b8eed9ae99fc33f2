"""What a stranger does is in the next slate: all servers, events sent as callers send them."""

from __future__ import annotations

from typing import Any

import redis

from bench.reaction import TIMES, categories, column_of, shares
from contract.bundle import read_dataset
from tests.builders.world import World


def test_five_clicks_on_a_category_treble_its_share_of_a_strangers_slate(
    stack: World, redis_client: redis.Redis, record_property: Any
) -> None:
    """Over the categories that a stranger's slate leaves room to treble."""
    dataset = read_dataset(stack.settings.bundle)
    column = column_of(dataset)
    assert column == "item_category"
    found = shares(stack.settings, categories(stack.settings, redis_client, column), dataset.target)
    record_property("shares", found)
    assert found, "no category is small enough to treble"
    before, after = map(sum, zip(*found.values(), strict=True))
    assert after >= TIMES * before, found
    assert all(later for _, later in found.values()), found
