"""The whole chain on memory stores: what it answers, and what it does when something is missing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from contract import names
from contract.arrays import Floats, Ids
from contract.encoders import NULL_CODE
from contract.errors import ErrorCode, StageError
from contract.filters import Filters
from contract.slates import Degradation, Rule, degradation_mask, degradations
from contract.tensors import (
    ANSWER_TENSORS,
    EXCLUDE_WIDTHS,
    EXPLAIN_TENSORS,
    FILTER_WIDTHS,
    PAD_ID,
    StageName,
    bundle_id,
)
from ensemble.bundle import LoadedBundle
from ensemble.run.recommender import Recommender
from ensemble.run.warm_up import sample_batches
from ensemble.sources.nearest import NearestItems
from ensemble.stages.retrieve import RetrieveCandidates
from ensemble.stores.vectors import MemoryVectorIndex
from tests.builders.triton import NOW, WIDTH, World, make_recommender, make_request, slate

KNOWN = 101


def flags(answer: Any) -> list[Degradation]:
    return degradations(int(answer["degraded"][0, 0]))


def test_the_chain_is_the_contracts_stages_in_their_order(recommender: Recommender) -> None:
    assert recommender.stages == tuple(StageName)


def test_the_graph_writes_every_output_of_the_contract(recommender: Recommender) -> None:
    (answer,) = recommender.answer([make_request(KNOWN)])
    assert not isinstance(answer, StageError)
    for tensor in (*ANSWER_TENSORS, *EXPLAIN_TENSORS):
        array = answer[tensor.name]
        assert array.dtype == tensor.dtype, tensor.name
        assert array.shape[0] == 1
        assert tensor.width in (array.shape[1], -1), tensor.name


def test_every_row_says_which_bundle_answered(recommender: Recommender) -> None:
    one, other = recommender.answer([make_request(KNOWN), make_request(9_999)])
    assert not isinstance(one, StageError)
    assert not isinstance(other, StageError)
    for answer in (one, other):
        assert answer["bundle_id"].tolist() == [[bundle_id("tiny-1")]]
    assert bundle_id("tiny-1") == 0x41663CFC76C3725
    assert 0 <= bundle_id("tiny-2") < 2**63


def test_a_known_user_gets_the_best_unseen_available_items(recommender: Recommender, world: World) -> None:
    (answer,) = recommender.answer([make_request(KNOWN)])
    items = slate(answer)
    assert not isinstance(answer, StageError)
    assert len(items) == 5
    assert not set(items) & set(world.seen[KNOWN])
    unavailable = {
        key
        for (view, key), row in world.rows.items()
        if view == names.ITEM_CATALOG and row[names.IS_AVAILABLE] is False
    }
    assert not set(items) & unavailable
    assert flags(answer) == []
    scores = answer["item_scores"][0][:5]
    assert (np.diff(scores) <= 0).all()
    assert ((scores >= 0) & (scores <= 1)).all()


@pytest.mark.parametrize("user_id", [9_999, 100], ids=["nobody", "no feature row"])
def test_an_unknown_user_gets_a_full_slate_that_says_so(recommender: Recommender, user_id: int) -> None:
    (answer,) = recommender.answer([make_request(user_id)])
    assert len(slate(answer)) == 5
    assert flags(answer) == [Degradation.UNKNOWN_USER]


def test_all_unknown_users_get_the_same_slate(recommender: Recommender) -> None:
    one, two = recommender.answer([make_request(8_888), make_request(9_999)])
    assert slate(one) == slate(two)


def test_excluded_items_are_not_answered_and_the_rest_moves_up(world: World) -> None:
    recommender = make_recommender(world, k=len(world.item_ids))  # so that no other candidate comes in
    (before,) = recommender.answer([make_request(KNOWN, n=6)])
    first, *rest = slate(before)
    (after,) = recommender.answer([make_request(KNOWN, n=5, excluded=[first, 424242])])
    assert slate(after) == rest


def test_removed_by_names_the_rule(recommender: Recommender, world: World) -> None:
    (plain,) = recommender.answer([make_request(KNOWN)])
    excluded = slate(plain)[0]
    (answer,) = recommender.answer([make_request(KNOWN, excluded=[excluded])])
    assert not isinstance(answer, StageError)
    rules = list(Rule)
    reason = {
        i: rules[r - 1] if r else None
        for i, r in zip(answer["retrieved_ids"][0].tolist(), answer["removed_by"][0].tolist(), strict=True)
        if i != PAD_ID
    }
    assert reason[excluded] is Rule.EXCLUDED
    survivors = [i for i, rule in reason.items() if rule is None]
    assert survivors == [i for i in answer["candidate_ids"][0].tolist() if i != PAD_ID]
    assert len(survivors) == 10
    for item_id, rule in reason.items():
        if rule is Rule.SEEN:
            assert item_id in world.seen[KNOWN]
        if rule is Rule.UNAVAILABLE:
            assert world.rows[names.ITEM_CATALOG, item_id][names.IS_AVAILABLE] is False
    assert {Rule.SEEN, Rule.UNAVAILABLE, Rule.BEYOND_K} & set(reason.values())


def test_filters_narrow_the_slate(recommender: Recommender, world: World) -> None:
    (answer,) = recommender.answer([make_request(KNOWN, n=10, filters={"item_category": [2]})])
    items = slate(answer)
    assert items
    assert all(world.rows[names.ITEM_CATALOG, i]["item_category"] == 2 for i in items)


def test_fewer_survivors_than_n_say_short(recommender: Recommender) -> None:
    (answer,) = recommender.answer([make_request(KNOWN, n=100)])
    assert len(slate(answer)) == 10
    assert flags(answer) == [Degradation.SHORT]


def test_k_larger_than_the_catalogue_answers_what_there_is(world: World) -> None:
    recommender = make_recommender(world, k=500)
    (answer,) = recommender.answer([make_request(9_999, n=100)])
    rows = [world.rows.get((names.ITEM_CATALOG, i)) for i in world.item_ids]
    available = sum(row is not None and row.get(names.IS_AVAILABLE) is not False for row in rows)
    assert len(slate(answer)) == available
    assert flags(answer) == [Degradation.UNKNOWN_USER, Degradation.SHORT]


def test_an_empty_index_gives_an_empty_short_slate(recommender: Recommender) -> None:
    empty = MemoryVectorIndex(np.empty(0, dtype=np.int64), np.empty((0, WIDTH), dtype=np.float32))
    nearest_of(recommender).index = empty
    (answer,) = recommender.answer([make_request(KNOWN)])
    assert slate(answer) == []
    assert flags(answer) == [Degradation.SHORT]


def test_an_item_missing_in_the_store_has_null_features_and_is_not_available(
    recommender: Recommender, world: World
) -> None:
    missing = world.item_ids[0]
    (answer,) = recommender.answer([make_request(9_999, n=10)])
    table = recommender.stores.items.snapshot
    row = table.rows_of(np.array([missing]))[0]
    codes = recommender.stores.items.inputs.unpack(table.inputs, "candidate_")
    assert codes["item_category"][row] == NULL_CODE
    assert codes[names.ITEM_EVENT_COUNT][row] == 0, "null is the mean"
    assert not table.is_available[row]
    assert table.is_lacking[row]
    assert not isinstance(answer, StageError)
    deep = make_recommender(world, k=60)
    (all_of_them,) = deep.answer([make_request(9_999, n=100)])
    assert missing not in slate(all_of_them), "its row is gone"


def test_an_emptied_store_takes_no_item_away_and_the_answer_says_what_it_lacks(world: World) -> None:
    whole, emptied = make_recommender(world, k=60), make_recommender(replace(world, rows={}), k=60)
    (before,), (after,) = (one.answer([make_request(KNOWN, n=100)]) for one in (whole, emptied))
    assert Degradation.FEATURES not in flags(before)
    assert {Degradation.FEATURES, Degradation.UNKNOWN_USER} <= set(flags(after))
    assert set(slate(before)) <= set(slate(after))


def test_context_changes_the_scores(recommender: Recommender) -> None:
    sent, unsent = recommender.answer([make_request(KNOWN, surface=1), make_request(KNOWN)])
    assert not isinstance(sent, StageError)
    assert not isinstance(unsent, StageError)
    assert (sent["candidate_ids"] == unsent["candidate_ids"]).all()
    assert (sent["ranking_scores"] != unsent["ranking_scores"]).any()


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (make_request(KNOWN, n=0), "n must be from 1 to 100"),
        (make_request(KNOWN, n=101), "n must be from 1 to 100"),
        (make_request(PAD_ID), "user_id must be an id"),
        (
            make_request(KNOWN, filters={"item_colour": [1]}),
            "filters.item_colour: this bundle cannot filter on it",
        ),
        (make_request(KNOWN, filters={"item_category": []}), "filters.item_category: the list is empty"),
        (make_request(KNOWN, filters={"item_category": ["a"]}), "'a' is not of type int64"),
        (make_request(KNOWN, filters={"item_brand": [3]}), "3 is not of type string"),
    ],
    ids=["n 0", "n 101", "user", "column", "no values", "text", "number"],
)
def test_a_wrong_request_fails_alone_and_names_the_field(
    recommender: Recommender, request_: dict[str, Any], message: str
) -> None:
    before, wrong, after = recommender.answer([make_request(102), request_, make_request(103)])
    assert isinstance(wrong, StageError)
    assert wrong.code is ErrorCode.BAD_REQUEST
    assert message in wrong.message
    assert slate(before) == slate(recommender.answer([make_request(102)])[0])
    assert slate(after) == slate(recommender.answer([make_request(103)])[0])


def test_garbled_filters_fail_alone(recommender: Recommender) -> None:
    garbled = make_request(KNOWN)
    garbled["filters"] = np.full((1, 256), 255, dtype=np.uint8)
    wrong, good = recommender.answer([garbled, make_request(KNOWN)])
    assert isinstance(wrong, StageError)
    assert wrong.code is ErrorCode.BAD_REQUEST
    assert slate(good)


def test_a_request_whose_deadline_passed_is_not_run(recommender: Recommender) -> None:
    late = make_request(KNOWN, deadline_us=int(NOW.timestamp() * 1e6) - 1)
    error, answer = recommender.answer([late, make_request(KNOWN)])
    assert isinstance(error, StageError)
    assert error.code is ErrorCode.DEPENDENCY
    assert slate(answer)


def test_a_failing_store_fails_every_request_of_the_batch(recommender: Recommender) -> None:
    calls = []

    def fail(user_ids: Any) -> Any:
        calls.append(user_ids)
        raise RedisConnectionError("Connection refused")

    recommender.stores.features.read_users = fail  # type: ignore[method-assign]
    answers = recommender.answer([make_request(KNOWN), make_request(102)])
    assert [str(a) for a in answers] == [
        "dependency|lookup_user_features|ConnectionError: Connection refused"
    ] * 2
    assert len(calls) == 1, "an unreachable store is not asked again for each request"


def test_warming_up_asks_for_every_batch_size_and_width(recommender: Recommender) -> None:
    asked = []
    read = recommender.stores.features.read_users

    def counting(user_ids: Any) -> Any:
        asked.append(len(user_ids))
        return read(user_ids)

    recommender.stores.features.read_users = counting  # type: ignore[method-assign]
    assert recommender.warm_up()
    assert recommender.is_warm
    assert asked[:6] == [1, 2, 4, 8, 16, 32]
    batches = list(sample_batches(recommender.bundle, 32))
    widths = {(r["exclude_item_ids"].shape[1], r["filters"].shape[1]) for batch in batches for r in batch}
    assert widths == set(product(EXCLUDE_WIDTHS, FILTER_WIDTHS))
    users = {int(r["user_id"][0, 0]) for batch in batches for r in batch}
    assert users == set(recommender.bundle.manifest.sample_user_ids)


def test_without_redis_it_does_not_get_warm_and_can_be_asked_again(recommender: Recommender) -> None:
    read = recommender.stores.features.read_users

    def fail(user_ids: Any) -> Any:
        raise RedisConnectionError(f"Connection refused for {user_ids}")

    recommender.stores.features.read_users = fail  # type: ignore[method-assign]
    assert not recommender.warm_up()
    assert not recommender.is_warm
    recommender.stores.features.read_users = read  # type: ignore[method-assign]
    assert recommender.warm_up()


def test_our_own_failure_on_one_user_spares_the_others(recommender: Recommender) -> None:
    read = recommender.stores.features.read_users

    def fail_on_one(user_ids: Any) -> Any:
        if KNOWN in user_ids:
            raise ValueError("a row that cannot be read")
        return read(user_ids)

    recommender.stores.features.read_users = fail_on_one  # type: ignore[method-assign]
    wrong, good = recommender.answer([make_request(KNOWN), make_request(102)])
    assert isinstance(wrong, StageError)
    assert wrong.code is ErrorCode.CONTRACT
    assert slate(good)


def test_the_filter_fails_open_and_says_so(recommender: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise OSError("no availability")

    (healthy,) = recommender.answer([make_request(KNOWN)])
    monkeypatch.setattr("ensemble.stages.filter.is_among", broken)
    (answer,) = recommender.answer([make_request(KNOWN, n=10)])
    assert not isinstance(answer, StageError)
    assert not isinstance(healthy, StageError)
    assert flags(answer) == [Degradation.FILTER_CANDIDATES]
    assert (answer["candidate_ids"] == healthy["retrieved_ids"][:, :10]).all()


def test_users_are_read_once_per_batch(recommender: Recommender) -> None:
    calls = []
    read = recommender.stores.features.read_users

    def counting(user_ids: Any) -> Any:
        calls.append(len(user_ids))
        return read(user_ids)

    recommender.stores.features.read_users = counting  # type: ignore[method-assign]
    recommender.answer([make_request(101), make_request(102), make_request(103)])
    assert calls == [3]


def test_requests_of_different_widths_run_together(recommender: Recommender) -> None:
    wide = make_request(102, excluded=list(range(100_000, 100_100)))
    narrow = make_request(KNOWN)
    assert wide["exclude_item_ids"].shape != narrow["exclude_item_ids"].shape
    answers = recommender.answer([wide, narrow])
    assert [slate(a) for a in answers] == [slate(recommender.answer([r])[0]) for r in (wide, narrow)]


def test_a_ranker_that_gives_logits_is_our_bug(recommender: Recommender) -> None:
    score = recommender.chain[-2].op
    score.ranker = _Logits(score.ranker)
    (answer,) = recommender.answer([make_request(KNOWN)])
    assert isinstance(answer, StageError)
    assert answer.code is ErrorCode.CONTRACT
    assert "outside [0,1]" in answer.message


class _Logits:
    def __init__(self, ranker: Any) -> None:
        self.ranker = ranker

    def run(self, inputs: Any) -> Any:
        return self.ranker.run(inputs) * 20 - 10


def test_a_bundle_that_was_changed_is_refused(world: World, tmp_path: Any) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(world.folder, copy)
    (copy / "ranker.onnx").write_bytes(b"else")
    with pytest.raises(ValueError, match=r"ranker.onnx: its checksum differs"):
        LoadedBundle.open(copy)


def test_a_user_list_as_long_as_k_is_still_the_users(world: World) -> None:
    recents = world.dataset.activity.recent_items
    answers = []
    for k in (recents + 1, recents):
        (answer,) = make_recommender(world, k=k).answer([make_request(KNOWN, n=1)])
        assert not isinstance(answer, StageError)
        answers.append((answer["candidate_ids"][0, :recents], answer["ranking_scores"][0, :recents]))
    np.testing.assert_array_equal(answers[0][0], answers[1][0])
    np.testing.assert_allclose(answers[0][1], answers[1][1], atol=1e-6)


def test_quality_narrows_the_candidates_and_says_so(recommender: Recommender) -> None:
    full, half = recommender.answer([make_request(KNOWN), make_request(KNOWN, quality=0.6)])
    assert not isinstance(full, StageError)
    assert not isinstance(half, StageError)
    assert flags(full) == []
    assert flags(half) == [Degradation.FEWER_CANDIDATES]
    assert live(half) == live(full)[:6]
    assert len(slate(half)) == 5
    scores = dict(zip(live(full), full["ranking_scores"][0], strict=True))
    expected = [scores[item_id] for item_id in live(half)]
    np.testing.assert_allclose(half["ranking_scores"][0, :6], expected, atol=1e-6)
    assert (half["ranking_scores"][0, 6:] == 0).all()
    reasons = half["removed_by"][0][half["retrieved_ids"][0] != PAD_ID]
    assert 1 + list(Rule).index(Rule.BEYOND_K) in reasons or (reasons == 0).sum() == 6


def test_an_index_that_lacks_items_before_or_after_the_search_is_told(
    recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    (whole,) = recommender.answer([make_request(KNOWN)])
    assert not isinstance(whole, StageError)
    looks: list[bool] = []
    monkeypatch.setattr(MemoryVectorIndex, "is_whole", property(lambda _: looks.pop(0)))
    for before_and_after in ([False, True], [True, False], [False, False]):
        looks[:] = before_and_after
        both = recommender.answer([make_request(KNOWN), make_request(9_999)])
        for answer, others in zip(both, ([], [Degradation.UNKNOWN_USER]), strict=True):
            assert not isinstance(answer, StageError)
            assert flags(answer) == [*others, Degradation.PARTIAL_INDEX]
        assert slate(both[0]) == slate(whole)
    assert degradation_mask([Degradation.PARTIAL_INDEX]) == 1 << 7, "the bits of the others stay"


def test_quality_leaves_as_many_candidates_as_are_asked_for(recommender: Recommender) -> None:
    (answer,) = recommender.answer([make_request(KNOWN, n=9, quality=0.1)])
    assert len(slate(answer)) == 9
    assert flags(answer) == [Degradation.FEWER_CANDIDATES]


def test_without_quality_the_retrieval_alone_orders(recommender: Recommender) -> None:
    ranker = recommender.bundle.ranker
    calls = []
    run = ranker.run
    ranker.run = lambda inputs: calls.append(inputs) or run(inputs)  # type: ignore[method-assign, func-returns-value]
    with_ranker, without = recommender.answer([make_request(102, n=10), make_request(KNOWN, n=10, quality=0)])
    assert [len(next(iter(inputs.values()))) for inputs in calls] == [1], "only the other user is ranked"
    assert not isinstance(without, StageError)
    assert slate(without) == live(without)
    assert flags(without) == [Degradation.SCORE_CANDIDATES]
    assert (without["ranking_scores"] == 0).all()
    scores = without["item_scores"][0, :10]
    assert ((scores > 0) & (scores < 1)).all()
    assert (np.diff(scores) <= 0).all()
    assert slate(with_ranker) == slate(recommender.answer([make_request(102, n=10)])[0])


def test_a_ranker_that_fails_leaves_the_retrievals_order(recommender: Recommender) -> None:
    def fail(_: Any) -> Any:
        raise StageError(ErrorCode.DEPENDENCY, "ranker", "out of memory")

    recommender.bundle.ranker.run = fail  # type: ignore[method-assign, assignment]
    for answer in recommender.answer([make_request(KNOWN, n=10), make_request(102, n=10)]):
        assert not isinstance(answer, StageError)
        assert flags(answer) == [Degradation.SCORE_CANDIDATES]
        assert slate(answer) == live(answer)


def live(answer: Any) -> list[int]:
    """Lists the candidates in the retrieval's order."""
    return [int(i) for i in answer["candidate_ids"][0] if i != PAD_ID]


