"""Ready means warm: real requests, until the ensemble has answered often enough."""

from __future__ import annotations

import asyncio
import itertools

import structlog

from contract.errors import StageError
from contract.slates import SlateSource
from service.schemas import RecommendRequest
from service.slates.answer import Recommendations

log = structlog.get_logger()

PAUSE_S = 0.25
"""After a warm-up request that the ensemble did not answer, until the next."""
TOGETHER = 8
"""The last warm-up requests come so many at once, so that calls of several rows are warm too."""


class WarmUp:
    """Ready means warm: asks for slates until the ensemble has answered often enough through this process.

    It is done once per process. A Triton that restarts later warms itself before it answers, and what it
    shares with this process, a connection, is made again by the first request.
    """

    def __init__(self, recommendations: Recommendations, wanted: int) -> None:
        """Takes recommendations whose counts nobody reads: no caller asked these requests."""
        self._recommendations, self._wanted = recommendations, wanted
        self._user_ids = recommendations.variant.manifest.sample_users or (0,)
        self.answered = 0

    @property
    def is_done(self) -> bool:
        """Whether this process is warm."""
        return self.answered >= self._wanted

    @property
    def detail(self) -> str:
        """How far it is."""
        return f"{self.answered} of {self._wanted} requests answered by the ensemble"

    async def run(self) -> None:
        """Asks until the process is warm, however long the ensemble takes to come."""
        numbers = itertools.count()
        while not self.is_done:
            left = self._wanted - self.answered
            at_once = min(TOGETHER, left) if left <= 2 * TOGETHER else 1
            sources = await asyncio.gather(*(self._ask(next(numbers)) for _ in range(at_once)))
            self.answered += sources.count(SlateSource.ENSEMBLE)
            if SlateSource.ENSEMBLE not in sources:
                await asyncio.sleep(PAUSE_S)
        log.info("warm", detail=self.detail)

    async def _ask(self, number: int) -> str:
        """Asks for one slate, gives its source; empty where the ensemble refuses."""
        request = RecommendRequest(user_id=self._user_ids[number % len(self._user_ids)])
        try:
            (source,) = (await self._recommendations.answer(request, f"warm-up-{number}")).sources
            return source
        except StageError as error:
            log.warning("warm_up_refused", reason=str(error))
            return ""
