"""Reads KuaiRand-Pure: its official CSV files, or the parquet files of its last fortnight with histories.

Histories (`user_sequences_*`) hold, per user, the last 50 exposures before the log begins, the last 50 likes
and the last 50 long views, oldest first and without times. They become interactions without a timestamp.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from contract.dataset import DatasetError
from training.data.sources.adapter import Raw, read_declaration, read_table

NAME = "kuairand"
FOLDERS = ("kuairand-pure", "KuaiRand-Pure/data", "KuaiRand-Pure", "kuairand")
HOW_TO_GET = "download KuaiRand-Pure from https://kuairand.com and unpack it as KuaiRand-Pure/"

_DAY_OF_THE_LOG = "Asia/Shanghai"
_MOST_OF_A_SEQUENCE = 50
_RENAMED_USERS = {
    "is_live_streamer": "user_is_live_streamer",
    "is_video_author": "user_is_video_author",
    "follow_user_num_range": "user_follow_range",
    "fans_user_num_range": "user_fans_range",
    "friend_user_num_range": "user_friend_range",
    "register_days": "user_register_days",
}


def files(folder: Path) -> list[Path]:
    """Lists the files of the data set in a folder; empty where it is not there."""
    found = [p for p in folder.glob("*_pure*") if p.suffix in (".csv", ".parquet")]
    found += folder.glob("user_sequences_*.parquet")
    return found if any(p.name.startswith("log_standard_") for p in found) else []


def read(folder: Path) -> Raw:
    """Reads the three tables; exact duplicate log rows are dropped."""
    logs = sorted(p for p in files(folder) if p.name.startswith("log_standard_"))
    log = pd.concat([read_table(p) for p in logs]).drop_duplicates(ignore_index=True)
    sequences = sorted(folder.glob("user_sequences_*.parquet"))
    history = [_history(read_table(p)) for p in sequences]
    declaration = read_declaration(NAME)
    if not history:
        del declaration["history_until"]
    return Raw(
        declaration=declaration,
        users=_users(read_table(_one(folder, "user_features_pure"))),
        items=_items(read_table(_one(folder, "video_features_basic_pure"))),
        interactions=pd.concat([*history, _interactions(log)], ignore_index=True),
    )


def _one(folder: Path, stem: str) -> Path:
    for suffix in (".parquet", ".csv"):
        if (folder / f"{stem}{suffix}").is_file():
            return folder / f"{stem}{suffix}"
    raise DatasetError(f"{folder}/{stem}.csv: not found; {HOW_TO_GET}")


def _users(raw: pd.DataFrame) -> pd.DataFrame:
    prefixed = {name: f"user_{name}" for name in raw if not name.startswith("user_")}
    return raw.rename(columns=prefixed | _RENAMED_USERS)


def _items(raw: pd.DataFrame) -> pd.DataFrame:
    tags = raw["tag"].map(lambda tag: None if pd.isna(tag) else [int(t) for t in str(tag).split(",")])
    shown = raw["tag"].map(lambda tag: "no tag" if pd.isna(tag) else f"tag {tag}".replace(",", ", "))
    day = pd.Timestamp("2022-04-25") - pd.to_datetime(raw["upload_dt"])
    return pd.DataFrame(
        {
            "item_id": raw["video_id"],
            "item_name": "video " + raw["video_id"].astype(str) + " · " + shown,
            "item_tags": tags,
            "item_author_id": raw["author_id"],
            "item_music_id": raw["music_id"],
            "item_music_type": raw["music_type"].astype("Int64"),
            "item_video_type": raw["video_type"],
            "item_upload_type": raw["upload_type"],
            "item_duration_s": raw["video_duration"] / 1000,
            "item_age_days": day.dt.total_seconds() / 86_400,
            "item_width": raw["server_width"],
            "item_height": raw["server_height"],
        }
    )


def _interactions(log: pd.DataFrame) -> pd.DataFrame:
    """Times are the log's, but never before its `date`: that column is the clock of the official split."""
    day = pd.to_datetime(log["date"].astype(str)).dt.tz_localize(_DAY_OF_THE_LOG).dt.tz_convert("UTC")
    at = pd.to_datetime(log["time_ms"], unit="ms", utc=True)
    table = pd.DataFrame(
        {
            "user_id": log["user_id"],
            "item_id": log["video_id"],
            "timestamp": at.where(at > day, day),
            "is_click": log["is_click"].astype("Int64"),
            "is_long_view": log["long_view"].astype("Int64"),
            "is_like": log["is_like"].astype("Int64"),
            "context_tab": log["tab"].astype("Int64"),
            "context_hour": (log["hourmin"] // 100).astype("Int64"),
        }
    )
    return table.sort_values("timestamp", kind="stable", ignore_index=True)


def _history(sequences: pd.DataFrame) -> pd.DataFrame:
    """Takes the sequences, gives one row per interaction: first what is older than the last 50 exposures.

    A repeat right after itself is one exposure, as in the log, where nearly all such repeats are exact
    duplicates. Whether an exposure was a long view or a like is known, because the last 50 exposures hold at
    most 50 of either. Of an older item it is known only where the other sequence is whole. A long view was a
    click; the rest is not known.
    """
    watched = _explode(sequences, "watch_seq")
    again = (watched["item_id"] == watched["item_id"].shift()) & (
        watched["user_id"] == watched["user_id"].shift()
    )
    watched = watched[~again]
    long, liked = _explode(sequences, "long_watch_seq"), _explode(sequences, "like_seq")
    older = pd.concat([liked, long]).drop_duplicates()
    older = older[~np.isin(_pair(older), _pair(watched))]
    rows = pd.concat([older, watched]).sort_values("user_id", kind="stable", ignore_index=True)

    is_watched = np.isin(_pair(rows), _pair(watched))
    known = {
        column: is_watched | rows["user_id"].isin(_whole(sequences, column)).to_numpy()
        for column in ("long_watch_seq", "like_seq")
    }
    is_long, is_like = np.isin(_pair(rows), _pair(long)), np.isin(_pair(rows), _pair(liked))
    rows["timestamp"] = pd.Series(pd.NaT, index=rows.index, dtype="datetime64[ns, UTC]")
    rows["is_click"] = _label(is_long, is_long)
    rows["is_long_view"] = _label(is_long, is_long | known["long_watch_seq"])
    rows["is_like"] = _label(is_like, is_like | known["like_seq"])
    return rows


def _explode(sequences: pd.DataFrame, column: str) -> pd.DataFrame:
    rows = sequences[["user_id", column]].explode(column).dropna()
    return rows.rename(columns={column: "item_id"}).astype("int64").reset_index(drop=True)


def _pair(rows: pd.DataFrame) -> npt.NDArray[np.int64]:
    """One number per (user, item)."""
    return np.asarray(rows["user_id"] * 1_000_000 + rows["item_id"], dtype=np.int64)


def _whole(sequences: pd.DataFrame, column: str) -> pd.Series:
    """The users whose sequence was not cut off."""
    return sequences.loc[sequences[column].str.len() < _MOST_OF_A_SEQUENCE, "user_id"]


def _label(value: npt.NDArray[np.bool_], is_known: npt.NDArray[np.bool_]) -> pd.Series:
    return pd.Series(pd.array(value.astype("int64"), dtype="Int64")).where(is_known, pd.NA)