class Counting(MemoryVectorIndex):
    """Notes how many items each round asks for."""

    def __init__(self, index: MemoryVectorIndex) -> None:
        super().__init__(index.item_ids, index.vectors, index.held)
        self.rounds: list[list[int]] = []

    def search(
        self, vectors: Floats, counts: Sequence[int], filters: Sequence[Filters], width: int
    ) -> tuple[Ids, Floats]:
        self.rounds.append(list(counts))
        return super().search(vectors, counts, filters, width)


def nearest_of(recommender: Recommender) -> NearestItems:
    """Finds the chain's search for the nearest items."""
    (stage,) = [node.op for node in recommender.chain if isinstance(node.op, RetrieveCandidates)]
    (nearest,) = [one for one in stage.offers.current.panel.sources if isinstance(one, NearestItems)]
    return nearest


def counting(recommender: Recommender) -> Counting:
    """Puts an index that counts into the place of the chain's own."""
    nearest = nearest_of(recommender)
    assert isinstance(nearest.index, MemoryVectorIndex)
    nearest.index = index = Counting(nearest.index)
    return index


def test_a_slate_is_full_however_much_of_the_best_is_gone(world: World) -> None:
    recommender = make_recommender(world, k=10, max_overfetch=5)
    source = counting(recommender)
    ordinary = make_request(KNOWN, n=10)
    (whole,) = make_recommender(world, k=60, max_overfetch=0).answer([make_request(KNOWN, n=60)])
    assert not isinstance(whole, StageError)
    best = [i for i in whole["retrieved_ids"][0].tolist() if i not in world.seen[KNOWN]]
    greedy = make_request(KNOWN, n=10, excluded=best[:30])
    first, second = recommender.answer([greedy, ordinary])
    assert len(slate(first)) == len(slate(second)) == 10
    assert not set(slate(first)) & {*best[:30], *world.seen[KNOWN]}
    assert len(source.rounds) == 2
    assert len(source.rounds[1]) == 1, "only who lacks items is asked for again"
    assert not isinstance(first, StageError)
    found = first["retrieved_ids"][0]
    survivors = found[first["removed_by"][0] == 0]
    is_available = recommender.stores.items.snapshot.is_available
    rows = recommender.stores.items.snapshot.rows_of(np.array(best[30:]))
    assert survivors[survivors != PAD_ID].tolist() == np.array(best[30:])[is_available[rows]][:10].tolist()
    (alone,) = recommender.answer([greedy])
    assert slate(alone) == slate(first)


