"""Joins what concurrent readers ask for into one command, or one pipeline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from service.failures import DependencyUnavailable

K = TypeVar("K")
V = TypeVar("V")


class Reads(Generic[K, V]):
    """Reads at once while nothing is under way; what is asked meanwhile goes together in the next command.

    Under load one command answers many readers, so a reader costs the less the more there are.
    """

    def __init__(self, read_many: Callable[[Sequence[K]], Awaitable[Sequence[V]]], dependency: str) -> None:
        self._read_many, self._dependency = read_many, dependency
        self._waiting: list[tuple[Sequence[K], asyncio.Future[Sequence[V]]]] = []
        self._task: asyncio.Task[None] | None = None

    async def get(self, keys: Sequence[K], timeout_s: float) -> Sequence[V]:
        """Reads these keys.

        Raises:
            DependencyUnavailable: they did not come in `timeout_s` seconds, or the read failed.
        """
        loop = asyncio.get_running_loop()
        values: asyncio.Future[Sequence[V]] = loop.create_future()
        self._waiting.append((keys, values))
        if self._task is None:
            self._task = loop.create_task(self._read_all())
        timer = loop.call_later(timeout_s, self._late, values)
        try:
            return await values
        finally:
            timer.cancel()

    def _late(self, values: asyncio.Future[Sequence[V]]) -> None:
        if not values.done():
            values.set_exception(DependencyUnavailable(self._dependency, "no answer in time", is_late=True))

    async def _read_all(self) -> None:
        """Reads until nobody waits; the first turn of the loop gathers who else asks in it."""
        try:
            await asyncio.sleep(0)
            while readers := [(keys, values) for keys, values in self._waiting if not values.done()]:
                self._waiting.clear()
                await self._read(readers)
        finally:
            self._task = None
            self._waiting.clear()

    async def _read(self, readers: Sequence[tuple[Sequence[K], asyncio.Future[Sequence[V]]]]) -> None:
        try:
            found = await self._read_many([key for keys, _ in readers for key in keys])
        except DependencyUnavailable as error:
            for _, values in readers:
                if not values.done():
                    values.set_exception(
                        DependencyUnavailable(error.dependency, error.reason, is_late=error.is_late)
                    )
            return
        except Exception as error:
            for _, values in readers:
                if not values.done():
                    values.set_exception(error)
            return
        start = 0
        for keys, values in readers:
            if not values.done():
                values.set_result(found[start : start + len(keys)])
            start += len(keys)
