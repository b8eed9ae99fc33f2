from __future__ import annotations

import math

import hypothesis.extra.numpy as hnp
import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from training.metrics.lists import retrieval_metrics


def oracle(
    scores: npt.NDArray[np.float32], relevant: set[int], seen: set[int], k: int
) -> tuple[float, float]:
    """Recall and NDCG at k of one user, by the definitions, in plain Python."""
    answers = sorted((i for i in range(len(scores)) if i not in seen), key=lambda i: (-scores[i], i))[:k]
    gain = sum(1 / math.log2(rank + 2) for rank, item in enumerate(answers) if item in relevant)
    ideal = sum(1 / math.log2(rank + 2) for rank in range(min(len(relevant), k)))
    return len(relevant & set(answers)) / len(relevant), gain / ideal


@given(st.data(), st.integers(1, 6), st.integers(2, 12), st.integers(1, 14))
def test_metrics_equal_a_plain_oracle(data: st.DataObject, users: int, items: int, k: int) -> None:
    few_values = st.sampled_from([0.0, 0.5, 1.0, -2.0])  # ties are the hard case
    scores = data.draw(hnp.arrays(np.float32, (users, items), elements=few_values))
    seen = data.draw(hnp.arrays(np.bool_, (users, items)))
    relevant = data.draw(hnp.arrays(np.bool_, (users, items))) & ~seen
    metrics = retrieval_metrics(
        lambda rows: scores[rows], csr_matrix(relevant), csr_matrix(seen), (k,), rows=2
    )
    for user in range(users):
        wanted = set(np.flatnonzero(relevant[user]).tolist())
        if not wanted:
            assert math.isnan(metrics[f"recall@{k}"][user])
            continue
        recall, ndcg = oracle(scores[user], wanted, set(np.flatnonzero(seen[user]).tolist()), k)
        np.testing.assert_allclose(metrics[f"recall@{k}"][user], recall)
        np.testing.assert_allclose(metrics[f"ndcg@{k}"][user], ndcg)
