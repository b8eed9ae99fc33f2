"""What the gateway says to Triton, and what it makes of the answers: over the real wire."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import numpy as np
import pytest
from tritonclient.utils import np_to_triton_dtype, triton_to_np_dtype

from contract.errors import ErrorCode, StageError
from contract.slates import Degradation
from contract.tensors import (
    ANSWER,
    EXPLAIN_TENSORS,
    NO_CONTEXT,
    OPTIONAL_TENSORS,
    REQUEST,
    REQUEST_TENSORS,
    request_tensor,
)
from service.failures import DependencyUnavailable
from service.limits.deadline import Deadline
from service.schemas import RecommendRequest, SimilarRequest
from service.settings import TritonSettings
from service.slate import SourceTrace
from service.triton.client import EnsembleClient, TritonClient, triton_error
from tests.builders.gateway import BUNDLE, CONTEXT, FakeEnsemble, variant_of
from tests.builders.triton_wire import FakeTriton, fake_triton, read_inputs, wire_inputs

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def connected(triton: FakeTriton) -> AsyncIterator[TritonClient]:
    async with reaching(f"127.0.0.1:{triton.port}") as ensemble:
        yield ensemble


@asynccontextmanager
async def reaching(address: str) -> AsyncIterator[TritonClient]:
    ensemble = TritonClient(TritonSettings(address=address), variant_of().manifest)
    await ensemble.open()
    try:
        yield ensemble
    finally:
        await ensemble.close()


def test_both_ensembles_keep_the_protocol() -> None:
    assert isinstance(FakeEnsemble(), EnsembleClient)
    assert isinstance(TritonClient(TritonSettings(), variant_of().manifest), EnsembleClient)


async def test_every_request_sends_every_tensor_in_the_contracts_dtype_and_width() -> None:
    asked = RecommendRequest(
        user_id=2**62,
        n=3,
        context={"context_tab": 4},
        exclude_item_ids=list(range(17)),
        filters={"item_genre": ["dräma"]},
    )
    async with fake_triton() as triton, connected(triton) as ensemble:
        before = time.time()
        await ensemble.recommend(asked, Deadline.after(5), seed=11)
        await ensemble.recommend(RecommendRequest(user_id=1), Deadline.after(5), seed=2**63 - 1)
    promised = {tensor.name: tensor for tensor in (request_tensor(CONTEXT), *OPTIONAL_TENSORS)}
    needed = ({REQUEST, "exclude_item_ids", "filters"}, {REQUEST})
    for request, names in zip(triton.requests, needed, strict=True):
        assert request.model_name == BUNDLE
        tensors = wire_inputs(request)
        assert set(tensors) == names
        for name, tensor in tensors.items():
            assert tensor.dtype == promised[name].dtype, name
            assert tensor.shape[0] == 1, name
            assert promised[name].width in (-1, tensor.shape[1]), name
        assert set(read_inputs(request)) - names == {t.name for t in REQUEST_TENSORS} | set(CONTEXT)
    first, second = map(read_inputs, triton.requests)
    assert first["user_id"][0, 0] == 2**62
    assert first["exclude_item_ids"].shape == (1, 128)
    assert first["context_tab"][0, 0] == 4
    assert first["context_hour"][0, 0] == NO_CONTEXT
    assert json.loads(first["filters"][0].tobytes().rstrip(b"\0")) == {"item_genre": ["dräma"]}
    assert (first["seed"][0, 0], second["seed"][0, 0]) == (11, 2**63 - 1)
    assert 4.9 < first["deadline_us"][0, 0] / 1e6 - before < 8


async def test_every_call_says_how_long_it_may_wait_in_the_queue() -> None:
    async with fake_triton() as triton, connected(triton) as ensemble:
        await ensemble.recommend(RecommendRequest(user_id=1), Deadline.after(5), seed=0)
    queued_us = triton.requests[0].parameters["timeout"].int64_param
    assert 4_000_000 < queued_us <= 5_000_000


async def test_requests_that_come_while_calls_are_under_way_share_the_next_one() -> None:
    asked = [RecommendRequest(user_id=user_id, n=3) for user_id in range(1, 8)]
    asked[4] = RecommendRequest(user_id=5, n=2, exclude_item_ids=list(range(300)))
    async with fake_triton() as triton, connected(triton) as ensemble:
        alone = [await ensemble.recommend(one, Deadline.after(10), 0) for one in asked]
        triton.requests.clear()
        triton.wait_s = 0.05
        together = await asyncio.gather(*(ensemble.recommend(one, Deadline.after(10), 0) for one in asked))
    assert [slate.item_ids for slate in together] == [slate.item_ids for slate in alone]
    assert [slate.scores for slate in together] == [slate.scores for slate in alone]
    rows = [read_inputs(request)["user_id"].shape[0] for request in triton.requests]
    assert sum(rows) == 7
    assert max(rows) > 1


async def test_a_call_is_never_cancelled_on_its_way() -> None:
    async with fake_triton() as triton, connected(triton) as ensemble:
        triton.wait_s = 0.3
        for explain in (False, True):
            request = RecommendRequest(user_id=7, explain=explain)
            with pytest.raises(DependencyUnavailable) as raised:
                await ensemble.recommend(request, Deadline.after(0.05), 0)
            assert raised.value.is_late
            asking = asyncio.ensure_future(ensemble.recommend(request, Deadline.after(20), 0))
            await asyncio.sleep(0.1)
            asking.cancel()
    assert len(triton.requests) == 4
    assert triton.cancelled == 0


async def test_only_an_explained_request_asks_for_the_explaining_tensors() -> None:
    async with fake_triton() as triton, connected(triton) as ensemble:
        plain = await ensemble.recommend(RecommendRequest(user_id=7, n=3), Deadline.after(10), 0)
        explained = await ensemble.recommend(
            RecommendRequest(user_id=7, n=3, explain=True), Deadline.after(10), 0
        )
    few, many = ([output.name for output in request.outputs] for request in triton.requests)
    assert few == [ANSWER.name]
    assert sorted(many) == sorted(tensor.name for tensor in (ANSWER, *EXPLAIN_TENSORS))
    assert plain.item_ids == explained.item_ids
    assert plain.retrieved is None
    assert explained.retrieved


async def test_the_deadline_bounds_the_call() -> None:
    async with fake_triton() as triton, connected(triton) as ensemble:
        await ensemble.check(Deadline.after(10))
        triton.wait_s = 5
        started = time.monotonic()
        with pytest.raises(DependencyUnavailable) as error:
            await ensemble.recommend(RecommendRequest(user_id=7), Deadline.after(0.1), 0)
        assert time.monotonic() - started < 2
        assert error.value.is_late


async def test_no_time_left_asks_nobody() -> None:
    async with fake_triton() as triton, connected(triton) as ensemble:
        with pytest.raises(DependencyUnavailable, match="no time left"):
            await ensemble.recommend(RecommendRequest(user_id=7), Deadline.after(0), 0)
    assert triton.requests == []


async def test_nothing_listening_is_told_and_does_not_wait_for_the_deadline(unused_port: int) -> None:
    async with reaching(f"127.0.0.1:{unused_port}") as ensemble:
        started = time.monotonic()
        with pytest.raises(DependencyUnavailable, match="unavailable") as error:
            await ensemble.recommend(RecommendRequest(user_id=7), Deadline.after(30), 0)
        assert time.monotonic() - started < 15
        assert not error.value.is_late


async def test_the_same_channel_reaches_a_triton_that_comes_back(unused_port: int) -> None:
    request = RecommendRequest(user_id=7, n=3)
    async with reaching(f"127.0.0.1:{unused_port}") as ensemble:
        with pytest.raises(DependencyUnavailable):
            await ensemble.recommend(request, Deadline.after(1), 0)
        async with fake_triton(unused_port):
            slate = None
            patience = Deadline.after(20)
            while slate is None and patience.left_s():
                try:
                    slate = await ensemble.recommend(request, Deadline.after(1), 0)
                except DependencyUnavailable:
                    continue
    assert slate is not None
    assert len(slate.item_ids) == 3


async def test_which_source_gave_an_item_is_told_where_it_was_asked_for() -> None:
    async with fake_triton() as triton, connected(triton) as ensemble:
        deadline = Deadline.after(10)
        plain = await ensemble.recommend(RecommendRequest(user_id=7), deadline, 0)
        assert plain.found_by is None
        assert [one.name for one in triton.requests[-1].outputs] == [ANSWER.name]
        alike = await ensemble.recommend(SimilarRequest(item_id=7), deadline, 0)
        assert alike.found_by == [["nearest"]] * 10
        explained = await ensemble.recommend(RecommendRequest(user_id=7, explain=True), deadline, 0)
        assert explained.retrieved is not None
        first = explained.retrieved[0]
        assert first.found_by == (SourceTrace("nearest", 1, first.retrieval_score),)


async def test_a_missing_output_is_our_bug() -> None:
    async with fake_triton() as triton, connected(triton) as ensemble:
        triton.left_out = {ANSWER.name}
        with pytest.raises(StageError, match=r"contract.*answer"):
            await ensemble.recommend(RecommendRequest(user_id=7), Deadline.after(10), 0)


async def test_a_model_that_is_not_ready_or_does_not_answer_is_found_by_the_check() -> None:
    async with fake_triton() as triton, connected(triton) as ensemble:
        assert f"{BUNDLE} answers" in await ensemble.check(Deadline.after(10))
        triton.bundle = "newer-2"
        with pytest.raises(DependencyUnavailable, match="serves bundle newer-2, the gateway synthetic-1"):
            await ensemble.check(Deadline.after(10))
        triton.bundle = BUNDLE
        triton.fail = (grpc.StatusCode.INTERNAL, "Stub process 'recommend_0_0' is not healthy.")
        with pytest.raises(DependencyUnavailable, match="not healthy"):  # although Triton calls it ready
            await ensemble.check(Deadline.after(10))
        triton.fail = None
        triton.lacks = [Degradation.PARTIAL_INDEX]
        with pytest.raises(DependencyUnavailable, match="does not hold every item"):
            await ensemble.check(Deadline.after(10))
        triton.lacks = [Degradation.SOURCES]
        with pytest.raises(DependencyUnavailable, match="a source of candidates fails"):
            await ensemble.check(Deadline.after(10))
        triton.lacks = []
        triton.not_exported = {"source_item_ids"}
        with pytest.raises(DependencyUnavailable, match=r"of another version.*make export"):
            await ensemble.check(Deadline.after(10))
        triton.not_exported = set()
        triton.max_batch_size = 8
        with pytest.raises(DependencyUnavailable, match="takes 8 rows a call"):
            await ensemble.check(Deadline.after(10))
        triton.is_ready = False
        with pytest.raises(DependencyUnavailable, match="not ready"):
            await ensemble.check(Deadline.after(10))


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        ("INTERNAL", "in execute: contract|score_candidates|shape", (StageError, ErrorCode.CONTRACT)),
        ("INTERNAL", "bad_request|retrieve_candidates|no such column", (StageError, ErrorCode.BAD_REQUEST)),
        ("INTERNAL", "dependency|lookup_user_features|Redis is down", (DependencyUnavailable, False)),
        (
            "UNAVAILABLE",
            "dependency|request|the deadline passed",
            (DependencyUnavailable, True),
        ),
        ("UNAVAILABLE", "Request timeout expired", (DependencyUnavailable, True)),
        ("INVALID_ARGUMENT", "failed to parse the request", (StageError, ErrorCode.CONTRACT)),
        # A model exported by an older version: the ladder goes on, and the check names it.
        ("INVALID_ARGUMENT", "unexpected inference input 'rules'", (DependencyUnavailable, False)),
        ("INVALID_ARGUMENT", "expected 8 inputs but got 9 inputs", (DependencyUnavailable, False)),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", (DependencyUnavailable, True)),
        ("UNAVAILABLE", "failed to connect to all addresses", (DependencyUnavailable, False)),
        ("NOT_FOUND", "Request for unknown model: 'recommend'", (DependencyUnavailable, False)),
        ("INTERNAL", "Stub process is not healthy.", (DependencyUnavailable, False)),
    ],
)
async def test_each_failure_has_one_meaning(
    status: str, message: str, kind: tuple[type[Exception], object]
) -> None:
    async with fake_triton() as triton, connected(triton) as ensemble:
        triton.fail = (grpc.StatusCode[status], message)
        with pytest.raises(kind[0]) as error:
            await ensemble.recommend(RecommendRequest(user_id=7), Deadline.after(5), 0)
    if isinstance(error.value, StageError):
        assert error.value.code is kind[1]
    else:
        assert isinstance(error.value, DependencyUnavailable)
        assert error.value.is_late is kind[1]


def test_an_error_without_words_is_still_a_failing_dependency() -> None:
    assert isinstance(triton_error("", ""), DependencyUnavailable)


def test_the_contracts_dtypes_all_cross_the_wire() -> None:
    names = {"INT64": np.int64, "FP32": np.float32, "INT8": np.int8, "UINT8": np.uint8}
    for tensor in (request_tensor(CONTEXT), *OPTIONAL_TENSORS, ANSWER, *EXPLAIN_TENSORS):
        assert np_to_triton_dtype(tensor.dtype) in names, tensor.name
    for name, dtype in names.items():
        assert triton_to_np_dtype(name) == dtype
