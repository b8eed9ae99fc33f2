"""What a request may bring along: an item that others are to be like, and features of the user."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from contract import names
from contract.errors import ErrorCode, StageError
from contract.slates import Degradation, Rule, degradations
from contract.tensors import MAX_N, PAD_ID
from ensemble.bundle import LoadedBundle
from ensemble.run.recommender import Recommender
from tests.builders.triton import World, make_recommender, make_request, slate

KNOWN, NEW = 101, 9_999
SENT = {
    "user_age": 3,
    "user_region": "north",
    "user_tags": [1, 2],
    names.USER_RECENT_ITEM_IDS: [13, 16, 19],
    names.USER_RECENT_POSITIVE_ITEM_IDS: [16],
    names.USER_EVENT_COUNT: 3,
    "user_is_click_rate": 0.25,
}


def flags(answer: Any) -> list[Degradation]:
    return degradations(int(answer["degraded"][0, 0]))


def answer_to(recommender: Recommender, **request: Any) -> Any:
    (answer,) = recommender.answer([make_request(**request)])
    assert not isinstance(answer, StageError), answer
    return answer


def complaint(recommender: Recommender, **request: Any) -> StageError:
    (answer,) = recommender.answer([make_request(**request)])
    assert isinstance(answer, StageError)
    return answer


def cosines(world: World, item_id: int) -> dict[int, float]:
    bundle = LoadedBundle.open(world.folder)
    vectors = bundle.item_vectors[:, :-1].astype(np.float64)
    of_item = vectors[bundle.item_ids.tolist().index(item_id)]
    return dict(zip(bundle.item_ids.tolist(), (vectors @ of_item).tolist(), strict=True))


def test_items_like_another_are_the_nearest_by_cosine(world: World) -> None:
    recommender = make_recommender(world, k=60, max_overfetch=0)
    answer = answer_to(recommender, user_id=PAD_ID, like=40, n=10, excluded=[40])
    score = cosines(world, 40)
    passing = [
        i for i, rule in zip(answer["retrieved_ids"][0], answer["removed_by"][0], strict=True) if rule == 0
    ]
    assert slate(answer) == sorted(passing, key=lambda i: -score[i])[:10]
    assert 40 not in slate(answer)
    assert answer["retrieved_ids"][0, 0] == 40
    assert answer["item_scores"][0, :10] == pytest.approx([score[i] for i in slate(answer)], abs=1e-6)
    assert flags(answer) == []


def test_what_the_user_has_seen_is_not_among_items_like_another(world: World) -> None:
    recommender = make_recommender(world, k=60, max_overfetch=0)
    answer = answer_to(recommender, user_id=KNOWN, like=40, n=50)
    assert not set(slate(answer)) & set(world.seen[KNOWN])
    rules = {list(Rule)[rule - 1] for rule in answer["removed_by"][0] if rule}
    assert Rule.SEEN in rules
    anyone = answer_to(recommender, user_id=PAD_ID, like=40, n=50)
    assert set(slate(anyone)) & set(world.seen[KNOWN])


def test_filters_and_availability_hold_for_items_like_another(world: World) -> None:
    recommender = make_recommender(world)
    answer = answer_to(recommender, user_id=PAD_ID, like=40, n=5, filters={"item_category": [1]})
    assert slate(answer)
    assert {world.rows[names.ITEM_CATALOG, i]["item_category"] for i in slate(answer)} == {1}
    gone = {
        key
        for (view, key), row in world.rows.items()
        if view == names.ITEM_CATALOG and row[names.IS_AVAILABLE] is False
    }
    assert not set(slate(answer_to(recommender, user_id=PAD_ID, like=40, n=MAX_N))) & gone


def test_an_item_that_the_bundle_does_not_know_gets_what_most_people_like(world: World) -> None:
    answer = answer_to(make_recommender(world), user_id=PAD_ID, like=41, n=5)
    bundle = LoadedBundle.open(world.folder)
    prior = dict(zip(bundle.item_ids.tolist(), bundle.item_vectors[:, -1].tolist(), strict=True))
    assert flags(answer) == [Degradation.UNKNOWN_ITEM]
    assert len(slate(answer)) == 5
    assert answer["retrieved_ids"][0, 0] == max(prior, key=lambda i: prior[i])


def test_both_kinds_share_a_batch_and_neither_changes_the_other(world: World) -> None:
    recommender = make_recommender(world)
    asked = [
        make_request(KNOWN),
        make_request(PAD_ID, like=40),
        make_request(NEW, features=SENT),
        make_request(NEW),
    ]
    together = recommender.answer(asked)
    for request, answer in zip(asked, together, strict=True):
        (alone,) = recommender.answer([request])
        assert slate(answer) == slate(alone)
        assert flags(answer) == flags(alone)


def test_features_of_the_request_give_what_the_same_row_stored_gives(world: World) -> None:
    stored = {name: value for name, value in SENT.items() if name in world.dataset.user_profile}
    world.rows[names.USER_PROFILE, NEW] = stored
    world.rows[names.USER_ACTIVITY, NEW] = {n: v for n, v in SENT.items() if n not in stored}
    world.seen[NEW] = (13, 16, 19)
    of_store = answer_to(make_recommender(world), user_id=NEW, n=5)
    del world.rows[names.USER_PROFILE, NEW], world.rows[names.USER_ACTIVITY, NEW], world.seen[NEW]
    given = answer_to(make_recommender(world), user_id=NEW, n=5, features=SENT)
    assert slate(given) == slate(of_store)
    assert np.array_equal(given["item_scores"], of_store["item_scores"])
    assert flags(given) == []
    assert slate(given) != slate(answer_to(make_recommender(world), user_id=NEW, n=5))


def test_what_the_request_leaves_out_is_said_and_null(world: World) -> None:
    recommender = make_recommender(world)
    some = {names.USER_RECENT_ITEM_IDS: [13, 16]}
    answer = answer_to(recommender, user_id=KNOWN, features=some)
    assert flags(answer) == [Degradation.USER_FEATURES]
    assert not set(slate(answer)) & {13, 16, *world.seen[KNOWN]}
    other = answer_to(recommender, user_id=KNOWN, features=dict.fromkeys(SENT) | some)
    assert flags(other) == []
    assert np.array_equal(other["item_scores"], answer["item_scores"])


def test_nobody_with_features_is_as_an_unknown_id(world: World) -> None:
    recommender = make_recommender(world)
    nobody = answer_to(recommender, user_id=PAD_ID, n=10, features=SENT)
    unknown = answer_to(recommender, user_id=NEW, n=10, features=SENT)
    assert np.array_equal(nobody["item_scores"], unknown["item_scores"])


def test_a_number_longer_than_64_bits_is_a_float(world: World) -> None:
    long, short = ({"user_is_click_rate": value} for value in (-(10**38), -1e38))
    answers = [answer_to(make_recommender(world), user_id=NEW, features=one) for one in (long, short)]
    assert np.array_equal(answers[0]["item_scores"], answers[1]["item_scores"])


def test_nobody_without_either_is_refused(world: World) -> None:
    error = complaint(make_recommender(world), user_id=PAD_ID)
    assert error.code is ErrorCode.BAD_REQUEST
    assert "user_id" in error.message


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"user_shoe_size": 44},
            "user_features.user_shoe_size: is no feature of this bundle's users: use one",
        ),
        ({"user_age": "3"}, "user_features.user_age: must hold int64 values: '3'"),
        ({"user_age": [3]}, "user_features.user_age: must be one value of dtype int64"),
        ({"user_tags": 3}, "user_features.user_tags: must be a list of dtype int64"),
        ({"user_tags": [3, None]}, "user_features.user_tags: must hold int64 values: None"),
        ({"user_tags": [True]}, "user_features.user_tags: must hold int64 values: True"),
        ({"user_is_click_rate": 1e39}, "user_features.user_is_click_rate: must hold float32 values"),
        ({"user_is_click_rate": float("nan")}, "user_features.user_is_click_rate: must hold float32 values"),
        ({"user_region": ""}, "user_features.user_region: must hold string values"),
        ({"user_region": "\ud800"}, "user_features.user_region: must hold string values"),
        ({"user_age": -(2**63)}, "user_features.user_age: must hold int64 values"),
    ],
)
def test_a_wrong_feature_is_named(world: World, given: dict[str, Any], message: str) -> None:
    recommender = make_recommender(world)
    wrong, right = recommender.answer([make_request(KNOWN, features=given), make_request(KNOWN)])
    assert isinstance(wrong, StageError)
    assert wrong.code is ErrorCode.BAD_REQUEST
    assert wrong.message.startswith(message)
    assert not isinstance(right, StageError)


def test_features_longer_than_the_widest_tensor_are_refused(world: World) -> None:
    with pytest.raises(StageError, match="user_features is too long"):
        make_request(KNOWN, features={"user_tags": [10**17] * 1000})
    del world
