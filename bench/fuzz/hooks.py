"""What schemathesis cannot know of the gateway's description, and the statuses that it got. Loaded by it."""

from __future__ import annotations

import atexit
import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import schemathesis

STATUSES = "SHORTLIST_FUZZ_STATUSES"
"""The variable that names the file to which the statuses are written, at the end."""

_CURSOR = re.compile(r"[A-Za-z0-9_-]{1,33000}")
_ARM = 200
"""Characters that the name of an arm may have."""
_statuses: Counter[str] = Counter()


@schemathesis.hook
def map_case(context: Any, case: Any) -> Any:  # noqa: ARG001
    """Writes 7.0 as 7, leaves out a cursor and an arm, which nobody can guess, and an event's instant, which
    the clock decides on; mends rules and items of the order that JSON Schema cannot tell to be wrong.

    JSON Schema takes both for an integer; the gateway takes 7 alone, as a float cannot hold every int64.
    """
    if isinstance(case.body, dict):
        case.body = _whole(case.body)
        for body in (case.body, *_dicts(case.body.get("requests"))):
            _mend(body.get("rules"))
        _make_apart(_dicts(case.body.get("items")), "item_id")
        events = _dicts(case.body.get("events"))
        for event in events:
            if type(event.get("timestamp")) in (int, float, str):
                del event["timestamp"]
        if len(events) > 1 and type(case.body.get("atomic", False)) is bool:
            case.body["atomic"] = True  # else a wrong event keeps no other from being accepted
    return case


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:  # noqa: ARG001
    """Counts the answer."""
    _statuses[f"{case.method} {case.path} {response.status_code}"] += 1


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _whole(one) for name, one in value.items() if not _is_unguessable(name, one)}
    if isinstance(value, list):
        return [_whole(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _mend(rules: Any) -> None:
    """Gives a cap a window that it binds in, and each pin a place and an item of its own; what is wrong by
    the description stays wrong."""
    if not isinstance(rules, dict):
        return
    for cap in _dicts(rules.get("caps")):
        most, window = cap.get("most"), cap.get("window")
        if type(most) is int and type(window) is int and most >= window:
            cap["window"] = most + 1
    for name in ("place", "item_id"):
        _make_apart(_dicts(rules.get("pins")), name)


def _make_apart(several: list[dict[str, Any]], name: str) -> None:
    """Gives each of several a value of its own."""
    taken: set[Any] = set()
    for one in several:
        value = one.get(name)
        while type(value) in (int, str) and value in taken:
            value = value % 1000 + 1 if isinstance(value, int) else f"{str(value)[:200]}+"
            one[name] = value
        if type(value) in (int, str):
            taken.add(value)


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _is_unguessable(name: str, value: Any) -> bool:
    if not isinstance(value, str):
        return False
    return (name == "after" and bool(_CURSOR.fullmatch(value))) or (name == "arm" and len(value) <= _ARM)


@atexit.register
def _write() -> None:
    if STATUSES in os.environ:
        Path(os.environ[STATUSES]).write_text(json.dumps(_statuses))