def test_what_is_not_available_is_made_up_for(world: World) -> None:
    recommender = make_recommender(world, k=10, max_overfetch=0)
    snapshot = recommender.stores.items.snapshot
    (before,) = recommender.answer([make_request(9_999, n=10)])
    gone = slate(before)[:8]
    is_available = snapshot.is_available.copy()
    is_available[snapshot.rows_of(np.array(gone))] = False
    recommender.stores.items._snapshot = replace(snapshot, is_available=is_available)
    (after,) = recommender.answer([make_request(9_999, n=10)])
    assert len(slate(after)) == 10
    assert not set(slate(after)) & set(gone)
    assert Degradation.SHORT not in flags(after)


def test_short_is_told_only_where_the_catalogue_has_no_more(world: World) -> None:
    recommender = make_recommender(world, k=60, max_overfetch=0)
    is_available = recommender.stores.items.snapshot.is_available
    left = int(is_available.sum()) - len(world.seen[KNOWN])
    (answer,) = recommender.answer([make_request(KNOWN, n=60)])
    assert left <= len(slate(answer)) < 60
    assert Degradation.SHORT in flags(answer)


def test_an_ordinary_request_asks_its_sources_once(world: World) -> None:
    recommender = make_recommender(world, k=10, max_overfetch=32)
    snapshot = recommender.stores.items.snapshot
    everything = np.ones_like(snapshot.is_available)
    everything[-1] = False
    recommender.stores.items._snapshot = replace(snapshot, is_available=everything)
    source = counting(recommender)
    recommender.answer([make_request(KNOWN, n=10), make_request(102, n=3, filters={"item_category": [77]})])
    assert len(source.rounds) == 1


def test_who_has_no_time_for_a_second_round_goes_without(world: World) -> None:
    recommender = make_recommender(world, k=10, max_overfetch=5)
    recommender.now_s = time.time
    source = counting(recommender)
    best = [i for i in world.item_ids if i not in world.seen[KNOWN]][:40]
    soon = int((time.time() + 60) * 1e6)
    make_request_at = partial(make_request, KNOWN, n=10, excluded=best)
    recommender.answer([make_request_at(deadline_us=soon)])
    assert len(source.rounds) == 2

    source.rounds.clear()
    slow = source.search

    def take_a_while(vectors: Floats, *asked: Any) -> tuple[Ids, Floats]:
        time.sleep(0.2)
        return slow(vectors, *asked)

    source.search = take_a_while  # type: ignore[method-assign, assignment]
    (answer,) = recommender.answer([make_request_at(deadline_us=int((time.time() + 0.7) * 1e6))])
    assert len(source.rounds) == 1
    assert not isinstance(answer, StageError)
