"""Files are whole or not there."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from contract.whole_file import ABANDONED_S, drop_abandoned, whole_file


@pytest.mark.parametrize("is_durable", [True, False])
def test_a_file_takes_its_name_once_it_is_whole(tmp_path: Path, is_durable: bool) -> None:
    path = tmp_path / "some.json"
    path.write_text("old")
    with whole_file(path, is_durable=is_durable) as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [*tmp_path.iterdir()] == [path]


def test_of_one_that_fails_nothing_is_left(tmp_path: Path) -> None:
    def write_half() -> None:
        with whole_file(tmp_path / "some.json") as file:
            file.write(b"ne")
            raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        write_half()
    assert [*tmp_path.iterdir()] == []


def test_what_a_process_that_was_killed_left_goes_and_what_is_being_written_stays(tmp_path: Path) -> None:
    path, left = tmp_path / "hour" / "some.parquet", []
    path.parent.mkdir()
    for _ in range(2):
        with whole_file(path) as file:
            left.append(Path(file.name))
    others = [path, path.with_name(".hidden"), path.with_name("one.tmp")]
    ages_s = (ABANDONED_S + 60, 0.0, *[10 * ABANDONED_S] * len(others))
    for one, age_s in zip((*left, *others), ages_s, strict=True):
        one.write_text("half")
        os.utime(one, (time.time() - age_s,) * 2)
    drop_abandoned(tmp_path)
    assert {*path.parent.iterdir()} == {left[1], *others}
    drop_abandoned(tmp_path / "nowhere")
