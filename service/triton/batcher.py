"""Joins the rows that come while calls are under way into the next call."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from contract.errors import StageError
from service.failures import DependencyUnavailable
from service.slate import Slate
from service.triton.tensors import RequestRow

Call = Callable[[Sequence[RequestRow]], Awaitable[Sequence[Slate]]]
WORTH_A_CALL = 4
"""Rows that go beside another call: a run of the chain costs almost as much for one as for two."""


@dataclass(slots=True)
class _Waiter:
    """One row, and whoever waits for its slate."""

    row: RequestRow
    slate: asyncio.Future[Slate]


class Batcher:
    """Sends a row at once while calls are few, and with the others that wait once they are many.

    A row waits for company only while a call is under way: batches grow by themselves with the load, as
    group commits do. The rows share the cost of their call; a further call beside the first takes
    `WORTH_A_CALL` rows, or as many as a call may have. A call goes on when nobody waits for it any more, and
    nobody then waits behind it: Triton may crash where one is cancelled, and drops what is late by itself.
    """

    def __init__(self, call: Call, most_rows: int, most_calls: int) -> None:
        self._call, self._most_rows, self._most_calls = call, most_rows, most_calls
        self._worth = min(WORTH_A_CALL, most_rows)
        self._waiting: deque[_Waiter] = deque()
        self._calls: dict[asyncio.Task[None], Sequence[_Waiter]] = {}
        self._is_due = False

    async def slate(self, row: RequestRow) -> Slate:
        """Gives the row's slate; whoever is cancelled before there is a call takes their row out.

        Raises:
            DependencyUnavailable: the call failed, or the row's deadline passed before it ended.
            StageError: as the ensemble raised it for this row.
        """
        loop = asyncio.get_running_loop()
        waiter = _Waiter(row, loop.create_future())
        timer = loop.call_later(row.deadline.left_s(), self._late, waiter)
        self._waiting.append(waiter)
        if not self._is_due and self._may_send():
            self._is_due = True
            loop.call_soon(self._send)  # after whatever else came in this turn of the loop
        try:
            return await waiter.slate
        finally:
            timer.cancel()

    def _may_send(self) -> bool:
        if len(self._calls) >= self._most_calls:
            return False
        is_waited_for = any(not one.slate.done() for batch in self._calls.values() for one in batch)
        return len(self._waiting) >= self._worth or not is_waited_for

    def _send(self) -> None:
        self._is_due = False
        while self._may_send() and (batch := self._next()):
            call = asyncio.get_running_loop().create_task(self._carry(batch))
            self._calls[call] = batch
            call.add_done_callback(self._done)

    def _next(self) -> list[_Waiter]:
        batch: list[_Waiter] = []
        while self._waiting and len(batch) < self._most_rows:
            waiter = self._waiting.popleft()
            if not waiter.slate.done():
                batch.append(waiter)
        return batch

    def _done(self, task: asyncio.Task[None]) -> None:
        self._calls.pop(task, None)
        self._send()

    def _late(self, waiter: _Waiter) -> None:
        _fail(waiter, DependencyUnavailable("triton", "no answer in time", is_late=True))
        self._send()

    async def _carry(self, batch: Sequence[_Waiter]) -> None:
        try:
            slates = await self._call([waiter.row for waiter in batch])
        except StageError as error:
            if len(batch) > 1:  # one row's fault is not the others'
                await asyncio.gather(*(self._carry([waiter]) for waiter in batch if not waiter.slate.done()))
            else:
                _fail(batch[0], error)
        except DependencyUnavailable as error:
            for waiter in batch:  # each an error of its own: who catches it may add to it
                _fail(waiter, DependencyUnavailable(error.dependency, error.reason, is_late=error.is_late))
        except Exception as error:
            for waiter in batch:
                _fail(waiter, error)
        else:
            for waiter, slate in zip(batch, slates, strict=True):
                if not waiter.slate.done():
                    waiter.slate.set_result(slate)


def _fail(waiter: _Waiter, error: Exception) -> None:
    if not waiter.slate.done():
        waiter.slate.set_exception(error)
