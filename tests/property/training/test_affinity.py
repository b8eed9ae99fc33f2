"""User-item features: what they count does not depend on padding or on who else is in the batch."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from contract.affinity import LISTS, user_item_feature_names, user_item_features
from contract.dataset import Dataset
from contract.names import NULL_INT

DATASET = Dataset.model_validate(
    {
        "name": "small",
        "users": {"user_id": {"role": "id"}},
        "items": {
            "item_id": {"role": "id"},
            "item_maker": {"role": "categorical", "dtype": "string", "is_affinity": True},
            "item_tags": {"role": "list", "is_affinity": True},
        },
        "interactions": {
            "user_id": {"role": "id"},
            "item_id": {"role": "id"},
            "timestamp": {"role": "timestamp"},
            "is_click": {"role": "label"},
        },
    }
)
Columns = dict[str, np.ndarray[Any, Any]]


def draw_items(data: st.DataObject, rows: int, width: int, tags: int) -> Columns:
    """Draws items in (rows, width); few values, so that many match, and nulls among them."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    return {
        "item_id": rng.choice([1, 2, 3, 4, NULL_INT], (rows, width)),
        "item_maker": rng.choice(np.array(["a", "b", None], dtype=object), (rows, width)),
        "item_tags": rng.choice([7, 8, 9, NULL_INT], (rows, width, tags)),
    }


def draw_case(data: st.DataObject) -> tuple[dict[str, Columns], Columns]:
    """Draws users' lists and candidates."""
    b, s, k = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 6)), data.draw(st.integers(1, 5))
    return {name: draw_items(data, b, s, 2) for name in LISTS}, draw_items(data, b, k, 3)


@given(st.data())
def test_counts_equal_a_loop_over_sets(data: st.DataObject) -> None:
    recents, candidates = draw_case(data)
    features = user_item_features(DATASET, recents, candidates)
    assert tuple(features) == user_item_feature_names(DATASET)

    def values(columns: Columns, name: str, row: int, place: int) -> set[Any]:
        return set(np.ravel(columns[name][row, place]).tolist()) - {NULL_INT, None}

    rows, k = candidates["item_id"].shape
    for at, name in enumerate(candidates):
        for of, listed in enumerate(LISTS):
            counts = features[user_item_feature_names(DATASET)[2 * at + of]]
            assert counts.dtype == np.float32
            for row in range(rows):
                for place in range(k):
                    wanted = values(candidates, name, row, place)
                    matching = [
                        s
                        for s in range(recents[listed][name].shape[1])
                        if wanted & values(recents[listed], name, row, s)
                    ]
                    assert counts[row, place] == len(matching)


@given(st.data())
def test_a_batch_equals_its_rows_one_by_one(data: st.DataObject) -> None:
    recents, candidates = draw_case(data)
    together = user_item_features(DATASET, recents, candidates)
    for row in range(len(candidates["item_id"])):
        at = slice(row, row + 1)
        alone = user_item_features(
            DATASET,
            {listed: {n: v[at] for n, v in columns.items()} for listed, columns in recents.items()},
            {n: v[at] for n, v in candidates.items()},
        )
        for name, counts in alone.items():
            np.testing.assert_array_equal(counts, together[name][at])


@given(st.data(), st.integers(1, 5))
def test_padding_does_not_matter(data: st.DataObject, more: int) -> None:
    recents, candidates = draw_case(data)

    def padded(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        shape = (len(values), more, *values.shape[2:])
        null = NULL_INT if values.dtype.kind == "i" else None
        return np.concatenate([values, np.full(shape, null, dtype=values.dtype)], axis=1)

    longer = {listed: {n: padded(v) for n, v in columns.items()} for listed, columns in recents.items()}
    for name, counts in user_item_features(DATASET, longer, candidates).items():
        np.testing.assert_array_equal(counts, user_item_features(DATASET, recents, candidates)[name])


@given(st.data())
def test_narrow_numbers_and_bits_match_as_the_raw_values_do(data: st.DataObject) -> None:
    """What serving compares: integers of 32 bits with their own null, and lists as sets of bits."""
    recents, candidates = draw_case(data)

    def narrowed(columns: Columns) -> Columns:
        ids, tags = columns["item_id"], columns["item_tags"]
        null = np.iinfo(np.int32).min
        bits = np.where(tags == NULL_INT, 0, np.uint64(1) << np.clip(tags, 0, 63).astype(np.uint64))
        return columns | {
            "item_id": np.where(ids == NULL_INT, null, ids).astype(np.int32),
            "item_tags": np.bitwise_or.reduce(bits.astype(np.uint64), axis=2),
        }

    raw = user_item_features(DATASET, recents, candidates)
    narrow = user_item_features(DATASET, {n: narrowed(c) for n, c in recents.items()}, narrowed(candidates))
    for name, counts in raw.items():
        np.testing.assert_array_equal(narrow[name], counts, err_msg=name)
