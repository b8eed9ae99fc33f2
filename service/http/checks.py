"""Checks of the servers, made once for all who ask at about the same time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable

import structlog

from contract.errors import StageError
from service.failures import DependencyUnavailable
from service.limits.deadline import Deadline
from service.limits.window import Clock
from service.schemas import Dependency
from service.store.store import Store
from service.triton.client import Recommender

log = structlog.get_logger()

KEPT_S = 1.0
"""Seconds for which a result is told again. One check makes a real slate, and anyone may ask for it: more
often would be load for the ensemble."""


class Checks:
    """Whether Triton and Redis work, as of at most `KEPT_S` seconds ago.

    Who asks while a check is made waits for its result.
    """

    def __init__(
        self, recommender: Recommender, store: Store, timeout_s: float, clock: Clock = time.monotonic
    ) -> None:
        self._recommender, self._store, self._timeout_s = recommender, store, timeout_s
        self._clock, self._ended_s = clock, 0.0
        self._check: asyncio.Task[dict[str, Dependency]] | None = None

    async def results(self) -> dict[str, Dependency]:
        """Gives each server's result by name."""
        check = self._check
        if check is None or (check.done() and self._clock() - self._ended_s >= KEPT_S):
            check = self._check = asyncio.create_task(self._made())
        return await asyncio.shield(check)  # a caller who leaves does not end it for the others

    async def _made(self) -> dict[str, Dependency]:
        triton, redis = await asyncio.gather(
            _checked(self._recommender.check(Deadline.after(self._timeout_s))),
            _checked(self._store.check(self._timeout_s)),
        )
        self._ended_s = self._clock()
        return {"triton": triton, "redis": redis}


async def _checked(check: Awaitable[str]) -> Dependency:
    started = time.monotonic()
    try:
        is_ready, detail = True, await check
    except DependencyUnavailable as error:
        is_ready, detail = False, error.reason
    except StageError as error:
        is_ready, detail = False, f"{error.stage}: {error.message}"
    except Exception:
        log.exception("bug")
        is_ready, detail = False, "the check itself failed; the log says how"
    return Dependency(
        is_ready=is_ready, detail=detail, check_ms=round((time.monotonic() - started) * 1000, 3)
    )
