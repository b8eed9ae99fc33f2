"""Files are whole or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.whole_file import whole_file


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
