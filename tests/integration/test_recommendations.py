"""What a caller gets from the gateway, with real servers behind it."""

from __future__ import annotations

from itertools import pairwise

import httpx
import pytest
import redis
from tritonclient.grpc import InferenceServerClient

from contract.keys import decode_seen, seen_key
from contract.tensors import OPTIONAL_TENSORS, REQUEST, StageName
from tests.builders.world import World, ids_of

UNKNOWN_USER = 2**53 - 1


@pytest.fixture(scope="module")
def known_user(stack: World) -> int:
    return int(stack.manifest()["sample_user_ids"][0])


def seen(client: redis.Redis, user_id: int) -> set[int]:
    value = client.get(seen_key("synthetic", user_id))
    assert value is None or isinstance(value, bytes)
    return set(decode_seen(value).tolist())


def test_a_known_user_gets_ten_unseen_items_from_the_ensemble(
    stack: World, redis_client: redis.Redis, known_user: int
) -> None:
    answer = stack.recommend(known_user)
    assert answer["source"] == "ensemble"
    assert answer["degraded"] == []
    assert answer["bundle"] == stack.manifest()["bundle"]
    assert len(ids_of(answer)) == len(set(ids_of(answer))) == 10
    scores = [item["score"] for item in answer["items"]]
    assert scores == sorted(scores, reverse=True)
    assert all(0.0 <= score <= 1.0 for score in scores)
    assert seen(redis_client, known_user)
    assert not set(ids_of(answer)) & seen(redis_client, known_user)
    assert {stage.value for stage in StageName} <= set(answer["timings_ms"])


def test_the_answer_is_the_same_again(stack: World, known_user: int) -> None:
    first, again = stack.recommend(known_user, n=50), stack.recommend(known_user, n=50)
    assert ids_of(first) == ids_of(again)
    assert first["request_id"] != again["request_id"]


def test_two_users_get_different_slates(stack: World) -> None:
    slates = {tuple(ids_of(stack.recommend(user))) for user in stack.manifest()["sample_user_ids"][:8]}
    assert len(slates) > 4


def test_an_unknown_user_gets_an_answer_that_says_so(stack: World) -> None:
    answer = stack.recommend(UNKNOWN_USER)
    assert answer["source"] == "ensemble"
    assert "unknown_user" in answer["degraded"]
    assert len(ids_of(answer)) == 10


def test_a_user_without_a_history_gets_items(stack: World) -> None:
    script = (
        "import pandas, sys\n"
        "users, interactions = (pandas.read_parquet(f'{sys.argv[1]}/{n}.parquet')\n"
        "    for n in ('users', 'interactions'))\n"
        "print(*sorted(set(users.user_id) - set(interactions.user_id))[:3])"
    )
    folder = stack.var / "data" / stack.manifest()["dataset"]
    found = stack.run("training", "-c", script, str(folder))
    assert found.returncode == 0, found.stderr
    users = [int(user) for user in found.stdout.split()]
    if not users:  # every user of this world has a history: one whose keys are unknown to Redis has none
        users = [10**9]
    for user in users:
        answer = stack.recommend(user)
        assert answer["source"] == "ensemble"
        assert len(ids_of(answer)) == 10


def test_excluded_items_are_not_answered_and_their_place_is_filled(stack: World, known_user: int) -> None:
    excluded = ids_of(stack.recommend(known_user))[:5]
    answer = stack.recommend(known_user, exclude_item_ids=excluded)
    assert not set(ids_of(answer)) & set(excluded)
    assert len(ids_of(answer)) == 10


def test_a_filter_leaves_only_items_that_pass_it(stack: World, known_user: int) -> None:
    bundle = httpx.get(f"{stack.url}/v1/bundle", trust_env=False).json()
    assert bundle["filters"], "the synthetic world has a column to filter on"
    column = sorted(bundle["filters"])[0]
    slates = {}
    for value in range(1, 9):
        answer = stack.recommend(known_user, n=100, filters={column: [value]})
        slates[value] = set(ids_of(answer))
    found = [slate for slate in slates.values() if slate]
    assert len(found) > 1
    alone = slates[next(value for value, slate in slates.items() if slate)]
    both = [value for value, slate in slates.items() if slate][:2]
    together = set(ids_of(stack.recommend(known_user, n=100, filters={column: both})))
    assert together == slates[both[0]] | slates[both[1]] or len(together) == 100
    assert alone <= together or len(together) == 100


