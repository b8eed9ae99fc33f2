from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from training.metrics.lists import (
    bootstrap,
    list_metrics,
    means,
    ndcg_at,
    recall_at,
    retrieval_metrics,
    top_k,
)


def test_recall_is_hits_over_all_relevant_even_beyond_k() -> None:
    hits = np.array([[True, False, True, True]])
    assert recall_at(hits, np.array([5]), 3) == pytest.approx([2 / 5])


def test_ndcg_ideal_holds_the_smaller_of_relevant_and_k() -> None:
    hits = np.array([[False, True, False]])
    gain = 1 / np.log2(3)
    assert ndcg_at(hits, np.array([1]), 3) == pytest.approx([gain])
    assert ndcg_at(hits, np.array([9]), 2) == pytest.approx([gain / (1 + gain)])


def test_a_user_with_nothing_relevant_counts_in_no_mean() -> None:
    relevant = csr_matrix(np.array([[0, 0, 1], [0, 0, 0]]))
    metrics = list_metrics(np.array([[2, 1], [0, 1]]), relevant, (1,))
    assert means(metrics) == {"recall@1": 1.0, "ndcg@1": 1.0}


def test_ties_keep_the_order_of_the_catalogue() -> None:
    scores = np.array([[1, 3, 1, 3, 1, 1]], dtype=np.float32)
    assert top_k(scores, 4).tolist() == [[1, 3, 0, 2]]


def test_what_is_not_finite_is_not_in_the_list() -> None:
    scores = np.array([[-np.inf, 0.5, -np.inf]], dtype=np.float32)
    assert top_k(scores, 2).tolist() == [[1, -1]]


def test_seen_items_are_no_answers() -> None:
    scores = np.array([[9, 8, 1]], dtype=np.float32)
    relevant, seen = csr_matrix([[0, 0, 1]]), csr_matrix([[1, 1, 0]])
    assert retrieval_metrics(lambda _: scores, relevant, seen, (1,))["recall@1"] == 1
    assert retrieval_metrics(lambda _: scores, relevant, csr_matrix((1, 3)), (1,))["recall@1"] == 0


def test_the_interval_shrinks_with_users_and_repeats_with_its_seed() -> None:
    values = np.random.default_rng(0).random(4000)
    few, many = bootstrap(values[:100]), bootstrap(values)
    assert many == bootstrap(values)
    assert many[1] - many[0] < (few[1] - few[0]) / 3
    assert many[0] < values.mean() < many[1]


def test_users_without_a_value_leave_the_interval_alone() -> None:
    values = np.random.default_rng(1).random(50)
    assert bootstrap(np.concatenate([values, [np.nan]])) == bootstrap(values)
