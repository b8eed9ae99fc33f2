from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest

from contract import names
from tests.builders.datasets import quiet
from training.data.sources import catalog, kuairand

LOG_COLUMNS = ["user_id", "video_id", "date", "hourmin", "time_ms", "is_click", "is_like", "long_view", "tab"]


def milliseconds(instant: str) -> int:
    return int(pd.Timestamp(instant).timestamp() * 1000)


def log() -> pd.DataFrame:
    rows = [
        (1, 12, 20220425, 905, milliseconds("2022-04-25T09:05:10+08:00"), 1, 0, 1, 4),
        (1, 12, 20220425, 905, milliseconds("2022-04-25T09:05:10+08:00"), 1, 0, 1, 4),  # an exact duplicate
        (0, 11, 20220426, 0, milliseconds("2022-04-25T23:10:00+08:00"), 0, 0, 0, 1),  # shown before its date
    ]
    return pd.DataFrame(rows, columns=LOG_COLUMNS)


def write_raw(folder: Path, suffix: str) -> Path:
    folder.mkdir()
    users = pd.DataFrame({"user_id": [0, 1], "user_active_degree": ["full_active", "UNKNOWN"]})
    for column in ("is_live_streamer", "is_video_author", *(f"onehot_feat{i}" for i in range(18))):
        users[column] = 1
    for column in ("follow_user_num_range", "fans_user_num_range", "friend_user_num_range"):
        users[column] = "(0,10]"
    users["register_days"] = [10, 20]
    videos = pd.DataFrame(
        {
            "video_id": [10, 11, 12, 13, 14],
            "author_id": [5, 5, 6, 7, 7],
            "video_type": "NORMAL",
            "upload_dt": "2022-04-10",
            "upload_type": "Web",
            "video_duration": [87_433.0, None, 5_000.0, 5_000.0, 5_000.0],
            "server_width": 720.0,
            "server_height": 1280.0,
            "music_id": [1, 2, 3, 4, 5],
            "music_type": [9.0, None, 9.0, 9.0, 9.0],
            "tag": ["39,2", None, "1", "2", "1"],
        }
    )
    tables = {
        "log_standard_4_22_to_5_08_pure": log(),
        "user_features_pure": users,
        "video_features_basic_pure": videos,
    }
    for name, frame in tables.items():
        if suffix == ".csv":
            frame.to_csv(folder / f"{name}.csv", index=False)
        else:
            frame.to_parquet(folder / f"{name}.parquet", index=False)
    return folder


def write_sequences(folder: Path, watched: list[int], liked: list[int], long: list[int]) -> None:
    sequences = pd.DataFrame(
        {"user_id": [1], "watch_seq": [watched], "like_seq": [liked], "long_watch_seq": [long]}
    )
    sequences.to_parquet(folder / "user_sequences_4_08_to_4_24_last50.parquet")


def history(folder: Path) -> pd.DataFrame:
    rows = kuairand.read(folder).interactions
    return rows[rows["timestamp"].isna()].reset_index(drop=True)


def test_exact_duplicates_are_dropped_and_no_row_is_before_its_date(tmp_path: Path) -> None:
    rows = kuairand.read(write_raw(tmp_path / "raw", ".parquet")).interactions
    assert rows[["user_id", "item_id", "context_tab", "context_hour"]].values.tolist() == [
        [1, 12, 4, 9],
        [0, 11, 1, 0],
    ]
    assert rows["timestamp"].tolist() == [
        pd.Timestamp("2022-04-25T01:05:10Z"),
        pd.Timestamp("2022-04-25T16:00:00Z"),
    ]


def test_the_official_csv_files_read_the_same(tmp_path: Path) -> None:
    from_csv = kuairand.read(write_raw(tmp_path / "csv", ".csv"))
    from_parquet = kuairand.read(write_raw(tmp_path / "parquet", ".parquet"))
    for table, frame in from_csv.frames.items():
        pd.testing.assert_frame_equal(frame, from_parquet.frames[table], check_dtype=False)
    assert "history_until" not in from_csv.declaration  # the official log has times for everything


def test_a_history_begins_with_what_is_older_than_the_last_exposures(tmp_path: Path) -> None:
    folder = write_raw(tmp_path / "raw", ".parquet")
    write_sequences(folder, watched=[12, 10, 10, 12], liked=[14], long=[13, 12])
    assert history(folder)["item_id"].tolist() == [14, 13, 12, 10, 12]


def test_labels_of_a_history_are_known_where_they_follow(tmp_path: Path) -> None:
    folder = write_raw(tmp_path / "raw", ".parquet")
    write_sequences(folder, watched=[12, 10], liked=[14], long=[13, 12])
    rows = history(folder).set_index("item_id")
    assert rows["is_long_view"].to_dict() == {14: 0, 13: 1, 12: 1, 10: 0}
    assert rows["is_like"].to_dict() == {14: 1, 13: 0, 12: 0, 10: 0}
    assert rows["is_click"].fillna(-1).to_dict() == {14: -1, 13: 1, 12: 1, 10: -1}


def test_a_cut_off_sequence_leaves_older_items_unknown(tmp_path: Path) -> None:
    folder = write_raw(tmp_path / "raw", ".parquet")
    write_sequences(folder, watched=[10], liked=[14], long=[13] * 50)
    rows = history(folder).set_index("item_id")
    assert rows["is_long_view"].fillna(-1).to_dict() == {14: -1, 13: 1, 10: 0}


def test_items_are_named_by_what_there_is(tmp_path: Path) -> None:
    items = kuairand.read(write_raw(tmp_path / "raw", ".parquet")).items
    assert items["item_name"].tolist()[:2] == ["video 10 · tag 39, 2", "video 11 · no tag"]
    assert items["item_tags"].tolist()[:2] == [[39, 2], None]
    assert items["item_age_days"].tolist()[0] == 15


def test_the_real_files_give_the_counts_of_the_protocol(tmp_path: Path) -> None:
    data_dir = Path(os.environ.get("SHORTLIST_DATA_DIR", "data"))
    if not any(kuairand.files(data_dir / name) for name in kuairand.FOLDERS):
        pytest.skip(f"no KuaiRand files in {data_dir}; set SHORTLIST_DATA_DIR")
    prepared = catalog.prepare("kuairand", data_dir, tmp_path, say=quiet)
    rows, split = prepared.interactions, prepared.split
    at = rows["timestamp"]
    parts = (
        at < split.train_until,
        (at >= split.train_until) & (at < split.validate_until),
        at >= split.validate_until,
    )
    assert [int(part.sum()) for part in parts] == [167_281, 13_103, 42_485]
    pair = pd.MultiIndex.from_frame(rows[[names.USER_ID, names.ITEM_ID]])
    is_new = (parts[2] & (rows["is_click"] == 1)).to_numpy() & ~pair.isin(pair[~parts[2]])
    clicks = rows[is_new].drop_duplicates([names.USER_ID, names.ITEM_ID])
    assert (len(clicks), clicks["user_id"].nunique(), len(prepared.items)) == (18_613, 10_017, 7_583)
