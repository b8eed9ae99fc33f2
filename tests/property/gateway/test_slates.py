"""Invariants of the popular slate, of the tensors, and of what callers may send."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from hypothesis import event, given
from hypothesis import strategies as st
from pydantic import ValidationError

from contract.errors import ErrorCode, StageError
from contract.filters import check_filters
from contract.tensors import EXCLUDE_WIDTHS, FILTER_WIDTHS, MAX_N, NO_CONTEXT, PAD_ID
from service.failures import DependencyUnavailable
from service.schemas import RecommendRequest
from service.slates.popular import FILTERS, PopularSlates
from service.triton.client import triton_error
from service.triton.tensors import RequestRow, decode_slate, encode_rows, seed_of
from service.variant import PopularItem
from tests.builders.gateway import make_outputs

OPTIONAL = ("exclude_item_ids", "filters")
ids = st.integers(0, 2**63 - 1)
few_ids = st.lists(st.integers(0, 30), max_size=20)
genres = st.sampled_from(["a", "b", "c"])
DTYPES = {"item_genre": "string", "item_tags": "string"}
items = st.lists(
    st.builds(
        lambda item_id, fields: PopularItem(item_id=item_id, score=1.0, **fields),
        st.integers(0, 30),
        st.fixed_dictionaries({}, optional={"item_genre": genres, "item_tags": st.lists(genres, max_size=2)}),
    ),
    unique_by=lambda item: item.item_id,
    max_size=30,
)
filters = st.dictionaries(
    st.sampled_from(["item_genre", "item_tags"]), st.lists(genres, min_size=1, max_size=2)
)
requests = st.builds(
    RecommendRequest,
    user_id=ids,
    n=st.integers(1, MAX_N),
    context=st.dictionaries(
        st.sampled_from(["context_a", "context_b"]), st.integers(-(2**63) + 1, 2**63 - 1)
    ),
    exclude_item_ids=st.lists(ids, max_size=200),
    filters=st.dictionaries(
        st.text(max_size=20),
        st.lists(st.integers(-(2**63), 2**63 - 1) | st.text(min_size=1), min_size=1, max_size=3),
    ),
)


@given(items, few_ids, few_ids, filters, st.integers(1, 40))
def test_the_popular_slate_is_what_a_plain_loop_would_keep(
    items: list[PopularItem], seen: list[int], excluded: list[int], wanted: dict[str, list[str]], n: int
) -> None:
    request = RecommendRequest(user_id=1, n=n, exclude_item_ids=excluded, filters=wanted, explain=True)
    slate = PopularSlates(items, DTYPES).slate(request, check_filters(wanted, DTYPES), seen)

    def fits(item: PopularItem, column: str) -> bool:
        value = item.fields.get(column, [])
        return bool(set(value if isinstance(value, list) else [value]) & set(wanted[column]))

    expected = [
        i.item_id
        for i in items
        if i.item_id not in {*seen, *excluded} and all(fits(i, column) for column in wanted)
    ]
    assert slate.item_ids == expected[:n]
    assert ("short" in slate.degraded) == (len(expected) < n)
    doubtful = [
        i
        for i in items
        if i.item_id not in {*seen, *excluded}
        and any(column not in i.fields for column in wanted)
        and all(column not in i.fields or fits(i, column) for column in wanted)
    ]
    assert (FILTERS in slate.degraded) == bool(doubtful)
    assert slate.retrieved is not None
    assert len(slate.retrieved) == len(items)
    assert sum(slate.removed().values()) == len(items) - len(expected)


@given(
    st.lists(st.tuples(requests, st.integers(0, 2**62), st.integers(0, 2**63 - 1)), min_size=1, max_size=4)
)
def test_the_tensors_of_several_requests_say_what_each_of_them_says(
    asked: list[tuple[RecommendRequest, int, int]],
) -> None:
    context = ("context_a", "context_b")
    try:
        rows = [RequestRow.of(request, at(deadline_us), seed, 0.5) for request, deadline_us, seed in asked]
    except StageError as refusal:
        event(f"refused as {refusal.code}")
        is_long = any(len(json.dumps(one.filters)) > FILTER_WIDTHS[-1] for one, _, _ in asked)
        if is_long and refusal.code is ErrorCode.BAD_REQUEST:
            return
        raise
    tensors = encode_rows(rows, context)
    assert all(tensor.ndim == 2 and tensor.shape[0] == len(rows) for tensor in tensors.values())
    given_ids, given_filters = (any(getattr(one, name) for one, _, _ in asked) for name in OPTIONAL)
    assert [name in tensors for name in OPTIONAL] == [given_ids, given_filters]
    nothing = np.full((len(rows), 0), 0)
    excluded_ids, filters = (tensors.get(name, nothing) for name in OPTIONAL)
    assert not given_ids or excluded_ids.shape[1] in EXCLUDE_WIDTHS
    assert not given_filters or filters.shape[1] in FILTER_WIDTHS
    assert tensors["quality"].tolist() == [[0.5]] * len(rows)
    for row, (request, deadline_us, seed) in enumerate(asked):
        excluded = excluded_ids[row].tolist()
        assert excluded[: len(request.exclude_item_ids)] == request.exclude_item_ids
        assert set(excluded[len(request.exclude_item_ids) :]) <= {PAD_ID}
        written = np.asarray(filters[row], np.uint8).tobytes().rstrip(b"\0")
        assert json.loads(written or b"{}") == request.filters
        for name in context:
            assert tensors[name][row, 0] == request.context.get(name, NO_CONTEXT)
        scalars = {"user_id": request.user_id, "n": request.n, "deadline_us": deadline_us, "seed": seed}
        assert {name: int(tensors[name][row, 0]) for name in scalars} == scalars


def at(deadline_us: int) -> Any:
    """A deadline at exactly this unix time."""

    class Fixed:
        def unix_us(self) -> int:
            return deadline_us

    return Fixed()


@given(st.integers(0, 2000), st.integers(1, 100), few_ids, st.integers(1, 60), st.booleans())
def test_a_decoded_slate_is_unpadded_descending_and_consistent_with_its_explanation(
    user_id: int, n: int, excluded: list[int], k: int, is_explained: bool
) -> None:
    slate = decode_slate(make_outputs(user_id, n, [200 + i for i in excluded], k=k), n, is_explained)
    assert PAD_ID not in slate.item_ids
    assert len(slate.item_ids) == len(slate.scores) <= n
    assert slate.scores == sorted(slate.scores, reverse=True)
    assert (slate.retrieved is not None) == is_explained
    by_place = sorted((one.slate_rank, one.item_id) for one in slate.retrieved or [] if one.slate_rank)
    assert not is_explained or [item_id for _, item_id in by_place] == slate.item_ids
    for one in slate.retrieved or []:
        assert (one.removed_by is None) == (one.ranking_score is not None)
        assert one.slate_rank is None or one.slate_rank == one.ranking_rank


@given(st.text(), st.text())
def test_any_failure_of_triton_has_a_meaning(status: str, message: str) -> None:
    assert isinstance(triton_error(status, message), StageError | DependencyUnavailable)


@given(st.dictionaries(st.text(max_size=20), st.none() | st.integers() | st.text() | st.lists(st.integers())))
def test_any_json_object_is_a_request_or_is_refused(body: dict[str, object]) -> None:
    try:
        request = RecommendRequest.model_validate_json(json.dumps(body))
    except ValidationError:
        return  # any other exception would fail the test
    assert 1 <= request.n <= MAX_N


@given(st.text(st.characters(codec="ascii")))
def test_a_seed_fits_its_tensor(request_id: str) -> None:
    assert 0 <= seed_of(request_id) < 2**63
