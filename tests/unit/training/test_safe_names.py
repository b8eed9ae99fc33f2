from __future__ import annotations

import re

import pytest

from contract.encoders import Field
from training.examples.safe_names import safe_fields, safe_name

SCOPE = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@pytest.mark.parametrize("name", ["item_id", "user_age", "item_1st", "context_hour", "item_brand"])
def test_a_plain_name_stays(name: str) -> None:
    assert safe_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *(
            "item_page count",
            "item_año-ß",
            "item_a/b",
            "item_日本",
            "item_a.b",
            "item_'q'",
            "item_\n",
            "item_",
        ),
        *("item_x__values", "item_x__offsets", "item_" + "x" * 300, "item_\ud800"),
    ],
)
def test_any_other_becomes_one_that_scopes_files_and_merlin_bear(name: str) -> None:
    assert SCOPE.fullmatch(safe_name(name))
    assert "__" not in safe_name(name)
    assert len(safe_name(name)) < 100
    assert safe_name(name) != name


def test_names_that_look_alike_stay_apart() -> None:
    names = ["item_a b", "item_a/b", "item_a_b", "item_a-b", "item_ä b", "item_a  b"]
    assert len({safe_name(name) for name in names}) == len(names)


def test_fields_bear_the_names_by_which_they_are_found() -> None:
    fields = safe_fields({"item_a b": Field("item_a b", "numeric"), "item_c": Field("item_c", "numeric")})
    assert all(field.name == name for name, field in fields.items())
