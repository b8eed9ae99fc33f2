"""What is known of users and items, kept as it happens, in the rows that Feast's features lie in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from contract import names
from contract.activity import ActivityEvent, ActivityReducer, ActivityState, view_of
from contract.dataset import Dataset
from contract.feast import feature_key, state_field
from contract.keys import activity_rates_key
from live.transaction import Transaction

KEYS = {names.USER: names.USER_ID, names.ITEM: names.ITEM_ID}


class ActivityRows:
    """The rows of the activity of one data set's users and items."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._reducers = {entity: ActivityReducer.of(dataset, entity) for entity in KEYS}

    def add(self, users: Sequence[int], events: Sequence[ActivityEvent], transaction: Transaction) -> None:
        """Folds events of users, numbers (E,), into the rows of both; an event that is in a row is not folded
        again. Nothing where no features were brought to Redis yet: materialising folds what came before."""
        name = self._dataset.name
        (stored,) = transaction.read([("GET", activity_rates_key(name))])
        if stored is None:
            return
        rates = json.loads(stored)
        mine: dict[tuple[str, int], list[ActivityEvent]] = {}
        for user_id, event in zip(users, events, strict=True):
            mine.setdefault((names.USER, user_id), []).append(event)
            mine.setdefault((names.ITEM, event.item_id), []).append(event)
        keys = {row: feature_key(KEYS[row[0]], row[1], name) for row in mine}
        packed = transaction.read([("HGET", keys[row], state_field(view_of(row[0]))) for row in mine])
        for (row, added), value in zip(mine.items(), packed, strict=True):
            reducer = self._reducers[row[0]]
            state = ActivityState.decode(value) if value else ActivityState()
            fields = reducer.fields(reducer.fold(state, *added), rates)
            parts: list[Any] = [part for field in fields.items() for part in field]
            transaction.write("HSET", keys[row], *parts)