def test_an_unknown_filter_is_the_callers_fault(stack: World, known_user: int) -> None:
    answer = stack.post(user_id=known_user, filters={"no_such_column": [1]})
    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert "no_such_column" in answer.text


def test_more_items_than_survive_is_a_short_answer_that_says_so(stack: World, known_user: int) -> None:
    first = ids_of(stack.recommend(known_user, n=100))
    rest = ids_of(stack.recommend(known_user, n=100, exclude_item_ids=first))
    assert len(first) == 100
    assert 3 < len(rest) < 100, "the world has 200 items"
    answer = stack.recommend(known_user, n=100, exclude_item_ids=first + rest[3:])
    assert set(ids_of(answer)) == set(rest[:3])
    assert answer["degraded"] == ["short"]


def test_explain_tells_what_happened_to_every_retrieved_item(
    stack: World, redis_client: redis.Redis, known_user: int
) -> None:
    plain = stack.recommend(known_user)
    excluded = ids_of(plain)[0]
    answer = stack.recommend(known_user, explain=True, exclude_item_ids=[excluded])
    items = answer["explain"]["items"]
    by_id = {item["item_id"]: item for item in items}
    assert len(by_id) == len(items) > 10
    assert [item["retrieval_rank"] for item in items] == list(range(1, len(items) + 1))
    nearest = {
        one["rank"]: item["retrieval_score"]
        for item in items
        for one in item["found_by"]
        if one["source"] == "nearest" and one["rank"]
    }
    scores = [nearest[rank] for rank in sorted(nearest)]
    assert all(above >= below - 1e-6 for above, below in pairwise(scores))
    scores = [item["retrieval_score"] for item in items]
    low, high = stack.manifest()["score_range"]
    assert all(low - 1e-4 <= score <= high + 1e-4 for score in scores)
    assert by_id[excluded]["removed_by"] == "excluded"
    removed_as_seen = {item["item_id"] for item in items if item["removed_by"] == "seen"}
    assert removed_as_seen == seen(redis_client, known_user) & set(by_id)
    for rank, item_id in enumerate(ids_of(answer), start=1):
        assert by_id[item_id]["slate_rank"] == rank
        assert by_id[item_id]["removed_by"] is None
    counted = sum(1 for item in items if item["removed_by"])
    assert sum(answer["explain"]["removed"].values()) == counted
    sources = [source["name"] for source in stack.manifest()["sources"]]
    for item in items:
        assert {one["source"] for one in item["found_by"]} <= set(sources)
        assert any(one["rank"] is not None for one in item["found_by"]), "somebody gave it"


def test_the_ready_check_names_every_dependency(stack: World) -> None:
    answer = httpx.get(f"{stack.url}/readyz", timeout=10.0, trust_env=False)
    assert answer.status_code == 200, answer.text
    assert set(answer.json()["dependencies"]) == {"triton", "redis", "bundle", "warm_up"}


def test_triton_serves_the_chain_with_dynamic_batching(
    stack: World, triton_client: InferenceServerClient
) -> None:
    model = stack.manifest()["bundle"]
    assert triton_client.is_model_ready(model)
    config = triton_client.get_model_config(model, as_json=True)["config"]
    assert config["max_batch_size"] > 1
    assert "dynamic_batching" in config
    asked = {entry["name"] for entry in config["input"]}
    assert asked == {REQUEST, *(tensor.name for tensor in OPTIONAL_TENSORS)}


def test_the_metrics_count_what_was_answered(stack: World, known_user: int) -> None:
    def count() -> float:
        text = httpx.get(f"{stack.url}/metrics", trust_env=False).text
        lines = [line for line in text.splitlines() if line.startswith("shortlist_requests_total{")]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if 'source="ensemble"' in line)

    before = count()
    stack.recommend(known_user)
    assert count() == before + 1
