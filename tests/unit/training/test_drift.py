"""Histograms and distances: what tells what is served from what a bundle was made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from contract.drift import Histogram, Reference, jensen_shannon, nearest, psi, shares
from contract.names import NULL_INT


@pytest.mark.parametrize(
    ("values", "is_number", "labels", "counts"),
    [
        (np.array([np.nan, *range(1, 11)]), True, ("null", "to 1.9", "above 9.1"), [1] * 11),
        (np.array([3, 3, NULL_INT]), True, ("null", "to 3", "above 3"), [1, 2, 0]),
        (np.array(["b", "a", None, "b"], dtype=object), False, ("null", "b", "a", "other"), [1, 2, 1, 0]),
        (np.array([7, 7, 5, NULL_INT]), False, ("null", "7", "5", "other"), [1, 2, 1, 0]),
        (np.array([True, False, True]), False, ("null", "True", "False", "other"), [0, 2, 1, 0]),
        (np.array([np.nan]), True, ("null", "any"), [1, 0]),
        (np.array([], dtype=object), False, ("null", "other"), [0, 0]),
    ],
    ids=["numbers", "one number", "texts", "codes", "booleans", "nulls alone", "nothing"],
)
def test_a_histogram_has_a_bin_of_nulls_and_of_what_is_there(
    values: Any, is_number: bool, labels: tuple[str, ...], counts: list[int]
) -> None:
    made = Histogram.of(values, is_number=is_number)
    assert (made.labels[0], made.labels[1], made.labels[-1]) == (labels[0], labels[1], labels[-1])
    assert list(made.counts) == counts
    assert len(made.labels) == len(counts)


def test_what_the_bundle_never_saw_is_counted_as_other() -> None:
    made = Histogram.of(np.array(["a", "b"], dtype=object), is_number=False)
    assert made.count(np.array(["z", "b", None, "zz"], dtype=object)).tolist() == [1, 0, 1, 2]
    numbers = Histogram.of(np.array([1.0, 2.0]), is_number=True)
    assert numbers.count(np.array([-9.0, 9.0, np.nan])).sum() == 3


def test_a_reference_survives_its_file_and_leaves_out_what_it_does_not_know() -> None:
    made = Reference.of({"x": np.array([1.0, 2.0]), "y": np.array([1, 2])}, {"x"})
    assert Reference.model_validate_json(made.model_dump_json()) == made
    assert set(made.count({"x": np.array([1.5]), "z": np.array([1])})) == {"x"}


def test_distances_are_those_of_the_formulas() -> None:
    former, now = np.array([0.5, 0.5]), np.array([0.9, 0.1])
    assert psi(former, now) == pytest.approx(0.4 * np.log(1.8) - 0.4 * np.log(0.2))
    assert psi(former, former) == jensen_shannon(former, former) == 0
    apart = np.array([1 - 1e-12, 1e-12])
    assert jensen_shannon(apart, apart[::-1]) == pytest.approx(1, abs=1e-9)
    assert 0 < jensen_shannon(former, now) < 0.25


def test_an_empty_bin_is_at_no_infinite_distance() -> None:
    assert np.isfinite(psi(shares([10, 0]), shares([0, 10])))


def test_the_nearest_items_are_found_whatever_the_size() -> None:
    rng = np.random.default_rng(0)
    users, items = rng.normal(size=(7, 4)).astype(np.float32), rng.normal(size=(300, 4)).astype(np.float32)
    expected = np.argsort(-(users @ items.T), axis=1)[:, :100]
    assert np.array_equal(np.sort(nearest(users, items)), np.sort(expected))
    assert nearest(users, items[:3]).shape == (7, 3)
