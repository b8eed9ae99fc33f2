"""B users in one call give what B calls give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contract.errors import StageError
from contract.tensors import ANSWER_TENSORS, NO_CONTEXT, PAD_ID, unpack
from ensemble.run.recommender import Recommender
from tests.builders.triton import BRANDS, World, make_recommender, make_request

FILTERS: list[dict[str, Any]] = [
    {},
    {"item_category": [1, 2]},
    {"item_brand": [BRANDS[1]]},
    {"item_colour": [1]},
]
REQUEST = st.builds(
    make_request,
    user_id=st.integers(98, 122),  # two of them unknown to the store, some to the encoders
    n=st.integers(0, 101),
    excluded=st.lists(st.integers(10, 190), max_size=40),
    filters=st.sampled_from(FILTERS),
    surface=st.sampled_from([NO_CONTEXT, 0, 1, 7]),
    seed=st.integers(0, 3),
    quality=st.sampled_from([1.0, 1.0, 0.7, 0.0]),
    like=st.sampled_from([PAD_ID, PAD_ID, 40]),
)


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_a_batch_gives_what_single_requests_give(world: World, temperature: float) -> None:
    recommender = make_recommender(world, exploration_temperature=temperature)

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(requests=st.lists(REQUEST, min_size=2, max_size=9))
    def check(requests: list[dict[str, Any]]) -> None:
        together = recommender.answer(requests)
        alone = [recommender.answer([request])[0] for request in requests]
        for one, other in zip(together, alone, strict=True):
            assert_equal_answers(one, other)
            assert_packed(one)

    check()


def test_every_tensor_of_the_chain_is_the_same_in_a_batch(recommender: Recommender) -> None:
    requests = [make_request(user_id, n=7) for user_id in range(98, 122)]
    together = recommender.answer(requests)
    for request, answer in zip(requests, together, strict=True):
        (alone,) = recommender.answer([request])
        assert not isinstance(answer, StageError)
        assert not isinstance(alone, StageError)
        assert list(answer) == list(alone)
        for name, array in alone.items():
            if name.endswith("_us"):
                continue
            if array.dtype.kind == "f":
                np.testing.assert_allclose(answer[name], array, atol=1e-6, err_msg=name)
            else:
                np.testing.assert_array_equal(answer[name], array, err_msg=name)


def assert_packed(answer: Any) -> None:
    """Holds what travels of an answer against its tensors."""
    if not isinstance(answer, StageError):
        for name, array in unpack(answer.packed, ANSWER_TENSORS).items():
            np.testing.assert_array_equal(array, answer[name], err_msg=name)


def assert_equal_answers(one: Any, other: Any) -> None:
    """Compares items exactly, except between scores closer than 1e-6, and scores within 1e-6."""
    if isinstance(other, StageError):
        assert str(one) == str(other)
        return
    assert not isinstance(one, StageError)
    np.testing.assert_allclose(one["item_scores"], other["item_scores"], atol=1e-6)
    differs = one["item_ids"] != other["item_ids"]
    if differs.any():
        score = dict(zip(other["candidate_ids"][0], other["ranking_scores"][0], strict=True))
        swapped = zip(one["item_ids"][differs], other["item_ids"][differs], strict=True)
        gaps = [abs(score[a] - score[b]) for a, b in swapped]
        assert max(gaps) < 1e-6
    for name in ("degraded", "removed_by", "candidate_ids"):
        np.testing.assert_array_equal(one[name], other[name])
