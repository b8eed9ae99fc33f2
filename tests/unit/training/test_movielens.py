from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tests.builders.datasets import quiet
from training.data.sources import catalog, movielens

RATINGS = [
    (1 + i % 12, 1 + (i * 5 + i // 12) % 11, 1 + (i * 3) % 5, 1_000_000_000 + i * 3_600) for i in range(132)
]
TITLES = {i: f"Film {i}, The ({1980 + i})" for i in range(1, 12)}
GENRES = {i: ["Comedy", "Drama"][: i % 3] for i in range(1, 12)}


def write_latest(folder: Path) -> Path:
    folder.mkdir()
    pd.DataFrame(RATINGS, columns=["userId", "movieId", "rating", "timestamp"]).to_csv(
        folder / "ratings.csv", index=False
    )
    genres = ["|".join(GENRES[i]) or "(no genres listed)" for i in TITLES]
    movies = pd.DataFrame({"movieId": list(TITLES), "title": list(TITLES.values()), "genres": genres})
    movies.to_csv(folder / "movies.csv", index=False)
    return folder


def write_parquet(folder: Path) -> Path:
    write_latest(folder)
    for name in ("ratings", "movies"):
        pd.read_csv(folder / f"{name}.csv").to_parquet(folder / f"{name}.parquet")
        (folder / f"{name}.csv").unlink()
    return folder


def write_million(folder: Path) -> Path:
    folder.mkdir()
    (folder / "ratings.dat").write_text("".join(f"{u}::{i}::{r}::{t}\n" for u, i, r, t in RATINGS))
    movies = "".join(f"{i}::{title}::{'|'.join(GENRES[i]) or 'unknown'}\n" for i, title in TITLES.items())
    (folder / "movies.dat").write_text(movies, encoding="latin-1")
    (folder / "users.dat").write_text("".join(f"{u}::F::25::4::94{u:03}\n" for u in range(1, 13)))
    return folder


def write_hundred_thousand(folder: Path) -> Path:
    folder.mkdir()
    (folder / "u.data").write_text("".join(f"{u}\t{i}\t{r}\t{t}\n" for u, i, r, t in RATINGS))
    (folder / "u.genre").write_text("unknown|0\nComedy|1\nDrama|2\n\n")
    flags = {i: [int(not GENRES[i]), int("Comedy" in GENRES[i]), int("Drama" in GENRES[i])] for i in TITLES}
    lines = [
        f"{i}|{title}|01-Jan-1990||http://x|{'|'.join(map(str, flags[i]))}\n" for i, title in TITLES.items()
    ]
    (folder / "u.item").write_text("".join(lines), encoding="latin-1")
    (folder / "u.user").write_text("".join(f"{u}|25|F|writer|94{u:03}\n" for u in range(1, 13)))
    return folder


LAYOUTS = {
    "ml-latest-small": write_latest,
    "movielens": write_parquet,
    "ml-1m": write_million,
    "ml-100k": write_hundred_thousand,
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_official_layout_gives_the_same_ratings_and_films(name: str, tmp_path: Path) -> None:
    LAYOUTS[name](tmp_path / name)
    prepared = catalog.prepare("movielens", tmp_path, tmp_path / "var", say=quiet)
    rows, items = prepared.interactions, prepared.items.set_index("item_id")
    assert len(rows) == len(RATINGS)
    assert rows["is_liked"].sum() == sum(rating >= 4 for _, _, rating, _ in RATINGS)
    assert rows["timestamp"].min() == pd.Timestamp(RATINGS[0][3], unit="s", tz="UTC")
    assert items.loc[5, "item_title"] == "Film 5, The (1985)"
    assert items.loc[5, "item_year"] == 1985
    assert list(items.loc[5, "item_genres"]) == ["Comedy", "Drama"]
    assert items.loc[5, "item_genre_names"] == "Comedy, Drama"
    assert items.loc[3, "item_genres"] is None


def test_user_columns_are_those_of_the_layout(tmp_path: Path) -> None:
    assert list(movielens.read(write_latest(tmp_path / "small")).declaration["users"]) == ["user_id"]
    million = movielens.read(write_million(tmp_path / "million"))
    assert {"user_gender", "user_age", "user_occupation", "user_zip_area"} <= set(
        million.declaration["users"]
    )
    assert million.users["user_zip_area"].unique().tolist() == ["9"]


def test_the_folder_of_a_download_may_be_named(tmp_path: Path) -> None:
    for name in ("ml-latest-small", "ml-1m"):
        LAYOUTS[name](tmp_path / name)
    assert catalog.find("movielens", tmp_path, quiet).folder == tmp_path / "ml-latest-small"
    found = catalog.find(str(tmp_path / "ml-1m"), tmp_path, quiet)
    assert (found.name, found.folder) == ("movielens", tmp_path / "ml-1m")


def test_half_a_layout_is_not_one(tmp_path: Path) -> None:
    folder = write_million(tmp_path / "ml-1m")
    (folder / "users.dat").unlink()
    assert movielens.files(folder) == []
