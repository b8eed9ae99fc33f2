"""Who answers whom: follows the routing record, and sends every request to its arm. No request reads the
record: it is looked at four times a second."""

from __future__ import annotations

import asyncio
import itertools
import socket
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import orjson
import structlog

from contract.bundle import BundleError, read_manifest
from contract.errors import ErrorCode, StageError, WrongField
from contract.routing import CHAMPION, GatewayReport, Routing, RoutingError, Written
from contract.slates import Degradation, SlateSource
from service.failures import DependencyUnavailable
from service.held import HeldBundles
from service.limits.arm_health import Answers, ArmHealth
from service.limits.deadline import Clock
from service.limits.event_loop import EventLoopLimit
from service.metrics import Metrics
from service.schemas import RecommendRequest, SlateBody
from service.settings import Settings
from service.shown import ShownNotes
from service.slates.answer import AT_ONCE, Recommendations, RenderedAnswer, check_request
from service.slates.paging import shown_before
from service.slates.shadow import Shadow
from service.variant import Variant

log = structlog.get_logger()

EVERY_S = 0.25
"""Seconds between two looks at the record."""
READ_S = 1.0
"""Seconds for reading or writing it."""
WEAK = frozenset(
    map(
        str,
        (
            *(Degradation.FILTER_CANDIDATES, Degradation.FEWER_CANDIDATES, Degradation.SCORE_CANDIDATES),
            *(Degradation.PARTIAL_INDEX, Degradation.FEATURES, Degradation.SOURCES),
            Degradation.EMBEDDINGS,
        ),
    )
)
"""What an ensemble's answer may lack by no fault of the request or the user."""


@dataclass(frozen=True)
class Served:
    """What answers now: the record, as far as its bundles are ready."""

    routing: Routing
    champion: Recommendations
    arms: Mapping[str, Recommendations] = field(default_factory=dict)
    shadow: Shadow | None = None

    def of(self, request: SlateBody) -> tuple[str, Recommendations]:
        """Names the arm of a request, and gives what answers it; the champion for an arm that is not ready.

        Raises:
            WrongField: it asks for an arm that there is not.
        """
        if request.arm is not None and request.arm != CHAMPION and request.arm not in self.arms:
            arms = ", ".join((CHAMPION, *self.arms))
            raise WrongField("arm", f"is none that answers now: leave it out, or use one of {arms}")
        name = self.routing.arm_of(request.user_id) if request.arm is None else request.arm
        found = self.arms.get(name)
        return (CHAMPION, self.champion) if found is None else (name, found)

    @property
    def answering(self) -> dict[str, Recommendations]:
        """What answers users, by arm."""
        return {CHAMPION: self.champion, **self.arms}


