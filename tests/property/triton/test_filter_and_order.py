"""Invariants of filtering and ordering, against plain Python."""

from __future__ import annotations

import hypothesis.extra.numpy as hnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from contract.slates import Rule
from contract.tensors import PAD_ID
from ensemble.stages.filter import POSITION, first_k, is_among, removed_by
from ensemble.stages.order import top_n


@given(data=st.data(), k=st.integers(1, 32), n=st.integers(1, 40))
def test_slate_is_live_unique_full_and_descending(data: st.DataObject, k: int, n: int) -> None:
    ids, scores = np.arange(k)[None], data.draw(hnp.arrays(np.float32, (1, k)))  # NaN and inf included
    mask = data.draw(hnp.arrays(np.bool_, (1, k)))
    item_ids, item_scores = top_n(ids, scores, mask, n)
    live = set(ids[mask & np.isfinite(scores)].tolist())
    slate = [i for i in item_ids[0].tolist() if i != PAD_ID]
    assert item_ids.shape == (1, n)
    assert set(slate) <= live
    assert len(slate) == len(set(slate)) == min(n, len(live))
    assert (item_scores[0, :-1] >= item_scores[0, 1:]).all()


ROW = st.lists(st.integers(0, 12), unique=True, max_size=12)


@given(rows=st.lists(st.tuples(ROW, ROW, ROW), min_size=1, max_size=4), k=st.integers(1, 8))
def test_the_first_k_survivors_are_those_of_plain_python(
    rows: list[tuple[list[int], list[int], list[int]]], k: int
) -> None:
    ids, seen, excluded = (_padded([row[part] for row in rows]) for part in range(3))
    rules = {Rule.EXCLUDED: lambda: is_among(ids, excluded), Rule.SEEN: lambda: is_among(ids, seen)}
    removed = removed_by(ids, rules, np.full((len(rows), 1), k))
    scores = np.linspace(1, 0, ids.size, dtype=np.float32).reshape(ids.shape)
    of_sources = np.stack([scores, -scores], axis=1)
    survives = (removed == 0) & (ids != PAD_ID)
    found, found_scores, found_of_sources, mask = first_k(ids, scores, of_sources, survives, k)
    np.testing.assert_array_equal(found_of_sources[:, 0][mask], found_scores[mask])
    np.testing.assert_array_equal(found_of_sources[:, 1][mask], -found_scores[mask])
    assert not found_of_sources.swapaxes(1, 2)[~mask].any()
    for row, (retrieved, watched, unwanted) in enumerate(rows):
        survivors = [i for i in retrieved if i not in watched and i not in unwanted]
        expected = survivors[:k]
        assert found[row][mask[row]].tolist() == expected
        assert found[row].tolist()[: len(expected)] == expected, "at the front"
        assert (found[row][~mask[row]] == PAD_ID).all()
        assert np.isneginf(found_scores[row][~mask[row]]).all()
        for item_id, rule in zip(retrieved, removed[row].tolist(), strict=False):
            reason = Rule.EXCLUDED if item_id in unwanted else Rule.SEEN if item_id in watched else None
            if reason is None and item_id not in expected:
                reason = Rule.BEYOND_K
            assert rule == (POSITION[reason] if reason else 0)


def _padded(rows: list[list[int]]) -> np.ndarray:
    array = np.full((len(rows), 14), PAD_ID, dtype=np.int64)
    for row, values in enumerate(rows):
        array[row, : len(values)] = values
    return array
