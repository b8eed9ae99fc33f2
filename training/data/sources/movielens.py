"""Reads MovieLens in its official layouts: `ratings.csv` or parquet, 1M's `ratings.dat`, 100K's `u.data`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from training.data.prepared import default_split
from training.data.sources.adapter import Raw, read_declaration, read_table

NAME = "movielens"
FOLDERS = ("ml-latest-small", "ml-1m", "ml-100k", "ml-latest", "ml-32m", "ml-25m", "ml-20m", "movielens")
HOW_TO_GET = "download ml-latest-small.zip from https://grouplens.org/datasets/movielens/ and unpack it"

_LIKED_FROM = 4.0  # stars
_NO_GENRES = "(no genres listed)"
_RATINGS = ["user_id", "item_id", "rating", "timestamp"]
_LAYOUTS = {  # ratings, then what else is read
    "ratings.csv": ("movies.csv",),
    "ratings.parquet": ("movies.parquet",),
    "ratings.dat": ("movies.dat", "users.dat"),
    "u.data": ("u.item", "u.user", "u.genre"),
}


def files(folder: Path) -> list[Path]:
    """Lists the files of the first layout that is whole; empty where none is."""
    for ratings, others in _LAYOUTS.items():
        found = [folder / name for name in (ratings, *others)]
        if all(path.is_file() for path in found):
            return found
    return []


def read(folder: Path) -> Raw:
    """Reads the three tables; the declaration keeps the columns that the layout has."""
    ratings_file = files(folder)[0]
    readers: dict[str, Callable[[Path], tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]]] = {
        "ratings.csv": _latest,
        "ratings.parquet": _latest,
        "ratings.dat": _million,
        "u.data": _hundred_thousand,
    }
    ratings, items, users = readers[ratings_file.name](ratings_file)
    interactions = _interactions(ratings)
    declaration = read_declaration(NAME)
    declaration["users"] = {n: c for n, c in declaration["users"].items() if n in users}
    split = default_split(interactions["timestamp"])
    declaration["split"] = split.model_dump()
    declaration["as_of"] = split.validate_until
    return Raw(declaration, users, items, interactions)


def _latest(ratings_file: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    ratings = read_table(ratings_file).set_axis(_RATINGS, axis=1)
    movies = read_table(ratings_file.with_stem("movies")).set_axis(["item_id", "title", "genres"], axis=1)
    users = pd.DataFrame({"user_id": ratings["user_id"].unique()})
    return ratings, _items(movies["item_id"], movies["title"], movies["genres"].str.split("|")), users


def _million(ratings_file: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    def dat(name: str, columns: list[str]) -> pd.DataFrame:
        path = ratings_file.with_name(name)
        return pd.read_csv(path, sep="::", engine="python", names=columns, encoding="latin-1")

    ratings = dat("ratings.dat", _RATINGS)
    movies = dat("movies.dat", ["item_id", "title", "genres"])
    users = dat("users.dat", ["user_id", "user_gender", "user_age", "user_occupation", "zip"])
    return ratings, _items(movies["item_id"], movies["title"], movies["genres"].str.split("|")), _users(users)


def _hundred_thousand(ratings_file: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    def bar(name: str, columns: list[str]) -> pd.DataFrame:
        path = ratings_file.with_name(name)
        return pd.read_csv(path, sep="|", names=columns, encoding="latin-1", index_col=False)

    ratings = pd.read_csv(ratings_file, sep="\t", names=_RATINGS)
    genres = bar("u.genre", ["genre", "code"])["genre"].dropna().tolist()
    movies = bar("u.item", ["item_id", "title", "date", "video_date", "url", *genres])
    names = [
        [g for g, flag in zip(genres, row, strict=True) if flag == 1] for row in movies[genres].to_numpy()
    ]
    users = bar("u.user", ["user_id", "user_age", "user_gender", "user_occupation", "zip"])
    return (
        ratings,
        _items(movies["item_id"], movies["title"], pd.Series(names, index=movies.index)),
        _users(users),
    )


def _users(raw: pd.DataFrame) -> pd.DataFrame:
    area = raw["zip"].astype(str).str[0]
    return raw.assign(user_occupation=raw["user_occupation"].astype(str), user_zip_area=area).drop(
        columns="zip"
    )


def _items(item_id: pd.Series, title: pd.Series, genres: pd.Series) -> pd.DataFrame:
    known = genres.map(lambda names: None if _NO_GENRES in names or "unknown" in names else names)
    return pd.DataFrame(
        {
            "item_id": item_id.astype("int64"),
            "item_title": title,
            "item_genre_names": known.str.join(", "),
            "item_genres": known,
            "item_year": title.str.extract(r"\((\d{4})\)\s*$", expand=False).astype("float32"),
        }
    )


def _interactions(ratings: pd.DataFrame) -> pd.DataFrame:
    at = pd.to_datetime(ratings["timestamp"], unit="s", utc=True)
    table = pd.DataFrame(
        {
            "user_id": ratings["user_id"].astype("int64"),
            "item_id": ratings["item_id"].astype("int64"),
            "timestamp": at,
            "is_liked": (ratings["rating"] >= _LIKED_FROM).astype("int64"),
            "context_hour": at.dt.hour.astype("int64"),
        }
    )
    return table.sort_values("timestamp", kind="stable", ignore_index=True)
