"""The routing record: who is in which arm, and what a change of it keeps."""

from __future__ import annotations

from collections import Counter

import pytest

from contract.routing import CHAMPION, Routing, RoutingError, Written
from contract.tensors import PAD_ID

ONE = Routing(champion="one")
USERS = range(20_000)


def arms(routing: Routing) -> list[str]:
    return [routing.arm_of(user) for user in USERS]


def test_shares_are_kept_and_a_user_stays_in_one_arm() -> None:
    routing = ONE.split("two", 0.2, "").split("three", 0.1, "")
    found = Counter(arms(routing))
    assert found["two"] / len(USERS) == pytest.approx(0.2, abs=0.01)
    assert found["three"] / len(USERS) == pytest.approx(0.1, abs=0.01)
    assert arms(routing) == arms(Routing.decode(routing.encode()))


def test_a_greater_share_takes_users_in_and_none_out_and_another_experiment_divides_anew() -> None:
    small = ONE.split("two", 0.2, "")
    large = small.split("two", 0.4, "")
    assert all(now == "two" for before, now in zip(arms(small), arms(large), strict=True) if before == "two")
    other = small.model_copy(update={"experiment": "another"})
    both = sum(a == b == "two" for a, b in zip(arms(small), arms(other), strict=True))
    assert both / len(USERS) == pytest.approx(0.04, abs=0.01)


def test_nobody_and_everybody_without_a_split_is_the_champions() -> None:
    assert set(arms(ONE)) == {CHAMPION}
    assert ONE.split("two", 0.99, "").arm_of(PAD_ID) == CHAMPION


def test_a_promoted_bundle_leaves_its_arm_and_the_former_champion_is_kept() -> None:
    routing = ONE.split("two", 0.2, "").shadowed("three", "").promoted("two", "better")
    assert (routing.champion, routing.arms, routing.former, routing.why) == ("two", (), "one", "better")
    assert routing.bundles == ("two", "three", "one")
    assert routing.promoted("three", "").shadow is None
    back = routing.promoted("one", "worse")
    assert (back.champion, back.former) == ("one", "two")


def test_a_share_of_nothing_ends_an_arm() -> None:
    routing = ONE.split("two", 0.2, "").split("two", 0, "")
    assert (routing.arms, routing.experiment) == ((), "")


def test_a_split_of_the_former_champion_or_of_the_shadow_is_one_bundle() -> None:
    routing = ONE.promoted("two", "").shadowed("one", "").split("one", 0.5, "")
    assert (routing.bundles, routing.shadow) == (("two", "one"), None)


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(RoutingError, match=r"SHARE=.*: must be at least 0 and below 1"):
        ONE.split("two", share, "")


def test_what_leaves_the_champion_nobody_or_asks_it_twice_is_refused() -> None:
    with pytest.raises(RoutingError, match="must leave users to the champion"):
        ONE.split("two", 0.6, "").split("three", 0.4, "")
    with pytest.raises(RoutingError, match="is the champion"):
        ONE.split("one", 0.1, "")
    with pytest.raises(RoutingError, match="answers users already"):
        ONE.shadowed("one", "")


def test_where_there_is_no_record_the_link_answers_and_what_is_no_record_is_told() -> None:
    assert Written.read(None, "one") == Written(ONE)
    text = ONE.split("two", 0.2, "").encode()
    assert Written.read(text.encode(), "x").text == text
    for wrong in (b"", b"one", b"[]", b'{"champion": "one", "arms": [{"bundle": "one", "share": 0.1}]}'):
        with pytest.raises(RoutingError, match="not a routing record"):
            Written.read(wrong, "one")
