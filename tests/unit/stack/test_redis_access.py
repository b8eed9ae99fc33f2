"""The user of Redis whom docs/operations.md describes reaches every key that the project has."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from fnmatch import fnmatchcase

import pytest

from contract import feast, keys
from tests.builders.guarded_redis import documented_rules

ENDINGS = ("_key", "_prefix", "index_name")
NAMERS = [
    made
    for module in (keys, feast)
    for name, made in inspect.getmembers(module, inspect.isfunction)
    if name.endswith(ENDINGS) and made.__module__ == module.__name__
]


@pytest.mark.parametrize("make", NAMERS, ids=lambda make: str(make.__name__))
def test_the_documented_user_may_use_the_key(make: Callable[..., str | bytes]) -> None:
    arguments = {"join_key": "item_id"}
    parameters = inspect.signature(make).parameters.values()
    key = make(*(7 if one.annotation == "int" else arguments.get(one.name, "x") for one in parameters))
    name = key if isinstance(key, str) else key.decode("latin-1")
    assert any(fnmatchcase(name, rule[1:]) for rule in documented_rules() if rule.startswith("~")), name
