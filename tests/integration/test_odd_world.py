"""A world whose columns are called as people call them, and smaller than a slate: from files to answers."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.builders.world import World
from tests.integration.ranked import is_ranked, ranked

WEIGHTS = '{"is taken, or not": 1, "is_late": 0.5}'
WRITE = "import pathlib, sys, tests.builders.odd_world as odd; odd.write_odd(pathlib.Path(sys.argv[1]))"


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The odd world, served; 40 items are fewer than the candidates that are asked for."""
    folder = tmp_path_factory.mktemp("odd")
    world = World.make(folder / "var")
    assert world.run("training", "-c", WRITE, str(folder / "data")).returncode == 0
    try:
        demo = ("-m", "deploy.local.demo", "--keep")
        chosen = {"RANKER": "mmoe", "TASK_WEIGHTS": WEIGHTS, "ORDER_BY": "ranker", "TRAINER": "torchrec"}
        done = world.run("dev", *demo, DATA=str(folder / "data"), **chosen)
        assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
        yield world
    finally:
        world.down()


def test_the_weighted_sum_of_several_labels_is_what_triton_orders_by(odd: World) -> None:
    metrics = json.loads((odd.settings.bundle / "metrics.json").read_text())
    assert "MMoE" in metrics["sections"]["ranking"]
    assert is_ranked(odd)
    for of_user in ranked(odd, [0, 1, 2, 3]):
        assert (of_user.answer["source"], of_user.answer["degraded"]) == ("ensemble", [])
        assert of_user.scores == pytest.approx(of_user.offline, abs=1e-5)
        assert max(of_user.scores) - min(of_user.scores) > 1e-3, "it tells items apart"
        assert of_user.of_slate == sorted(of_user.scores, reverse=True)[:5]
        assert [item["score"] for item in of_user.answer["items"]] == pytest.approx(of_user.of_slate)


def test_a_bundle_of_the_other_trainer_is_served_as_any(odd: World) -> None:
    (facts,) = (odd.var / "trainings").glob("*/facts.json")
    assert json.loads(facts.read_text())["parameters"]["trainer"] == "torchrec"
    answer = odd.recommend(0, n=5, explain=True)
    assert (answer["source"], answer["degraded"]) == ("ensemble", [])
    nearest = [item["retrieval_score"] for item in answer["explain"]["items"]]
    assert len(set(nearest)) > 5, "its vectors tell items apart"


def test_a_slate_of_a_small_catalogue_is_short_and_says_so(odd: World) -> None:
    answer = odd.recommend(0, n=50)
    assert answer["source"] == "ensemble"
    assert "short" in answer["degraded"]
    items = [item["item_id"] for item in answer["items"]]
    assert len(items) == len(set(items)) < 40
    assert {34, 36, 38} <= set(items), "items that nobody has chosen yet are found"


def test_requests_filter_and_tell_by_the_columns_own_names(odd: World) -> None:
    everything = odd.recommend(0, n=50, context={"context_group by": 1})
    assert everything["items"][0]["item_name"].startswith("№ ")
    same = odd.recommend(0, n=50, filters={"item_año-ß": ["same"], "item_a/b": [3]})
    asked = {item["item_id"] for item in same["items"]}
    assert asked
    assert all(item % 4 == 3 or item % 11 == 0 for item in asked)
    pages = odd.recommend(1, n=50, filters={"item_page count": [310, 330]})
    assert {item["item_id"] for item in pages["items"]} <= {31, 33}
    assert odd.post(user_id=0, filters={"item_ano-ss": ["same"]}).status_code == 422


def test_new_items_of_the_readers_own_kind_come_before_the_others(odd: World) -> None:
    """They differ in their embeddings alone, which the ranker does not read: among candidates that it scores
    alike the order is the vectors'."""
    for user_id in (2, 3, 4, 5):
        answer = odd.recommend(user_id, n=50, filters={"item_select": [7]})
        kinds = [item["item_id"] % 2 for item in answer["items"]]
        assert kinds[:3] == [user_id % 2] * 3, (user_id, kinds)
