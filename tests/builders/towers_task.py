"""A small world of tastes, as a task for two towers: users choose items of their own taste."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.sparse import csr_matrix

from contract import names
from contract.arrays import Ints
from contract.encoders import OOV_CODE, Field
from training.examples.positives import RetrievalExamples, Stream, UserHistories
from training.retrieval.config import TwoTowerConfig
from training.retrieval.task import FittingTask
from training.retrieval.validation import Validation

USERS, ITEMS, EACH, TASTES, NEW = 60, 40, 12, 4, 3
CONFIG = TwoTowerConfig(
    width=8,
    batch_size=48,
    steps=24,
    evaluations=3,
    fresh_evaluations=1,
    ridge=5.0,
    learning_rate=0.01,
    unknown_user_share=0.125,
)
FIELDS = {
    names.USER_ID: Field(names.USER_ID, "categorical", names.USER_ID, USERS + 3),
    "user_city": Field("user_city", "categorical", "user_city", 3 + TASTES),
    "user_age": Field("user_age", "numeric"),
    "user_topics": Field("user_topics", "list", "user_topics", 3 + TASTES, 3),
    names.USER_RECENT_ITEM_IDS: Field(names.USER_RECENT_ITEM_IDS, "list", names.ITEM_ID, ITEMS + 3, 5),
    names.USER_RECENT_POSITIVE_ITEM_IDS: Field(
        names.USER_RECENT_POSITIVE_ITEM_IDS, "list", names.ITEM_ID, ITEMS + 3, 5
    ),
    names.ITEM_ID: Field(names.ITEM_ID, "categorical", names.ITEM_ID, ITEMS + 3),
    "item topic: größe": Field("item topic: größe", "categorical", "item topic: größe", 3 + TASTES),
    "item_price": Field("item_price", "numeric"),
    "item_text": Field("item_text", "embedding", length=4),
}


def towers_task(config: TwoTowerConfig = CONFIG, *, seed: int = 0, items: int = ITEMS) -> FittingTask:
    """Makes it; the last three items are new."""
    rng = np.random.default_rng(1)
    taste = np.arange(USERS) % TASTES
    liked = np.arange(items) % TASTES
    chosen = np.concatenate([_chosen(rng, liked, int(one)) for one in taste])
    starts = np.arange(USERS + 1) * EACH
    is_positive = rng.random(len(chosen)) < 0.7
    before = np.concatenate([[0], np.cumsum(is_positive)])
    codes = np.arange(items) + 3
    histories = UserHistories(
        user_ids=np.arange(USERS),
        profile={
            names.USER_ID: np.arange(USERS) + 3,
            "user_city": taste + 3,
            "user_age": rng.normal(size=USERS).astype(np.float32),
            "user_topics": np.stack([taste + 3, np.zeros(USERS, np.int64), np.zeros(USERS, np.int64)], 1),
        },
        recent=Stream(codes[chosen], starts),
        positive=Stream(codes[chosen][is_positive], before[starts]),
        positives_before=before,
        order=np.zeros(0, np.int64),
        times=np.zeros(0, np.int64),
        lengths={names.USER_RECENT_ITEM_IDS: 5, names.USER_RECENT_POSITIVE_ITEM_IDS: 5},
    )
    at = np.arange(len(chosen))
    is_train = at % EACH < EACH - 1
    users = at // EACH
    count = int(is_train.sum())
    examples = RetrievalExamples(
        histories=histories,
        users=users[is_train],
        ends=np.maximum(at - 1, starts[users])[is_train],
        just_before=at[is_train],
        items=chosen[is_train],
        user_count=USERS,
        item_count=items + NEW,
        is_timed=np.ones(count, np.bool_),
        is_target=is_positive[is_train],
        age_days=(EACH - at % EACH)[is_train].astype(np.float64),
        weights=np.ones(count),
    )
    catalogue = {
        names.ITEM_ID: np.concatenate([codes, np.full(NEW, OOV_CODE)]),
        "item topic: größe": np.concatenate([liked, np.arange(NEW)]) + 3,
        "item_price": rng.normal(size=items + NEW).astype(np.float32),
        "item_text": rng.normal(size=(items + NEW, 4)).astype(np.float32),
    }
    last = starts[1:] - 1
    shape = (USERS, items + NEW)
    ones = np.ones(USERS, np.float32)
    validation = Validation(
        histories.columns(np.arange(USERS), last),
        catalogue,
        csr_matrix((ones, (np.arange(USERS), chosen[last])), shape=shape),
        csr_matrix(shape, dtype=np.float32),
    )
    fields = FIELDS if items == ITEMS else _larger(items)
    return FittingTask(fields, examples, catalogue, config, seed, validation)


def _chosen(rng: np.random.Generator, liked: Ints, taste: int) -> Ints:
    weights = np.where(liked == taste, 8.0, 1.0) / np.sqrt(1.0 + np.arange(len(liked)))
    return rng.choice(len(liked), EACH, replace=False, p=weights / weights.sum())


def _larger(items: int) -> dict[str, Field]:
    return {
        name: replace(field, cardinality=items + 3) if field.vocabulary == names.ITEM_ID else field
        for name, field in FIELDS.items()
    }
