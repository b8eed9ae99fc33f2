"""Rules of the order, through the gateway and a real Triton."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from contract.keys import decode_tags, item_vector_key
from tests.builders.world import World, ids_of


@pytest.fixture(scope="module")
def user(stack: World) -> int:
    return int(stack.manifest()["sample_user_ids"][1])


def test_pins_and_burials_travel_to_triton_and_are_explained(stack: World, user: int) -> None:
    plain = stack.recommend(user, n=10, explain=True)
    assert plain["explain"]["moves"] == []
    last = ids_of(plain)[-1]
    rules = {"pins": [{"item_id": last, "place": 2}], "diversity": 0.3}
    answer = stack.recommend(user, n=10, rules=rules, explain=True)
    assert answer["source"] == "ensemble"
    assert ids_of(answer)[1] == last
    assert len(set(ids_of(answer))) == 10
    moves = {(one["item_id"], one["rule"]): one for one in answer["explain"]["moves"]}
    assert (moves[last, "pin"]["from_place"], moves[last, "pin"]["to_place"]) == (10, 2)
    assert any(rule == "diversity" for _, rule in moves)


def test_a_cap_holds_within_a_page_and_over_the_seam(stack: World, redis_client: Any) -> None:
    manifest = stack.manifest()
    column = next(iter(manifest["filters"]))

    def repeats(item_ids: list[int]) -> list[tuple[int, int]]:
        """The neighbours that share a value."""
        keys = [item_vector_key(manifest["bundle"], item_id) for item_id in item_ids]
        held = [decode_tags(redis_client.hget(key, column)) for key in keys]
        pairs = zip(pairwise(item_ids), pairwise(held), strict=True)
        return [pair for pair, (one, next_one) in pairs if one & next_one]

    user = next(one for one in manifest["sample_user_ids"] if repeats(ids_of(stack.recommend(one, n=6))))
    rules = {"caps": [{"column": column, "most": 1, "window": 2}]}
    whole = stack.recommend(user, n=6, rules=rules)
    first = stack.recommend(user, n=3, rules=rules)
    second = stack.recommend(user, n=3, rules=rules, after=first["next"])
    assert ids_of(first) == ids_of(whole)[:3]
    assert not set(ids_of(first)) & set(ids_of(second))
    assert len(ids_of(second)) == 3
    assert "caps" not in {*whole["degraded"], *first["degraded"], *second["degraded"]}
    assert repeats(ids_of(whole)) == []
    assert repeats(ids_of(first) + ids_of(second)) == []
