"""Rooms import each other one way, and the picture in docs/architecture.md is drawn from the code."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def house() -> Any:
    spec = importlib.util.spec_from_file_location("house", ROOT / "docs" / "house.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def found(house: Any) -> Any:
    return house.rooms([package for floor in house.FLOORS for package in floor])


def test_no_room_imports_what_imports_it(house: Any, found: Any) -> None:
    assert house.circles(found[1]) == []


def test_a_circle_is_found(house: Any) -> None:
    one, two, three = ("service", "http"), ("service", "slates"), ("service", "store")
    assert house.circles({(one, two): 1, (two, three): 2, (three, one): 1}) == [[one, two, three]]


def test_the_picture_is_of_this_code(house: Any, found: Any) -> None:
    assert house.PICTURE.read_text() == house.draw(*found), "run `make picture`"