class Router:
    """Sends requests to their arms, and follows the record."""

    def __init__(
        self,
        settings: Settings,
        variant: Variant,
        event_loop: EventLoopLimit,
        metrics: Metrics,
        read: Callable[[str], Variant] | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        """Takes the bundle of the link; `read` gives another one by its name, in a thread."""
        self.settings, self.metrics, self.event_loop = settings, metrics, event_loop
        self._first, self._store, self._clock = variant, variant.store, clock
        self._link = (settings.bundle.resolve(), variant.name)
        self._gateway, self._beats = f"{socket.gethostname()}:{settings.port}", itertools.count()
        self._answers: dict[str, Answers] = defaultdict(Answers)
        self._health: dict[str, ArmHealth] = {}
        self._complaint = ""
        self.shown = ShownNotes(variant.store, metrics, settings.shown_buffer, settings.shown_ms / 1000)
        self._bundles = HeldBundles(
            settings, variant, event_loop, metrics, lambda: self.variant.name, read, clock
        )
        self.served = Served(Routing(champion=variant.name), self._bundles.first)
        metrics.served.serves({CHAMPION: variant.name})

    def variants(self) -> list[Variant]:
        """What is held of each bundle, the champion's first."""
        champion = self.variant
        return [champion, *(one for one in self._bundles.variants() if one is not champion)]

    @property
    def variant(self) -> Variant:
        """The champion."""
        return self.served.champion.variant

    async def answer(
        self, request: SlateBody, request_id: str, started: float | None = None
    ) -> RenderedAnswer:
        """Answers one request by its arm, within its budget, which began with `started`, else begins now.

        Raises:
            WrongField, StageError: as `Recommendations.answer` raises them.
        """
        served = self.served
        arm, recommendations = served.of(request)
        heard = served.shadow.heard if served.shadow is not None and arm == CHAMPION else None
        try:
            answer = await recommendations.answer(request, request_id, started, arm, heard)
        except Exception as error:
            if not _is_callers_fault(error):
                self._answers[arm].note(is_bad=True)
            raise
        if served.arms and not getattr(request, "source", None):
            is_full = answer.sources[0] == SlateSource.ENSEMBLE
            self._answers[arm].note(not is_full or not WEAK.isdisjoint(answer.log_fields["degraded"]))
        return answer

    async def answers(self, requests: Sequence[RecommendRequest], request_id: str) -> RenderedAnswer:
        """Answers several requests, `AT_ONCE` at a time, each by its arm, within one budget.

        Raises:
            WrongField: as `answer` raises it, with the request's place.
            StageError: as `answer` raises it for one of them.
        """
        started = time.monotonic()
        for place, request in enumerate(requests):
            try:
                check_request(request, self.served.of(request)[1].variant, self.settings)
                shown_before(request, time.time())
            except WrongField as error:
                raise error.within(f"requests.{place}") from None
        turn = asyncio.Semaphore(AT_ONCE)

        async def answered(place: int, request: RecommendRequest) -> RenderedAnswer:
            async with turn:
                return await self.answer(request, f"{request_id}:{place}", started)

        try:
            async with asyncio.TaskGroup() as group:  # one that fails ends the others, whom nobody hears
                tasks = [group.create_task(answered(place, one)) for place, one in enumerate(requests)]
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        made = [task.result() for task in tasks]
        sources = tuple(source for one in made for source in one.sources)
        body = b'{"request_id":%b,"answers":[%b]}' % (
            orjson.dumps(request_id),
            b",".join(one.body for one in made),
        )
        due_s = max(time.monotonic(), *(one.due_s for one in made))
        timings = {"total": round((due_s - started) * 1000, 3)}
        fields = {"users": len(made), "sources": Counter(sources)}
        shown = tuple(note for one in made for note in one.shown)
        return RenderedAnswer(body, sources, timings, fields, shown, due_s)

    async def start(self) -> None:
        """Makes the connections, and takes the champion from the record, whether or not Triton is up yet."""
        await self._first.open()
        written = await self._written()
        if written is not None:
            await self._bundles.hold(written.routing.champion)
            self._apply(written)

    async def follow(self) -> None:
        """Looks at the record again and again, until it is cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.look()
            except Exception:
                log.exception("bug")

    async def look(self) -> None:
        """Reads the record, prepares what it names, and serves what is ready; takes out an arm that fails.
        Where Redis does not answer, what was served goes on."""
        written = await self._written()
        if written is not None:
            self._apply(written)
            await self._judge(written)
            with suppress(DependencyUnavailable):
                await self._store.report(self._gateway, self._report(written.routing), READ_S)

    async def close(self) -> None:
        """Closes all connections."""
        await self._bundles.close()
        await self._first.close()

    def _report(self, routing: Routing) -> GatewayReport:
        served = self.served
        names = [one.variant.name for one in served.answering.values()]
        shadow = [served.shadow.name] if served.shadow is not None else []
        refuses = self._bundles.refusals(routing.bundles)
        return GatewayReport(beat=next(self._beats), serves=(*names, *shadow), refuses=refuses)

    async def _written(self) -> Written | None:
        try:
            return Written.read(await self._store.routing(READ_S), self._linked())
        except DependencyUnavailable:
            return None
        except (RoutingError, BundleError) as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                log.error("routing_unreadable", reason=str(error))
            return None

    def _linked(self) -> str:
        """Names the bundle of the link, where it is still of the data set of this process."""
        folder = self.settings.bundle.resolve()
        if folder != self._link[0]:
            manifest = read_manifest(folder, verify=False)
            is_ours = manifest.dataset == self._first.manifest.dataset
            self._link = (folder, manifest.bundle if is_ours else self._link[1])
        return self._link[1]

    def _apply(self, written: Written) -> None:
        routing, now_s = written.routing, self._clock()
        bundles = self._bundles
        bundles.follow(routing.bundles, (*routing.answering, *([routing.shadow] if routing.shadow else [])))
        champion = bundles.get(routing.champion)
        if champion is None:
            return  # it is being prepared, or refused: what is served goes on
        arms = {arm.bundle: held for arm in routing.arms if (held := bundles.get(arm.bundle)) is not None}
        before = self.served
        shadow = before.shadow
        if (shadow.name if shadow else None) != routing.shadow:
            shadow = self._shadow(routing.shadow)
        after = Served(routing, champion, arms, shadow)
        if (before.routing, before.answering, before.shadow) != (routing, after.answering, shadow):
            for one in (champion, *arms.values()):
                one.variant.limits.in_flight.at_least(before.champion.variant.limits.in_flight)
            self.served = after
            self._answers.clear()
            self._health = {arm: ArmHealth(self.settings.arm_excess, now_s) for arm in arms}
            names_by_arm = {arm: one.variant.name for arm, one in after.answering.items()}
            self.metrics.served.serves(names_by_arm)
            log.info("serves", **names_by_arm, shadow=shadow and shadow.name, why=routing.why)
        bundles.let_go(routing.bundles)

    def _shadow(self, name: str | None) -> Shadow | None:
        held = self._bundles.get(name)
        if held is None:
            return None
        time_s = (self.settings.latency_budget_ms - self.settings.reserve_ms) / 1000
        return Shadow(held.variant, self._in_flight, self.event_loop, self.metrics, time_s)

    def _in_flight(self) -> int:
        """Counts the slates that users wait for, of every bundle that answers them."""
        return sum(one.variant.limits.in_flight.in_flight for one in self.served.answering.values())

    async def _judge(self, written: Written) -> None:
        """Takes an arm out of the record whose answers are worse than the champion's beyond the bound."""
        champion, now_s = self._answers[CHAMPION], self._clock()
        for arm, health in list(self._health.items()):
            reason = health.judge(self._answers[arm], champion, now_s)
            if not reason:
                continue
            why = f"{arm} was taken out: {reason}"
            changed = written.routing.split(arm, 0, why)
            self._apply(Written(changed, changed.encode()))
            self.metrics.served.arm_ended(arm)
            log.error("arm_taken_out", arm=arm, reason=why)
            try:
                await self._store.replace_routing(written.text, changed.encode(), READ_S)
            except DependencyUnavailable as error:
                log.warning("routing_not_written", reason=str(error))
            return


def _is_callers_fault(error: Exception) -> bool:
    """Whether a request was refused for what stands in it: that says nothing of the bundle."""
    if isinstance(error, StageError):
        return error.code is ErrorCode.BAD_REQUEST
    return isinstance(error, WrongField)
