"""The quick route reads a body in one step, the framework in two: a body means the same to both."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import event, given
from hypothesis import strategies as st
from pydantic import ValidationError

from service.schemas import RecommendRequest

leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.integers(0, 5)
    | st.floats(allow_nan=True, allow_infinity=True)
    | st.sampled_from(["", "7", "a", "ä\u2028"])
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)
fields = {name: values for name in RecommendRequest.model_fields}
likely = {
    "n": st.integers(0, 101),
    "exclude_item_ids": st.lists(st.integers(-1, 2**64), max_size=3),
    "filters": st.dictionaries(st.sampled_from(["item_genre"]), st.lists(leaves, max_size=3)),
    "context": st.dictionaries(st.sampled_from(["context_tab"]), leaves),
    "explain": leaves,
    "latency_budget_ms": leaves,
}
bodies = (
    st.fixed_dictionaries({"user_id": st.integers(-1, 2**64)}, optional=likely)
    | st.fixed_dictionaries({}, optional=fields | {"k": leaves})
    | values
)


@given(bodies)
def test_both_readers_take_the_same_bodies_to_mean_the_same(content: Any) -> None:
    body = json.dumps(content)
    # As text: a NaN among the filters, which are looked at later, equals nothing.
    assert repr(_read(RecommendRequest.model_validate_json, body)) == repr(
        _read(RecommendRequest.model_validate, json.loads(body))
    )


def _read(reader: Any, body: Any) -> RecommendRequest | None:
    try:
        request: RecommendRequest = reader(body)
    except ValidationError:
        event("refused")
        return None
    event("taken")
    return request
