"""Invariants of stored slates: their codecs, the pointer's, and what is left of one at reading."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from contract.filters import check_filters
from contract.keys import slate_key
from contract.slates import Degradation, Published, StoredSlate, degradation_mask
from contract.tensors import MAX_N
from service.failures import DependencyUnavailable, NotStored
from service.limits.deadline import Deadline
from service.schemas import RecommendRequest
from service.slates.batch import BatchStep
from service.slates.ladder import SlateRequest
from tests.builders.gateway import make_stored, variant_of
from tests.builders.memory_store import MemoryStore

names = (
    st.text(max_size=40)
    .filter(lambda name: len(name.encode(errors="replace")) < 256)
    .filter(lambda name: name.isprintable())
)
flags = st.sets(st.sampled_from(Degradation)).map(degradation_mask)
item_ids = st.lists(st.integers(0, 2**32 + 5) | st.integers(0, 2**63 - 1), unique=True, max_size=MAX_N)


@st.composite
def slates(draw: st.DrawFn) -> StoredSlate:
    ids = np.array(draw(item_ids), dtype=np.int64)
    scores = draw(hnp.arrays(np.float32, len(ids), elements=st.floats(width=32, allow_nan=False)))
    return StoredSlate(ids, scores, draw(flags), draw(names), draw(names), draw(st.integers(0, 2**53)))


@given(slates())
def test_a_slate_comes_back_as_it_was_stored(slate: StoredSlate) -> None:
    packed = slate.encode()
    again = StoredSlate.decode(packed)
    for field in fields(StoredSlate):
        one, other = getattr(slate, field.name), getattr(again, field.name)
        assert np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other, field.name
    assert again.item_ids.dtype == np.int64
    assert again.item_scores.dtype == np.float32
    assert again.encode() == packed
    width = 4 if slate.item_ids.max(initial=0) < 2**32 else 8
    of_names = len(slate.bundle.encode()) + len(slate.run.encode())
    assert len(packed) == 16 + of_names + len(slate.item_ids) * (width + 4)


@given(slates(), st.data())
def test_a_slate_that_was_cut_or_grew_is_refused(slate: StoredSlate, data: st.DataObject) -> None:
    packed = slate.encode()
    cut = data.draw(st.integers(0, len(packed) - 1))
    for damaged in (packed[:cut], packed + b"\0" * data.draw(st.integers(1, 20))):
        with pytest.raises(ValueError, match="stored slate"):
            StoredSlate.decode(damaged)


@given(
    st.binary(max_size=300)
    | st.builds(
        lambda s, i, b: s[:i] + bytes([b]) + s[i + 1 :],
        slates().map(StoredSlate.encode),
        st.integers(0, 60),
        st.integers(0, 255),
    )
)
def test_any_bytes_are_a_slate_or_are_refused(value: bytes) -> None:
    try:
        slate = StoredSlate.decode(value)
    except ValueError:
        return  # any other exception would fail the test
    assert slate.item_ids.shape == slate.item_scores.shape


lineages = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), max_size=9).map(tuple)


@given(lineages, lineages)
def test_a_pointer_comes_back_as_it_was_written(lineage: tuple[str, ...], former: tuple[str, ...]) -> None:
    published = Published(lineage, former)
    assert Published.decode(published.encode()) == published


@given(
    st.binary(max_size=60)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(st.characters()),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["lineage", "former", "x"]), inner, max_size=3)
        ),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_bytes_are_a_pointer_or_are_refused(value: bytes) -> None:
    try:
        published = Published.decode(value)
    except ValueError:
        event("refused")
        return
    for run in (*published.lineage, *published.former):
        assert slate_key(run, 7).encode()


def test_no_key_means_that_nothing_is_published_and_deep_nesting_is_refused() -> None:
    assert Published.decode(None) == Published(())
    for damaged in (
        b"[" * 100_000,
        b'{"lineage": ["\\ud800"], "former": []}',
        b'{"lineage": "ab", "former": []}',
    ):
        with pytest.raises(ValueError, match="no pointer"):
            Published.decode(damaged)


few_ids = st.lists(st.integers(0, 30), max_size=12)
few_slates = st.lists(st.integers(0, 30), unique=True, max_size=30)
genres = st.sampled_from(["a", "b", "c"])
rows = st.dictionaries(
    st.integers(0, 30), st.fixed_dictionaries({}, optional={"genre": st.frozensets(genres, max_size=2)})
)
wanted = st.dictionaries(st.just("genre"), st.lists(genres, min_size=1, max_size=2), max_size=1)


@given(
    few_slates, few_ids, st.sets(st.integers(0, 30)), few_ids, rows, wanted, st.integers(1, 20), st.booleans()
)
def test_what_is_left_of_a_slate_is_what_a_plain_loop_would_keep(
    stored: list[int],
    seen: list[int],
    unavailable: set[int],
    excluded: list[int],
    columns: Mapping[int, Mapping[str, Any]],
    filters: dict[str, Any],
    n: int,
    is_explained: bool,
) -> None:
    slate = make_stored(stored)
    store = MemoryStore(
        {7: seen}, {}, Published(("run",)), [(7, make_stored(stored, run="run"))], unavailable, columns
    )
    request = RecommendRequest(
        user_id=7, n=n, exclude_item_ids=excluded, filters=filters, explain=is_explained, source="batch"
    )

    def fits(item_id: int) -> bool:
        row = columns.get(item_id, {})
        return all(set(row.get(column, ())) & set(allowed) for column, allowed in filters.items())

    score_of = dict(zip(stored, slate.item_scores.tolist(), strict=True))
    expected = [i for i in stored if i not in {*seen, *unavailable, *excluded} and fits(i)]
    asked = SlateRequest(request, check_filters(filters, {"genre": "string"}), "id", Deadline.after(60))
    step = BatchStep(variant_of(store))
    if not expected:
        with pytest.raises(NotStored):
            asyncio.run(step.slate(asked))
        return
    left = asyncio.run(step.slate(asked))
    assert left.item_ids == expected[:n]
    assert left.scores == [score_of[item_id] for item_id in expected[:n]]
    assert ("short" in left.degraded) == (len(expected) < n)
    assert (left.retrieved is not None) == is_explained
    if left.retrieved is not None:
        assert [one.item_id for one in left.retrieved] == stored
        assert [one.item_id for one in left.retrieved if one.removed_by is None] == expected
        assert [one.item_id for one in left.retrieved if one.slate_rank] == expected[:n]


@given(
    st.integers(-(2**63), 2**63 - 1),
    hnp.arrays(np.float32, 3),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=3, max_size=3),
)
def test_whatever_a_slate_says_it_is_served_with_an_age_or_declined(
    made_at_ms: int, scores: Any, ids: list[int]
) -> None:
    slate = StoredSlate(np.array(ids), scores, 0, "bundle", "run", made_at_ms)
    store = MemoryStore({}, {}, Published(("run",)), [(7, slate)])
    step = BatchStep(variant_of(store))
    try:
        asked = SlateRequest(RecommendRequest(user_id=7), {}, "id", Deadline.after(60))
        left = asyncio.run(step.slate(asked))
    except DependencyUnavailable:
        event("declined")
        return
    assert left.provenance is not None
    assert left.provenance.age_s >= 0
    assert np.isfinite(left.scores).all()
