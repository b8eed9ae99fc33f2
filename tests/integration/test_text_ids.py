"""Ids that are text, from three tables to answers: a small world of its own on real servers."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest
import yaml

from tests.builders.world import World, eventually, ids_of
from tests.integration.ranked import is_ranked, ranked
from tests.integration.test_page import Page

SIGNS = "{}:*|,'\"\\ /%?#&=<>\u05d0\U0001f600"
USERS = [f"reader {i}{SIGNS[i % len(SIGNS)]}@example.org" for i in range(60)]
ITEMS = [f"B{i:04}{SIGNS[i % len(SIGNS)]}" for i in range(40)]
GENRES = ["crime", "travel", "poetry"]
DECLARATION: dict[str, Any] = {
    "name": "texts",
    "users": {"user_id": {"role": "id", "dtype": "string"}},
    "items": {
        "item_id": {"role": "id", "dtype": "string"},
        "item_title": {"role": "display_name"},
        "item_genre": {"role": "categorical", "dtype": "string", "is_filterable": True},
    },
    "interactions": {
        "user_id": {"role": "id", "dtype": "string"},
        "item_id": {"role": "id", "dtype": "string"},
        "timestamp": {"role": "timestamp"},
        "is_read": {"role": "label"},
    },
}


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def log() -> list[tuple[str, str, str, int]]:
    """Makes 900 rows of user, item, instant and label: readers like a genre."""
    rng = np.random.default_rng(5)
    rows = []
    for hour in range(900):
        user, item = int(rng.integers(len(USERS))), int(rng.integers(len(ITEMS)))
        at = datetime(2025, 9, 1, tzinfo=UTC) + timedelta(hours=hour)
        is_read = int(rng.random() < (0.8 if user % 3 == item % 3 else 0.1))
        rows.append((USERS[user], ITEMS[item], at.isoformat(), is_read))
    return rows


LOG = log()


def write_tables(folder: Path) -> None:
    """Writes 60 readers, 40 books and the log as CSV."""
    folder.mkdir()
    write_csv(folder / "users.csv", ["user_id"], [[user] for user in USERS])
    titles = [[item, f"Book {i}", GENRES[i % 3]] for i, item in enumerate(ITEMS)]
    write_csv(folder / "items.csv", ["item_id", "item_title", "item_genre"], titles)
    write_csv(folder / "interactions.csv", ["user_id", "item_id", "timestamp", "is_read"], LOG)
    (folder / "dataset.yaml").write_text(yaml.safe_dump(DECLARATION, sort_keys=False))


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The world, served, with everyone's slate stored."""
    folder = tmp_path_factory.mktemp("texts")
    write_tables(folder / "tables")
    world = World.make(folder / "var")
    demo = ("-m", "deploy.local.demo", "--keep", "--force")
    done = world.run("dev", *demo, DATA=str(folder / "tables"), RANKER="dcn", ORDER_BY="ranker")
    try:
        assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
        batch = world.run("batch", "-m", "batch", "run")
        assert batch.returncode == 0, batch.stdout + batch.stderr
        yield world
    finally:
        world.down()


def test_the_ranker_that_the_settings_name_scores_in_triton_as_where_it_was_trained(texts: World) -> None:
    metrics = json.loads((texts.settings.bundle / "metrics.json").read_text())
    assert "DCN-v2" in metrics["sections"]["ranking"]
    assert is_ranked(texts)
    for of_user in ranked(texts, USERS[:4]):
        assert (of_user.answer["source"], of_user.answer["degraded"]) == ("ensemble", [])
        assert of_user.scores == pytest.approx(of_user.offline, abs=1e-5)
        assert max(of_user.scores) - min(of_user.scores) > 1e-3, "it tells items apart"
        assert of_user.of_slate == sorted(of_user.scores, reverse=True)[:5]


def seen(world: World, user: str) -> list[str]:
    answer = httpx.get(f"{world.url}/v1/users/{quote(user, safe='')}/seen?limit=200", trust_env=False)
    body: dict[str, Any] = answer.json()
    assert body["user_id"] == user
    return ids_of(body)


def in_batch(world: World, code: str) -> Any:
    """What a line of Python prints as JSON where Parquet can be read."""
    done = world.run("batch", "-c", f"import json, sys\nimport pyarrow.parquet as pq\n{code}")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_caller_asks_and_is_answered_in_text(texts: World) -> None:
    for user in USERS[: len(SIGNS)]:
        answer = texts.recommend(user, n=5, explain=True)
        assert (answer["user_id"], answer["source"]) == (user, "ensemble")
        assert "unknown_user" not in answer["degraded"]
        for item in answer["items"] + answer["explain"]["items"]:
            assert item["item_title"] == f"Book {ITEMS.index(item['item_id'])}"


def test_what_a_user_has_seen_is_named_and_not_answered(texts: World) -> None:
    for user in USERS[:5]:
        known = {item for who, item, *_ in LOG if who == user}
        assert set(seen(texts, user)) == known
        assert not known & set(ids_of(texts.recommend(user, n=40)))


def test_what_is_excluded_by_text_stays_away_and_filters_hold(texts: World) -> None:
    user = USERS[7]
    first = ids_of(texts.recommend(user, n=10))
    rest = ids_of(texts.recommend(user, n=10, exclude_item_ids=[*first[:3], "no such item"]))
    assert not set(first[:3]) & set(rest)
    poems = texts.recommend(user, n=5, filters={"item_genre": ["poetry"]})
    assert {ITEMS.index(item_id) % 3 for item_id in ids_of(poems)} == {2}


def test_stored_slates_are_of_texts_in_answers_and_in_files(texts: World) -> None:
    user = USERS[3]
    assert eventually(lambda: texts.recommend(user, source="batch")["source"] == "batch")
    stored = texts.recommend(user, n=5, source="batch")
    (run,) = (texts.var / "batch" / "texts").iterdir()
    rows = in_batch(texts, f"print(json.dumps(pq.read_table({str(run / 'slates')!r}).to_pylist()))")
    assert {row["user_id"] for row in rows} == set(USERS)
    assert {item_id for row in rows for item_id in row["item_ids"]} <= set(ITEMS)
    (its,) = (row for row in rows if row["user_id"] == user)
    assert ids_of(stored) == its["item_ids"][:5]


def test_some_users_slates_are_made_anew_by_a_list_of_texts(texts: World, tmp_path: Path) -> None:
    table, path = {"user_id": [USERS[3], USERS[4], "nobody"]}, str(tmp_path / "list.parquet")
    in_batch(texts, f"import pyarrow as pa\npq.write_table(pa.table({table!r}), {path!r})\nprint(0)")
    done = texts.run("batch", "-m", "batch", "run", "--users", path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 slates" in done.stdout


def test_a_number_is_refused_with_the_remedy(texts: World) -> None:
    answer = texts.post(user_id=7)
    assert answer.status_code == 422
    assert "user_id must be a string" in json.loads(answer.text)["detail"]


def test_the_page_takes_texts(texts: World, browser: Any) -> None:
    page = Page(browser, texts.url)
    user = next(user for user in USERS if "#" in user)
    page.open(f"?user={quote(user, safe='')}&n=5")
    assert f"5 items for user {user} in" in page.text("#status")
    assert len(page.all("#seen li")) == len(seen(texts, user)[:20])
    page.all("#samples button")[-1].click()
    page.until(lambda: page.is_done() and texts.manifest()["sample_user_ids"][-1] in page.text("#status"))
    assert page.problems() == []
