"""Draws a log of any size, a piece of it at a time, as the examples that training makes of one."""

from __future__ import annotations

import numpy as np

from contract import names
from contract.arrays import Array
from contract.encoders import OOV_CODE, Encoders, Field, Vocabulary
from training.examples.positives import RetrievalExamples, Stream, UserHistories

FIRST = OOV_CODE + 1
TOPICS = 12


def encoders_of_log(users: int, items: int, length: int = 50) -> Encoders:
    """Gives the encoders of a log of so many users and items, its lists `length` long."""
    sizes = {names.USER_ID: users, "user_city": 40, names.ITEM_ID: items, "item_topics": TOPICS}
    ids = {name: np.arange(size) for name, size in sizes.items()}
    vocabularies = {name: Vocabulary(values, values + FIRST) for name, values in ids.items()}
    fields = {
        name: Field(name, "categorical", name, size + FIRST)
        for name, size in sizes.items()
        if name != "item_topics"
    }
    fields["item_topics"] = Field("item_topics", "list", "item_topics", TOPICS + FIRST, 3)
    for name in (names.USER_RECENT_ITEM_IDS, names.USER_RECENT_POSITIVE_ITEM_IDS):
        fields[name] = Field(name, "list", names.ITEM_ID, items + FIRST, length)
    return Encoders(fields, vocabularies, {})


def catalogue_of_log(encoders: Encoders, seed: int = 0) -> dict[str, Array]:
    """Gives the encoded columns of all items."""
    items, rng = encoders.fields[names.ITEM_ID].cardinality - FIRST, np.random.default_rng(seed)
    return {
        names.ITEM_ID: np.arange(items) + FIRST,
        "item_topics": rng.integers(FIRST, FIRST + TOPICS, (items, 3)),
    }


def piece_of_log(encoders: Encoders, users: range, events: int, seed: int = 0) -> RetrievalExamples:
    """Gives what some users did, each about `events` times: popular items oftener, half of it liked.

    A fifth of it is history without a time; each example's snapshot lies up to 20 events before it.
    """
    rng = np.random.default_rng([seed, users.start])
    items = encoders.fields[names.ITEM_ID].cardinality - FIRST
    starts = np.concatenate([[0], np.cumsum(rng.poisson(events, len(users)))])
    total = int(starts[-1])
    user = np.repeat(np.arange(len(users)), np.diff(starts))
    chosen = (items * rng.random(total) ** 3).astype(np.int64)
    is_liked, is_timed = rng.random(total) < 0.5, rng.random(total) >= 0.2
    before = np.concatenate([[0], np.cumsum(is_liked)])
    places = np.arange(total)
    histories = UserHistories(
        user_ids=np.asarray(users),
        profile={
            names.USER_ID: np.asarray(users) + FIRST,
            "user_city": rng.integers(FIRST, FIRST + 40, len(users)),
        },
        recent=Stream(chosen + FIRST, starts),
        positive=Stream(chosen[is_liked] + FIRST, before[starts]),
        positives_before=before,
        order=places,
        times=places,
        lengths={
            name: encoders.fields[name].length
            for name in (names.USER_RECENT_ITEM_IDS, names.USER_RECENT_POSITIVE_ITEM_IDS)
        },
    )
    return RetrievalExamples(
        users=user,
        items=chosen,
        is_timed=is_timed,
        is_target=is_liked,
        age_days=rng.random(total) * 30,
        weights=np.ones(total),
        user_count=len(users),
        item_count=items,
        histories=histories,
        ends=np.maximum(starts[user], places - rng.integers(0, 20, total)),
        just_before=places,
    )
