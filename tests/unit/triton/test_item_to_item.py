"""What a user's items lead to, by a table of what goes with each item."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from contract import item_to_item
from contract.item_to_item import ENTRY, UNKNOWN, ItemToItem, most_entries, rank_weights

ITEMS, MOST = 40, 6


def drawn(seed: int) -> ItemToItem:
    """A table of random entries, each row's items distinct, some rows shorter."""
    rng = np.random.default_rng(seed)
    entries = np.zeros((ITEMS, MOST), ENTRY)
    for row in entries:
        length = rng.integers(0, MOST + 1)
        row["item"][:length] = rng.choice(ITEMS, length, replace=False)
        row["weight"][:length] = rng.normal(size=length)
    return ItemToItem.of(entries)


@pytest.mark.parametrize("dense", [0, item_to_item.DENSE_ITEMS])
@pytest.mark.parametrize("seed", range(5))
def test_scores_are_the_sums_over_the_history_of_weight_times_entry(
    monkeypatch: pytest.MonkeyPatch, dense: int, seed: int
) -> None:
    monkeypatch.setattr(item_to_item, "DENSE_ITEMS", dense)
    table, rng = drawn(seed), np.random.default_rng(seed)
    history = rng.integers(UNKNOWN, ITEMS, 15)
    weights = rng.random(15).astype(np.float32)
    expected = np.zeros(ITEMS)
    for item, weight in zip(history, weights, strict=True):
        if item != UNKNOWN:
            for other, entry in zip(table.items[item].tolist(), table.weights[item].tolist(), strict=True):
                expected[other] += entry * weight
    reached = table.reach(history, weights)
    everything = np.arange(UNKNOWN, ITEMS).reshape(-1, 1)
    np.testing.assert_allclose(reached.of(everything)[1:, 0], expected, rtol=1e-5, atol=1e-6)
    assert reached.of(everything)[0] == 0
    np.testing.assert_array_equal(reached.positions, np.flatnonzero(expected))


@pytest.mark.parametrize("dense", [0, item_to_item.DENSE_ITEMS])
def test_nothing_is_reached_from_nothing(monkeypatch: pytest.MonkeyPatch, dense: int) -> None:
    monkeypatch.setattr(item_to_item, "DENSE_ITEMS", dense)
    table = drawn(0)
    for history in (np.array([], np.int64), np.full(3, UNKNOWN)):
        reached = table.reach(history, np.ones(len(history), np.float32))
        assert not len(reached.positions)
        np.testing.assert_array_equal(reached.of(np.arange(3)), np.zeros(3))


def test_a_table_comes_back_from_its_file(tmp_path: Path) -> None:
    table, file = drawn(1), tmp_path / "similar.npy"
    table.save(file)
    again = ItemToItem.load(file)
    np.testing.assert_array_equal(again.items, table.items)
    np.testing.assert_array_equal(again.weights, table.weights)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_another_array_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "wrong.npy", np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"train again"):
        ItemToItem.load(tmp_path / "wrong.npy")


def test_newer_items_count_more() -> None:
    np.testing.assert_allclose(rank_weights(3, 0.5), [1, 0.5, 0.25])
    np.testing.assert_allclose(rank_weights(2, 1.0), [1, 1])
    assert rank_weights(0, 0.5).shape == (0,)


def test_a_table_stays_within_half_a_gigabyte() -> None:
    assert most_entries(7_000, 100) == 100
    assert most_entries(50, 100) == 50
    assert most_entries(10_000_000, 100) * 10_000_000 * ENTRY.itemsize <= 2**29
    assert most_entries(0, 100) == 1
