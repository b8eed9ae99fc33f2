"""Exact search in blocks finds what comparing every item finds, in the same order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import StageError
from contract.filters import Condition, Filters
from contract.tensors import PAD_ID
from ensemble.stores.exact import ExactVectorIndex
from ensemble.stores.vectors import MemoryVectorIndex, VectorIndex

SMALL = st.integers(-2, 2)
"""Vectors of small whole numbers: their products are exact in float32 however they are summed, and many are
equal."""


def drawn(data: st.DataObject, rows: int, width: int) -> np.ndarray:
    values = data.draw(st.lists(SMALL, min_size=rows * width, max_size=rows * width))
    return np.array(values, dtype=np.float32).reshape(rows, width)


@given(
    data=st.data(),
    items=st.integers(1, 40),
    users=st.integers(1, 4),
    block=st.integers(1, 45),
    width=st.integers(1, 50),
)
def test_finds_what_comparing_every_item_finds(
    data: st.DataObject, items: int, users: int, block: int, width: int
) -> None:
    item_ids = np.array(sorted(data.draw(st.sets(st.integers(0, 10**12), min_size=items, max_size=items))))
    vectors, asking = drawn(data, items, 3), drawn(data, users, 3)
    counts = data.draw(st.lists(st.integers(0, 60), min_size=users, max_size=users))
    nothing: list[Filters] = [{}] * users
    ids, scores = ExactVectorIndex(item_ids, vectors, block).search(asking, counts, nothing, width)
    expected_ids, expected_scores = MemoryVectorIndex(item_ids, vectors).search(
        asking, counts, nothing, width
    )
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(scores, expected_scores)
    assert ids.dtype == expected_ids.dtype
    assert scores.dtype == expected_scores.dtype


@given(block=st.integers(1, 130), most=st.integers(1, 120))
def test_of_equal_items_the_first_are_found_wherever_the_cut_falls(block: int, most: int) -> None:
    item_ids, vectors = np.arange(7, 107), np.ones((100, 2), dtype=np.float32)
    ids, _ = ExactVectorIndex(item_ids, vectors, block).search(vectors[:2], [most, most], [{}, {}], 120)
    found = min(most, 100)
    assert ids[:, :found].tolist() == [item_ids[:found].tolist()] * 2
    assert (ids[:, found:] == PAD_ID).all()


def test_a_user_does_not_depend_on_its_neighbours() -> None:
    rng = np.random.default_rng(0)
    vectors, asking = (rng.normal(size=(rows, 16)).astype(np.float32) for rows in (5000, 9))
    index = ExactVectorIndex(np.arange(5000), vectors, block=700)
    counts = [3, 50, 10, 200, 0, 1, 7, 120, 33]
    together, _ = index.search(asking, counts, [{}] * 9, 150)
    for row, count in enumerate(counts):
        alone, _ = index.search(asking[row : row + 1], [count], [{}], 150)
        np.testing.assert_array_equal(together[row], alone[0])


def test_nothing_is_found_where_nothing_is_asked_for_or_there() -> None:
    some = np.ones((2, 3), dtype=np.float32)
    index = ExactVectorIndex(np.arange(2), some)
    for found in (
        index.search(some, [0, 0], [{}, {}], 4),
        ExactVectorIndex(np.arange(0), some[:0]).search(some, [4, 4], [{}, {}], 4),
    ):
        assert (found[0] == PAD_ID).all()
        assert np.isneginf(found[1]).all()
    assert index.search(some[:0], [], [], 4)[0].shape == (0, 4)


def test_vectors_may_stay_in_their_file(tmp_path: object) -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    np.save(f"{tmp_path}/vectors.npy", vectors)
    mapped = np.load(f"{tmp_path}/vectors.npy", mmap_mode="r")
    ids, _ = ExactVectorIndex(np.arange(50), mapped, block=16).search(vectors[:3], [1, 1, 1], [{}] * 3, 1)
    assert ids[:, 0].tolist() == np.argmax(vectors[:3] @ vectors.T, axis=1).tolist()


def test_it_is_a_vector_index_without_filters() -> None:
    index = ExactVectorIndex(np.arange(1), np.ones((1, 2), dtype=np.float32))
    assert isinstance(index, VectorIndex)
    assert index.is_whole
    with pytest.raises(StageError, match="takes no filters"):
        index.search(
            np.ones((1, 2), dtype=np.float32), [1], [{"item_category": Condition(frozenset({"1"}))}], 1
        )
