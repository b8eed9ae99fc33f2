"""How one request is answered within its budget: the ensemble's slate, or the popular one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b

from structlog.contextvars import bind_contextvars

from ensemble import contract
from service.bundle import Bundle, Card
from service.deadline import Deadline
from service.errors import DependencyUnavailable, EnsembleBusy, WrongField
from service.fallback import PopularSlates
from service.metrics import Metrics
from service.recommender import TRITON, Recommender
from service.schemas import ExplainedItem, Explanation, Item, RecommendRequest, RecommendResponse
from service.settings import Settings
from service.store import Store
from service.tensors import Slate

ENSEMBLE_LATE = "ensemble_late"
ENSEMBLE_UNAVAILABLE = "ensemble_unavailable"
ENSEMBLE_BUSY = "ensemble_busy"
SEEN = "seen"
DISPLAY = str(contract.Degradation.DISPLAY)
_FILTER_TYPES: dict[str, type | tuple[type, ...]] = {"string": str, "float32": (int, float)}


class Answers:
    """Answers requests.

    Holds what is shared between them: the bundle, the servers' clients, the bound in flight.
    """

    def __init__(
        self, settings: Settings, bundle: Bundle, recommender: Recommender, store: Store, metrics: Metrics
    ) -> None:
        self.settings, self.bundle, self.recommender, self.store = settings, bundle, recommender, store
        self.metrics = metrics
        self._popular = PopularSlates(bundle.popular)
        self._popular_cards = bundle.cards()
        self._in_flight = 0

    async def answer(self, request: RecommendRequest, request_id: str) -> RecommendResponse:
        """Makes the best slate that the budget allows.

        Raises:
            WrongField: the request names something that this bundle does not have, or wants too long.
            StageError: the ensemble refused the request or broke its contract; no fallback hides that.
        """
        started = time.monotonic()
        check_request(request, self.bundle, self.settings)
        deadline = Deadline(started + (request.latency_budget_ms or self.settings.latency_budget_ms) / 1000)
        timings: dict[str, float] = {}
        try:
            with _timed(timings, "ensemble"):
                slate = await self._ensemble(
                    request, deadline.earlier(self.settings.reserve_ms / 1000), request_id
                )
            degraded = list(slate.degraded)
            _log_exploration(slate)
        except DependencyUnavailable as error:
            bind_contextvars(fallback=str(error))
            with _timed(timings, "popular"):
                slate, lacks = await self._popular_slate(request, deadline)
            degraded = [_reason(error), *lacks]
        with _timed(timings, "display"):
            cards, is_complete = await self.cards(_shown(slate), deadline)
        if not is_complete:
            degraded.append(DISPLAY)
        timings = slate.stage_ms | timings | {"total": (time.monotonic() - started) * 1000}
        timings = {stage: round(ms, 3) for stage, ms in timings.items()}
        self.metrics.answered(degraded, timings)
        return RecommendResponse(
            request_id=request_id,
            user_id=request.user_id,
            items=[
                Item(item_id=item_id, score=score, **cards.get(item_id, {}))
                for item_id, score in zip(slate.item_ids, slate.scores, strict=True)
            ],
            source=slate.source,
            degraded=degraded,
            bundle=self.bundle.name,
            timings_ms=timings,
            explain=_explanation(slate, cards),
        )

    async def _ensemble(self, request: RecommendRequest, deadline: Deadline, request_id: str) -> Slate:
        if self._in_flight >= self.settings.triton.max_in_flight:
            raise EnsembleBusy(self._in_flight)
        self._in_flight += 1
        self.metrics.in_flight.inc()
        try:
            async with asyncio.timeout(deadline.left_s()):
                return await self.recommender.recommend(request, deadline, seed_of(request_id))
        except TimeoutError:
            raise DependencyUnavailable(TRITON, "no answer in time", is_late=True) from None
        except DependencyUnavailable as error:
            error.is_late |= deadline.left_s() <= 0  # the ensemble's own word for it is a failed stage
            raise
        finally:
            self._in_flight -= 1
            self.metrics.in_flight.dec()

    async def _popular_slate(self, request: RecommendRequest, deadline: Deadline) -> tuple[Slate, list[str]]:
        """The popular slate and what it lacks.

        Seen items are removed where Redis answers in the time left.
        """
        seen: list[int] = []
        lacks: list[str] = []
        try:
            seen = await self.store.seen(request.user_id, self._store_s(deadline))
        except DependencyUnavailable:
            lacks.append(SEEN)
        slate = self._popular.slate(request, seen)
        return slate, lacks + slate.degraded

    async def cards(self, item_ids: Iterable[int], deadline: Deadline) -> tuple[dict[int, Card], bool]:
        """Display fields, and whether none is missing.

        Those of popular items are at hand; Redis has the others.
        """
        if not self.bundle.manifest.display:
            return {}, True
        found: dict[int, Card] = {}
        others: list[int] = []
        for item_id in dict.fromkeys(item_ids):
            card = self._popular_cards.get(item_id)
            if card is None:
                others.append(item_id)
            else:
                found[item_id] = card
        if not others:
            return found, True
        try:
            read = await self.store.cards(others, self._store_s(deadline))
        except DependencyUnavailable:
            return found, False
        return found | read, len(read) == len(others)

    def _store_s(self, deadline: Deadline) -> float:
        return min(deadline.left_s(), self.settings.store_timeout_ms / 1000)


def check_request(request: RecommendRequest, bundle: Bundle, settings: Settings) -> None:
    """Compares the request with what this bundle and these settings know.

    Raises:
        WrongField: a name in context or filters is unknown, a filter's value has another type, or the
            latency budget is out of range.
    """
    manifest = bundle.manifest
    for name in request.context:
        if name not in manifest.context:
            raise WrongField(f"context.{name}", f"is not known to this bundle: {_one_of(manifest.context)}")
    for column, values in request.filters.items():
        dtype = manifest.filters.get(column)
        if dtype is None:
            raise WrongField(
                f"filters.{column}", f"is not known to this bundle: {_one_of(list(manifest.filters))}"
            )
        if not all(isinstance(value, _FILTER_TYPES.get(dtype, int)) for value in values):
            raise WrongField(f"filters.{column}", f"must list {dtype} values")
    budget = request.latency_budget_ms
    if budget is not None and not settings.reserve_ms < budget <= settings.latency_budget_ms:
        raise WrongField(
            "latency_budget_ms",
            f"must be above {settings.reserve_ms} (reserved) and at most {settings.latency_budget_ms}",
        )


def seed_of(request_id: str) -> int:
    """Takes a request id, gives the seed of its exploration: the same id explores in the same way."""
    return int.from_bytes(blake2b(request_id.encode(), digest_size=8).digest(), "big") >> 1


def _one_of(names: Sequence[str]) -> str:
    return f"use one of {', '.join(names)}" if names else "it has none; leave it out"


def _reason(error: DependencyUnavailable) -> str:
    if isinstance(error, EnsembleBusy):
        return ENSEMBLE_BUSY
    return ENSEMBLE_LATE if error.is_late else ENSEMBLE_UNAVAILABLE


def _log_exploration(slate: Slate) -> None:
    """An explored slate is logged with the chances of its places: what learning from it must divide by."""
    if any(chance < 1 for chance in slate.propensities):
        bind_contextvars(item_ids=slate.item_ids, propensities=[round(one, 6) for one in slate.propensities])


def _shown(slate: Slate) -> list[int]:
    return slate.item_ids + [one.item_id for one in slate.retrieved or ()]


def _explanation(slate: Slate, cards: dict[int, Card]) -> Explanation | None:
    if slate.retrieved is None:
        return None
    items = [
        ExplainedItem(
            item_id=one.item_id,
            retrieval_rank=one.retrieval_rank,
            retrieval_score=one.retrieval_score,
            removed_by=one.removed_by,
            ranking_score=one.ranking_score,
            ranking_rank=one.ranking_rank,
            slate_rank=one.slate_rank,
            propensity=one.propensity,
            **cards.get(one.item_id, {}),
        )
        for one in slate.retrieved
    ]
    return Explanation(items=items, removed=slate.removed())


@contextmanager
def _timed(timings: dict[str, float], stage: str) -> Iterator[None]:
    """Notes the milliseconds that the block took, whether or not it raised."""
    started = time.monotonic()
    try:
        yield
    finally:
        timings[stage] = (time.monotonic() - started) * 1000
