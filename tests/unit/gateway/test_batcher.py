"""Rows that come while calls are under way share the next call; each of them succeeds or fails for itself."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from contract.errors import ErrorCode, StageError
from contract.slates import SlateSource
from service.failures import DependencyUnavailable
from service.limits.deadline import Deadline
from service.schemas import RecommendRequest
from service.slate import Slate
from service.triton.batcher import WORTH_A_CALL, Batcher
from service.triton.tensors import RequestRow

pytestmark = pytest.mark.anyio

POISON = 13


class Ensemble:
    """Counts its calls; holds them until it is released."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.cancelled = 0
        self.fail: Exception | None = None
        self.may_answer = asyncio.Event()

    async def __call__(self, rows: Sequence[RequestRow]) -> list[Slate]:
        users = [row.request.user_id for row in rows]
        self.calls.append(users)
        try:
            await self.may_answer.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.fail is not None:
            raise self.fail
        if POISON in users:
            raise StageError(ErrorCode.BAD_REQUEST, "filter_candidates", "no such column")
        return [Slate(SlateSource.ENSEMBLE, [user], [1.0]) for user in users]


def row(user_id: int) -> RequestRow:
    return RequestRow.of(RecommendRequest(user_id=user_id), Deadline.after(5), seed=0, quality=1.0)


def ask(batcher: Batcher, users: Sequence[int]) -> list[asyncio.Task[Slate]]:
    return [asyncio.ensure_future(batcher.slate(row(user))) for user in users]


async def settle() -> None:
    for _ in range(8):
        await asyncio.sleep(0)


async def test_a_lone_row_goes_at_once_and_what_comes_meanwhile_shares_the_next_call() -> None:
    ensemble = Ensemble()
    batcher = Batcher(ensemble, most_rows=3, most_calls=1)
    first = ask(batcher, [0])
    await settle()
    others = ask(batcher, [1, 2, 3, 4])
    await settle()
    assert ensemble.calls == [[0]]
    ensemble.may_answer.set()
    slates = await asyncio.gather(*first, *others)
    assert ensemble.calls == [[0], [1, 2, 3], [4]]
    assert [slate.item_ids for slate in slates] == [[0], [1], [2], [3], [4]]


async def test_rows_of_one_turn_of_the_loop_share_a_call_and_calls_are_bounded() -> None:
    ensemble = Ensemble()
    batcher = Batcher(ensemble, most_rows=2, most_calls=2)
    asking = ask(batcher, range(6))
    await settle()
    assert ensemble.calls == [[0, 1], [2, 3]]
    ensemble.may_answer.set()
    await asyncio.gather(*asking)
    assert ensemble.calls == [[0, 1], [2, 3], [4, 5]]


async def test_a_second_call_is_made_once_it_has_rows_enough() -> None:
    ensemble = Ensemble()
    batcher = Batcher(ensemble, most_rows=8, most_calls=2)
    asking = ask(batcher, [0])
    await settle()
    asking += ask(batcher, range(1, WORTH_A_CALL))
    await settle()
    assert ensemble.calls == [[0]]
    asking += ask(batcher, [WORTH_A_CALL])
    await settle()
    assert ensemble.calls == [[0], [*range(1, WORTH_A_CALL + 1)]]
    ensemble.may_answer.set()
    await asyncio.gather(*asking)


async def test_nobody_waits_behind_a_call_that_nobody_waits_for() -> None:
    ensemble = Ensemble()
    batcher = Batcher(ensemble, most_rows=8, most_calls=2)
    late = RequestRow.of(RecommendRequest(user_id=0), Deadline.after(0.01), seed=0, quality=1.0)
    first = asyncio.ensure_future(batcher.slate(late))
    await settle()
    waiting = ask(batcher, [1])
    await settle()
    assert ensemble.calls == [[0]]
    with pytest.raises(DependencyUnavailable):
        await first
    await settle()
    assert ensemble.calls == [[0], [1]]
    ensemble.may_answer.set()
    await asyncio.gather(*waiting)


async def test_one_rows_fault_is_not_the_others() -> None:
    ensemble = Ensemble()
    ensemble.may_answer.set()
    batcher = Batcher(ensemble, most_rows=8, most_calls=1)
    asking = ask(batcher, [1, POISON, 2])
    found = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(found[1], StageError)
    assert [one.item_ids for one in found if isinstance(one, Slate)] == [[1], [2]]
    assert ensemble.calls == [[1, POISON, 2], [1], [POISON], [2]]


async def test_a_failing_server_fails_every_row_with_an_error_of_its_own_and_is_not_asked_again() -> None:
    ensemble = Ensemble()
    ensemble.may_answer.set()
    ensemble.fail = DependencyUnavailable("triton", "gone", is_late=True)
    batcher = Batcher(ensemble, most_rows=8, most_calls=1)
    found = await asyncio.gather(*ask(batcher, [1, 2]), return_exceptions=True)
    assert all(isinstance(one, DependencyUnavailable) and one.is_late for one in found)
    assert found[0] is not found[1]
    assert ensemble.calls == [[1, 2]]


async def test_a_bug_reaches_every_caller() -> None:
    ensemble = Ensemble()
    ensemble.may_answer.set()
    ensemble.fail = RuntimeError("bug")
    found = await asyncio.gather(*ask(Batcher(ensemble, 8, 1), [1, 2]), return_exceptions=True)
    assert all(isinstance(one, RuntimeError) for one in found)


async def test_a_call_goes_on_without_the_callers_who_left() -> None:
    ensemble = Ensemble()
    batcher = Batcher(ensemble, most_rows=2, most_calls=1)
    asking = ask(batcher, [1, 2])
    await settle()
    for one in asking:
        one.cancel()
    next_one = ask(batcher, [3])
    await settle()
    assert ensemble.calls == [[1, 2]]
    ensemble.may_answer.set()
    assert [slate.item_ids for slate in await asyncio.gather(*next_one)] == [[3]]
    assert ensemble.cancelled == 0


async def test_a_late_row_is_not_waited_for_and_its_call_goes_on() -> None:
    ensemble = Ensemble()
    batcher = Batcher(ensemble, most_rows=2, most_calls=1)
    late = RequestRow.of(RecommendRequest(user_id=1), Deadline.after(0.01), seed=0, quality=1.0)
    with pytest.raises(DependencyUnavailable) as raised:
        await batcher.slate(late)
    assert raised.value.is_late
    ensemble.may_answer.set()
    assert (await batcher.slate(row(2))).item_ids == [2]
    assert ensemble.cancelled == 0


async def test_a_caller_who_left_before_the_call_is_not_in_it() -> None:
    ensemble = Ensemble()
    batcher = Batcher(ensemble, most_rows=4, most_calls=1)
    first = ask(batcher, [0])
    await settle()
    waiting = ask(batcher, [1, 2])
    await settle()
    waiting[0].cancel()
    ensemble.may_answer.set()
    await asyncio.gather(*first, waiting[1])
    assert ensemble.calls == [[0], [2]]
