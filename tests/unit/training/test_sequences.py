"""What users did in order, as baselines are asked with it."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from contract.dataset import ANY
from tests.unit.training.test_activity import START, prepared
from training.examples.sequences import Sequences

ROWS: list[tuple[int, int, float | None, int | None]] = [
    (1, 10, None, 1),
    (1, 11, 0.5, 0),
    (2, 12, 0.1, 1),
    (1, 12, 0.6, 1),
    (1, 10, 0.7, 0),
    (2, 10, 3.0, 1),
]


def sequences(label: str = ANY, days: float = 2.0) -> Sequences:
    """Takes `ROWS` before some days after START, of items 10, 11 and 12."""
    return Sequences.of(prepared(ROWS), START + timedelta(days=days), label)


def test_all_items_weigh_alike_without_decay() -> None:
    assert sequences().weighted(1.0).toarray().tolist() == [[1, 1, 1], [0, 0, 1]]


def test_an_item_weighs_less_with_every_newer_one_and_counts_where_it_is_newest() -> None:
    assert sequences().weighted(0.5).toarray().tolist() == [[1, 0.25, 0.5], [0, 0, 1]]


def test_a_decay_of_nothing_keeps_the_last_item() -> None:
    assert sequences().weighted(0.0).toarray().tolist() == [[1, 0, 0], [0, 0, 1]]


def test_with_a_label_only_its_positives_are_there() -> None:
    assert sequences("is_click").weighted(0.5).toarray().tolist() == [[0.5, 0, 1], [0, 0, 1]]


def test_what_comes_later_is_not_known() -> None:
    assert sequences(days=4.0).weighted(1.0)[1].toarray().tolist() == [[1, 0, 1]]


def test_transitions_are_from_one_interaction_to_the_next_of_the_same_user() -> None:
    counts = sequences().transitions().toarray()
    assert counts.tolist() == [[0, 1, 0], [0, 0, 1], [1, 0, 0]]


@pytest.mark.parametrize("label", [ANY, "is_click"])
def test_nothing_before_the_first_interaction_is_nothing(label: str) -> None:
    early = Sequences.of(prepared(ROWS[2:3]), START, label)
    assert early.weighted(0.5).nnz == early.transitions().nnz == 0
    assert not np.any(early.places)
