"""What all lists together show."""

from __future__ import annotations

import numpy as np
import pytest

from training.evaluation.report import Report, over_seeds
from training.metrics.served import coverage, diversity, exposures, gini


def test_the_tail_of_a_short_list_shows_nothing() -> None:
    shown = exposures(np.array([[0, 2], [2, -1]]), 4)
    assert shown.tolist() == [1, 0, 2, 0]
    assert coverage(shown) == 0.5


def test_gini_is_0_where_all_are_shown_alike_and_nears_1_where_one_takes_all() -> None:
    assert gini(np.full(7, 3)) == pytest.approx(0)
    assert gini(np.array([0] * 99 + [10])) == pytest.approx(0.99)


def test_gini_is_half_the_mean_difference_over_the_mean() -> None:
    shown = np.random.default_rng(0).integers(0, 9, 30)
    expected = np.abs(shown[:, None] - shown).mean() / (2 * shown.mean())
    assert gini(shown) == pytest.approx(expected)


def test_gini_of_nothing_shown_is_not_known() -> None:
    assert np.isnan(gini(np.zeros(3, dtype=np.int64)))


def test_diversity_is_the_mean_cosine_distance_of_the_pairs() -> None:
    vectors = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32) * 5
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    distance = 1 - unit @ unit.T
    found = diversity(np.array([[0, 3, 5], [1, 4, -1], [2, -1, -1]]), vectors)
    assert found[0] == pytest.approx((distance[0, 3] + distance[0, 5] + distance[3, 5]) / 3, abs=1e-6)
    assert found[1] == pytest.approx(distance[1, 4], abs=1e-6)
    assert np.isnan(found[2])


def test_a_list_of_one_item_again_and_again_has_no_diversity() -> None:
    assert diversity(np.array([[0, 0, 0]]), np.array([[3.0, 4.0]], dtype=np.float32)) == pytest.approx(
        0, abs=1e-6
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("is_full", [False, True])
def test_what_no_list_has_is_in_no_report_as_where_a_catalogue_has_one_new_item(is_full: bool) -> None:
    one, two = Report(is_full), Report(is_full)
    for report, lists in ((one, [[1, 2]]), (two, [[1, -1]])):
        found = diversity(np.array(lists), np.eye(3, dtype=np.float32))
        report.add("end_to_end", "new items alone", {"diversity@10": found, "coverage@10": 0.5})
    assert two.sections == {"end_to_end": {"new items alone": {"coverage@10": 0.5}}}
    merged = over_seeds([one, two])["end_to_end"]["new items alone"]
    assert merged["diversity@10"] == pytest.approx(1)


def test_a_section_that_some_seeds_alone_have_is_averaged_over_those() -> None:
    one, two, three = Report(False), Report(False), Report(False)
    for at, report in enumerate((one, two, three)):
        report.add("end_to_end", "slates as served", {"ndcg@10": 0.1 * (at + 1)})
    for at, report in enumerate((two, three)):
        report.add("new_items", "slates as served", {"recall@10": 0.2 + at})
    merged = over_seeds([one, two, three])
    assert merged["end_to_end"]["slates as served"]["ndcg@10"] == pytest.approx(0.2)
    assert merged["end_to_end"]["slates as served"]["ndcg@10_seeds"] == pytest.approx(0.1)
    assert merged["new_items"]["slates as served"]["recall@10"] == pytest.approx(0.7)
    assert list(merged) == ["end_to_end", "new_items"]
