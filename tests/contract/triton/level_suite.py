"""What every level of embeddings must do; an implementation inherits `LevelSuite` and gives `level`."""

from __future__ import annotations

import numpy as np
import pytest

from contract.arrays import Floats
from contract.tensors import PAD_ID
from ensemble.stores.embeddings.level import Level, RowKeys

W = 6
CAPACITY = 4096
"""Rows for which there is room at least."""


def some_rows(count: int, seed: int = 0) -> Floats:
    """Draws rows (count, W)."""
    return np.random.default_rng(seed).normal(size=(count, W)).astype(np.float32)


class LevelSuite:
    """What every level must do."""

    @pytest.fixture
    def level(self) -> Level:
        raise NotImplementedError

    def test_is_a_level_with_a_name(self, level: Level) -> None:
        assert isinstance(level, Level)
        assert level.name

    def test_gives_what_was_written_in_the_order_that_is_asked_for(self, level: Level) -> None:
        ids = np.array([7, -3, PAD_ID, 2**62, 0])
        level.write(RowKeys.trained(ids), some_rows(5))
        found = level.read(RowKeys.trained(ids[[4, 1, 1, 3, 2, 0]]))
        assert found.is_found.all()
        assert not found.is_damaged.any()
        assert found.rows.dtype == np.float32
        np.testing.assert_array_equal(found.rows, some_rows(5)[[4, 1, 1, 3, 2, 0]])

    def test_what_was_not_written_is_not_found(self, level: Level) -> None:
        level.write(RowKeys.trained(np.array([1, 2])), some_rows(2))
        found = level.read(RowKeys.trained(np.array([3, 2, 256 + 1])))
        assert found.is_found.tolist() == [False, True, False]
        assert found.rows.shape == (3, W)

    def test_another_update_of_a_row_is_another_row(self, level: Level) -> None:
        ids = np.array([5, 6])
        level.write(RowKeys.trained(ids), some_rows(2))
        later = RowKeys(ids, np.array([0, 3], dtype=np.int32))
        assert level.read(later).is_found.tolist() == [True, False]
        level.write(later.some(slice(1, 2)), some_rows(1, seed=9))
        np.testing.assert_array_equal(level.read(later).rows, [some_rows(2)[0], some_rows(1, seed=9)[0]])

    def test_nothing_is_asked_for_and_nothing_is_given(self, level: Level) -> None:
        keys = RowKeys.trained(np.empty(0, dtype=np.int64))
        level.write(keys, some_rows(0))
        found = level.read(keys)
        assert found.rows.shape == (0, W)
        assert found.is_found.shape == found.is_damaged.shape == (0,)

    def test_holds_as_many_as_there_is_room_for(self, level: Level) -> None:
        ids = np.random.default_rng(1).permutation(CAPACITY // 4)
        level.write(RowKeys.trained(ids), some_rows(len(ids)))
        found = level.read(RowKeys.trained(ids))
        assert found.is_found.mean() > 0.99
        np.testing.assert_array_equal(found.rows[found.is_found], some_rows(len(ids))[found.is_found])
