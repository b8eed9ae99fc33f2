"""What the page about the batch job says of its settings is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from batch.settings import BatchSettings

PAGE = (Path(__file__).parents[3] / "docs" / "batch.md").read_text()
ROWS = dict(re.findall(r"^\| `SHORTLIST_BATCH_(\w+)` \| ([^|]+) \|", PAGE, flags=re.MULTILINE))


def test_the_page_names_every_setting_and_no_other() -> None:
    assert {name.lower() for name in ROWS} == set(BatchSettings.model_fields)


@pytest.mark.parametrize("name", sorted(BatchSettings.model_fields))
def test_the_page_tells_the_default(name: str) -> None:
    default = BatchSettings.model_fields[name].default
    cell = ROWS[name.upper()].partition(":")[0].strip("` ")
    if default is None:
        assert cell.startswith("batch` under")
    else:
        assert cell == (str(default) or "empty")


@pytest.mark.parametrize("name", sorted(BatchSettings.model_fields))
def test_every_setting_says_what_it_is(name: str) -> None:
    description = BatchSettings.model_fields[name].description
    assert description
    assert description.endswith(".")
