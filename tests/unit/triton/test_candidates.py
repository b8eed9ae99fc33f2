"""How the lists of several sources become one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.bundle import SourceSpec
from contract.candidates import Merge, best_first, reached
from contract.item_to_item import ENTRY, UNKNOWN, ItemToItem

ITEMS = 40


def merged(shares: list[float], lists: list[list[int]], width: int) -> list[int]:
    """Merges lists that are padded here, gives the items without padding."""
    depth = max(map(len, lists))
    padded = np.full((len(lists), depth), UNKNOWN)
    for row, items in enumerate(lists):
        padded[row, : len(items)] = items
    found = Merge(shares, ITEMS).merged(padded, width)
    assert found.shape == (width,)
    merged_items: list[int] = found[found != UNKNOWN].tolist()
    assert (found[len(merged_items) :] == UNKNOWN).all()
    return merged_items


def test_turns_are_taken_in_proportion_and_an_item_comes_once() -> None:
    assert merged([0.5, 0.5], [[1, 2, 3], [2, 5, 1]], 9) == [1, 2, 5, 3]
    assert merged([0.75, 0.25], [[1, 2, 3, 4, 5, 6], [11, 12]], 8) == [1, 2, 3, 11, 4, 5, 6, 12]


def test_a_source_without_a_share_gives_what_the_others_lack() -> None:
    assert merged([1, 0], [[1, 2], [7, 8, 9]], 4) == [1, 2, 7, 8]


LISTS = st.lists(st.lists(st.integers(0, ITEMS - 1), unique=True, max_size=20), min_size=1, max_size=4)


@given(lists=LISTS, data=st.data())
def test_every_source_has_its_share_of_the_first_k(lists: list[list[int]], data: st.DataObject) -> None:
    parts = data.draw(st.lists(st.integers(1, 9), min_size=len(lists), max_size=len(lists)))
    shares = [part / sum(parts) for part in parts]
    k = data.draw(st.integers(1, ITEMS))
    first = merged(shares, lists, k)
    assert len(first) == min(k, len({item for items in lists for item in items}))
    assert len(first) == len(set(first))
    for share, items in zip(shares, lists, strict=True):
        assured = int(share * k + 1e-9)
        assert set(items[: min(assured, len(items))]) <= set(first)


TABLE = ItemToItem.of(
    np.array([[(1, 2.0), (2, 1.0)], [(2, 4.0), (0, 0.0)], [(0, 0.0), (0, 0.0)]], dtype=ENTRY)
)


def spec(**changed: object) -> SourceSpec:
    values = {"name": "chain", "kind": "item_to_item", "share": 0.5, "file": "t.npy"} | changed
    return SourceSpec.model_validate(values)


def test_a_history_counts_by_rank_and_what_is_unknown_keeps_its_rank() -> None:
    history = np.array([0, UNKNOWN, 1])
    found = reached(TABLE, history, spec(decay=0.5))
    np.testing.assert_allclose(found.of(np.arange(3)), [0, 2, 1 + 4 / 4])
    newest = reached(TABLE, history, spec(newest=1))
    np.testing.assert_allclose(newest.of(np.arange(3)), [0, 2, 1])


def test_scores_are_divided_by_what_the_source_says() -> None:
    history = np.array([0, 1, UNKNOWN])
    plain = reached(TABLE, history, spec(decay=0.5)).of(np.arange(3))
    weighed = reached(TABLE, history, spec(decay=0.5, normalisation="weights"))
    np.testing.assert_allclose(weighed.of(np.arange(3)), plain / 1.5)
    spread = reached(TABLE, history, spec(decay=0.5, normalisation="deviation"))
    np.testing.assert_allclose(spread.of(np.arange(3)), plain / plain.std(), rtol=1e-6)


@pytest.mark.parametrize("normalisation", ["none", "weights", "deviation"])
def test_nobodys_history_leads_nowhere(normalisation: str) -> None:
    for history in ([], [UNKNOWN], [2]):
        found = reached(TABLE, np.array(history, dtype=np.int64), spec(normalisation=normalisation))
        assert found.of(np.arange(3)).tolist() == [0, 0, 0]


@given(
    scores=st.lists(st.floats(-2, 2, width=16), max_size=30).map(lambda values: np.array(values, np.float32)),
    count=st.integers(0, 35),
)
def test_the_best_are_the_greatest_positive_ones_in_order(scores: np.ndarray, count: int) -> None:
    expected = [at for at in np.argsort(-scores, kind="stable") if scores[at] > 0][:count]
    assert best_first(scores, count).tolist() == expected
