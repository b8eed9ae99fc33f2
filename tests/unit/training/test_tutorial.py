"""Runs the code blocks of docs/your-data.md, and compares what it prints with what the page shows."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
import yaml

from contract.columns import Role
from contract.dataset import Activity, Checks, Dataset
from tests.builders.datasets import quiet
from training.data.prepared import dataset_yaml
from training.data.sources import catalog
from training.data.validate import ProblemsError

PAGE = (Path(__file__).parents[3] / "docs" / "your-data.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks("python")[0], "your-data.md", "exec"), {})
    (tmp_path / "library" / "dataset.yaml").write_text(blocks("yaml")[0])
    return tmp_path / "library"


def test_the_example_is_prepared_as_the_page_shows(library: Path) -> None:
    said: list[str] = []
    prepared = catalog.prepare(str(library), Path("data"), Path("var"), say=said.append)
    assert all(line in PAGE for line in said)
    assert list(prepared.dataset.affinity) == ["item_genres"]
    assert prepared.dataset.target == "is_borrowed"


def test_the_example_goes_wrong_as_the_page_shows(library: Path) -> None:
    items = pd.read_parquet(library / "items.parquet")
    items["item_year"] = items["item_year"].astype(str)
    pd.concat([items, items.head(1)]).to_parquet(library / "items.parquet")
    pd.read_parquet(library / "interactions.parquet").assign(is_borrowed=0).to_parquet(
        library / "interactions.parquet"
    )
    with pytest.raises(ProblemsError) as failure:
        catalog.prepare(str(library), Path("data"), Path("var"), say=quiet)
    assert str(failure.value) in PAGE


def test_the_page_names_every_role_and_key() -> None:
    keys = {*Dataset.model_fields, *Checks.model_fields, *Activity.model_fields, *Role}
    untold = {key for key in keys if f"`{key}`" not in PAGE and f"{key}:" not in PAGE}
    assert untold <= {"source", "licence"}


def test_a_declaration_written_back_reads_equal(library: Path) -> None:
    dataset = Dataset.load(library)
    assert Dataset.model_validate(yaml.safe_load(dataset_yaml(dataset))) == dataset
