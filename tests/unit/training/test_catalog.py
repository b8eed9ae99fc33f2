from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from contract.dataset import DatasetError
from tests.builders.datasets import DECLARATION, SMALL, own_tables, quiet, small_world, write_own
from training.data.prepared import read_stamp
from training.data.sources import catalog
from training.data.sources.synthetic import Size
from training.data.validate import ProblemsError


def test_without_files_the_default_is_the_synthetic_world_and_says_how_to_get_the_real_one(
    tmp_path: Path,
) -> None:
    said: list[str] = []
    prepared = catalog.prepare("", tmp_path, tmp_path / "var", size=SMALL, say=said.append)
    assert prepared.dataset.name == "synthetic"
    text = "\n".join(said)
    assert "https://kuairand.com" in text
    assert "SHORTLIST_DATA_DIR" in text
    assert "the synthetic world" in text


def test_with_files_the_default_is_kuairand(tmp_path: Path) -> None:
    folder = tmp_path / "KuaiRand-Pure" / "data"
    folder.mkdir(parents=True)
    (folder / "log_standard_4_22_to_5_08_pure.csv").touch()
    assert catalog.find("", tmp_path, quiet).name == "kuairand"
    assert catalog.find("", tmp_path, quiet).folder == folder


def test_a_name_without_files_says_where_they_belong(tmp_path: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"movielens: no files in .*ml-latest-small.*grouplens.*SHORTLIST_DATA_DIR"
    ):
        catalog.prepare("movielens", tmp_path, tmp_path / "var", say=quiet)


def test_neither_a_name_nor_a_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        DatasetError,
        match=r"DATA=kuairnd: neither one of kuairand, movielens, synthetic, groceries, lastfm nor",
    ):
        catalog.prepare("kuairnd", tmp_path, tmp_path / "var", say=quiet)


def test_what_is_unchanged_is_reused(tmp_path: Path) -> None:
    folder = write_own(tmp_path / "own")
    first = catalog.prepare(str(folder), tmp_path, tmp_path / "var", say=quiet)
    written = (first.folder / "users.parquet").stat().st_ino
    said: list[str] = []
    again = catalog.prepare(str(folder), tmp_path, tmp_path / "var", say=said.append)
    assert (again.folder / "users.parquet").stat().st_ino == written
    assert any("reused" in line for line in said)


def test_a_file_written_again_is_prepared_again(tmp_path: Path) -> None:
    folder = write_own(tmp_path / "own")
    first = catalog.prepare(str(folder), tmp_path, tmp_path / "var", say=quiet)
    stamp = read_stamp(first.folder)
    tables = own_tables()
    tables["users"]["user_city"] = "Bergen"
    write_own(folder, tables)
    os.utime(folder / "users.parquet", ns=(1, 1))  # a clock may be coarse
    again = catalog.prepare(str(folder), tmp_path, tmp_path / "var", say=quiet)
    assert again.users["user_city"].unique().tolist() == ["Bergen"]
    assert read_stamp(again.folder) != stamp


def test_a_new_feature_is_one_column_and_one_line(tmp_path: Path) -> None:
    tables, declaration = own_tables(), yaml.safe_load(yaml.safe_dump(DECLARATION))
    tables["items"]["item_pages"] = range(100, 115)
    declaration["items"]["item_pages"] = {"role": "numeric"}
    folder = write_own(tmp_path / "own", tables, declaration)
    prepared = catalog.prepare(str(folder), tmp_path, tmp_path / "var", say=quiet)
    assert "item_pages" in prepared.dataset.item_catalog
    assert prepared.items["item_pages"].tolist() == list(range(100, 115))


def test_another_size_is_another_world(tmp_path: Path) -> None:
    assert len(small_world(tmp_path).users) == 299
    assert len(small_world(tmp_path, Size(users=150, items=60, days=12, interactions=3_000)).users) == 149


def test_a_built_in_name_is_taken(tmp_path: Path) -> None:
    folder = write_own(tmp_path / "own", declaration=DECLARATION | {"name": "synthetic"})
    with pytest.raises(DatasetError, match=r"dataset.yaml: name: synthetic is taken; choose another"):
        catalog.prepare(str(folder), tmp_path, tmp_path / "var", say=quiet)


def test_a_data_set_that_fails_later_leaves_the_earlier_one(tmp_path: Path) -> None:
    folder = write_own(tmp_path / "own")
    first = catalog.prepare(str(folder), tmp_path, tmp_path / "var", say=quiet)
    before = {path.name: path.read_bytes() for path in first.folder.iterdir()}
    tables = own_tables()
    tables["interactions"]["is_bought"] = 0
    write_own(folder, tables)
    with pytest.raises(ProblemsError):
        catalog.prepare(str(folder), tmp_path, tmp_path / "var", say=quiet)
    assert {path.name: path.read_bytes() for path in first.folder.iterdir()} == before


def test_public_files_that_are_only_declared_are_prepared_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "groceries"
    folder.mkdir()
    plain = ["milk", "bread", "tea", "salt", "rice", "fish", "nuts", "soap", "wine", "oil"]
    goods = [f"{good} & Co." for good in plain]
    days = [f"{1 + row % 28:02}-{1 + row // 28 % 12:02}-2015" for row in range(400)]
    lines = [f"{1000 + row % 20},{day},{goods[row * 7 % 10]}" for row, day in enumerate(days)]
    (folder / "groceries.csv").write_text("\r\n".join(["Member_number,Date,itemDescription", *lines]))
    prepared = catalog.prepare("groceries", tmp_path, tmp_path / "var", say=quiet)
    assert sorted(prepared.items["own_item_id"]) == sorted(goods)
    assert (prepared.interactions["is_chosen"] == 1).all()
    (folder / "dataset.yaml").write_text("name: mine")
    assert catalog.find("groceries", tmp_path, quiet).name == "own"
    with pytest.raises(DatasetError, match=r"lastfm: no files in .*; unpack hetrec2011"):
        catalog.prepare("lastfm", tmp_path, tmp_path / "var", say=quiet)
