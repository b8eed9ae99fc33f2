"""How one request is answered within its budget: a slate from the ladder, and its display fields."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from contract.bundle import Manifest
from contract.errors import WrongField, one_of
from contract.filters import Filters, check_filters
from contract.routing import CHAMPION
from contract.rules.order_rules import NO_RULES, CheckedRules, OrderRules, RequestRules, check_rules, merged
from contract.shown import Shown
from contract.slates import Degradation, SlateSource
from contract.tensors import PAD_ID
from contract.user_features import check_user_features
from service.failures import DependencyUnavailable
from service.limits.deadline import Deadline
from service.limits.event_loop import EventLoopLimit
from service.limits.shaper import LATE, SHARE, Shaper
from service.metrics import Metrics
from service.schemas import SlateBody
from service.settings import Settings
from service.slate import ItemTrace, MovedItem, Provenance, Slate
from service.slates.batch import BatchStep
from service.slates.ensemble import EnsembleStep
from service.slates.ladder import Ladder, Outcome, SlateRequest
from service.slates.paging import cursor_after, shown_before
from service.slates.popular import PopularStep
from service.store.store import Card
from service.variant import Variant

DISPLAY = str(Degradation.DISPLAY)
AT_ONCE = 16
"""Of several requests that came in one, so many are answered at the same time: as many as share a call."""
BUSY = f"{EnsembleStep.name}_{Outcome.BUSY}"
Heard = Callable[[SlateRequest, Slate], None]


@dataclass(frozen=True, slots=True)
class RenderedAnswer:
    """The JSON that a response of `schemas` describes, the source of each slate in it, and what the headers
    and the log say of it."""

    body: bytes
    sources: tuple[str, ...]
    timings_ms: dict[str, float]
    log_fields: dict[str, Any]
    shown: tuple[Shown, ...]
    """What is to be noted once it was sent."""
    due_s: float = 0.0
    """The monotonic instant before which it is not sent."""

    @property
    def server_timing(self) -> str:
        """The times of the stages as the header of that name writes them."""
        return ", ".join([f"{stage};dur={ms}" for stage, ms in self.timings_ms.items()])


@dataclass(frozen=True, slots=True)
class MadeAnswer:
    """What was made for one request: its slate, the cards that were found, what is lacking, and the times."""

    variant: Variant
    query: SlateRequest
    slate: Slate
    cards: Mapping[int, Card]
    degraded: list[str]
    timings_ms: dict[str, float]
    due_s: float

    def rendered(self) -> RenderedAnswer:
        """Makes the response, its line in the log, and its note."""
        query, slate = self.query, self.slate
        log_fields = {
            "user_id": query.request.own(query.request.user_id),
            "n": len(slate.item_ids),
            "source": slate.source,
            "arm": query.arm,
            "degraded": self.degraded,
        }
        body, sources = orjson.dumps(self._content()), (str(slate.source),)
        fields = log_fields | query.log_fields
        return RenderedAnswer(body, sources, self.timings_ms, fields, (self._note(),), self.due_s)

    def _content(self) -> dict[str, Any]:
        """Makes what `schemas` describes."""
        request, slate = self.query.request, self.slate
        shown = [*request.shown, *slate.item_ids]
        content: dict[str, Any] = {
            "request_id": self.query.request_id,
            "user_id": request.own(request.user_id),
            "items": self._items(),
            "source": slate.source,
            "degraded": self.degraded,
            "bundle": self.variant.name,
            "arm": self.query.arm,
            "timings_ms": self.timings_ms,
            "next": cursor_after(request, shown, time.time()) if slate.item_ids else None,
        }
        if request.like_item_id != PAD_ID:
            content["item_id"] = request.own(request.like_item_id)
        if slate.provenance is not None:
            content |= _fields(slate.provenance)
        if slate.retrieved is not None:
            content["explain"] = {
                "items": self._traced(slate.retrieved),
                "removed": slate.removed(),
                "moves": self._traced(slate.moves),
            }
        return content

    def _items(self) -> list[dict[str, Any]]:
        slate, own = self.slate, self.variant.ids.item
        is_like = self.query.request.like_item_id != PAD_ID
        found_by = [*(slate.found_by or []), *([] for _ in slate.item_ids)]
        return [
            {"item_id": own_id, "score": score, "source": source, **self.cards.get(item_id, {})}
            | ({"found_by": names} if is_like else {})
            for item_id, score, source, names in zip(
                slate.item_ids, slate.scores, slate.sources, found_by, strict=False
            )
            if (own_id := own(item_id)) is not None  # else it came a moment ago
        ]

    def _traced(self, traces: Iterable[ItemTrace | MovedItem]) -> list[dict[str, Any]]:
        return [
            _fields(one) | {"item_id": own_id} | self.cards.get(one.item_id, {})
            for one in traces
            if (own_id := self.variant.ids.item(one.item_id)) is not None
        ]

    def _note(self) -> Shown:
        """Makes the note, as of the bundle that made the slate: a stored one may be another's than answers
        now. Whoever explored says the chances of its own places; the others had no other item to give."""
        request, slate = self.query.request, self.slate
        certain = [1.0] * (len(slate.item_ids) - len(slate.propensities))
        wishes = (request.filters, request.rules, request.exclude_item_ids, request.user_features)
        return Shown(
            request_id=self.query.request_id,
            at_ms=round(time.time() * 1000),
            bundle=self.variant.name if slate.provenance is None else slate.provenance.bundle,
            arm=self.query.arm,
            source=str(slate.source),
            user_id=request.user_id,
            item_ids=tuple(slate.item_ids),
            scores=tuple(slate.scores),
            chances=(*slate.propensities, *certain),
            degraded=tuple(map(str, self.degraded)),
            context=request.context or None,
            first_place=1 + len(request.shown),
            is_plain=not request.shown and request.like_item_id == PAD_ID and not any(wishes),
        )


class Recommendations:
    """Answers requests from one variant, and holds what is shared between them: the ladders."""

    def __init__(
        self, settings: Settings, variant: Variant, event_loop: EventLoopLimit, metrics: Metrics
    ) -> None:
        self.settings, self.variant, self.metrics = settings, variant, metrics
        self.shaper, self._event_loop = Shaper(), event_loop
        live = EnsembleStep(variant, settings.reserve_ms / 1000, event_loop)
        self.batch = BatchStep(variant)
        self.popular = PopularStep(variant)
        # Where the ensemble did not answer, that nobody stored a slate either is no news.
        ladder = Ladder([live, self.batch, self.popular], metrics, silent=[Outcome.MISSING])
        outright = Ladder([self.batch, self.popular], metrics)
        self.ladders = {None: ladder, str(SlateSource.BATCH): outright}
        self.alike = Ladder([live, self.popular], metrics)

    async def answer(
        self,
        request: SlateBody,
        request_id: str,
        started: float | None = None,
        arm: str = CHAMPION,
        heard: Heard | None = None,
    ) -> RenderedAnswer:
        """Makes the best slate that the budget allows, which began with `started`, else begins now; as the
        arm of this name. `heard` is told of the slate.

        Raises:
            WrongField: the request names something that this bundle does not have, or wants too long.
            StageError: the ensemble refused the request or broke its contract; no later step hides that.
        """
        started = time.monotonic() if started is None else started
        filters, rules = check_request(request, self.variant, self.settings)
        if shown := shown_before(request, time.time()):
            request = request.behind(shown)
        budget_s = (request.latency_budget_ms or self.settings.latency_budget_ms) / 1000
        query = SlateRequest(request, filters, request_id, Deadline(started + budget_s), rules, arm)
        slate = await self._slate(query, heard)
        with query.timed("display"):
            cards, is_complete = await self.cards(_shown(slate), query.deadline)
        degraded = slate.degraded if is_complete else [*slate.degraded, DISPLAY]
        due_s = time.monotonic()
        if BUSY in degraded:
            latest_s = started + SHARE * budget_s - LATE * self._event_loop.lateness_s
            held_s = self.shaper.held_s(latest_s)
            query.timings_ms["held"] = held_s * 1000
            due_s += held_s
        took_ms = slate.stage_ms | query.timings_ms | {"total": (due_s - started) * 1000}
        timings_ms = {stage: round(ms, 3) for stage, ms in took_ms.items()}
        self.metrics.answers.answered(degraded, timings_ms)
        return MadeAnswer(self.variant, query, slate, cards, degraded, timings_ms, due_s).rendered()

    async def _slate(self, query: SlateRequest, heard: Heard | None) -> Slate:
        """Takes the ladder's slate, and fills one that is short with what is popular."""
        request = query.request
        ladder = self.ladders[request.source] if request.like_item_id == PAD_ID else self.alike
        slate = await ladder.slate(query)
        if heard is not None:
            heard(query, slate)
        if len(slate.item_ids) >= request.n or slate.source is SlateSource.POPULAR:
            return slate
        with query.timed("popular"):
            return await self.popular.filled(slate, query)

    async def cards(self, item_ids: Iterable[int], deadline: Deadline) -> tuple[dict[int, Card], bool]:
        """Display fields, and whether none is missing.

        Those of popular items are at hand; Redis has the others.
        """
        if not self.variant.manifest.display:
            return {}, True
        found: dict[int, Card] = {}
        others: list[int] = []
        for item_id in dict.fromkeys(item_ids):
            card = self.variant.popular_cards.get(item_id)
            if card is None or item_id in self.variant.changed:
                others.append(item_id)
            else:
                found[item_id] = card
        if not others:
            return found, True
        try:
            read = await self.variant.store.cards(others, self.variant.store_time_s(deadline))
        except DependencyUnavailable:
            return found, False
        return found | read, len(read) == len(others)


def check_request(request: SlateBody, variant: Variant, settings: Settings) -> tuple[Filters, CheckedRules]:
    """Compares the request with what this bundle and these settings know, gives its filters, and the rules
    of its order, the settings' among them.

    Raises:
        WrongField: a name in context, filters, rules or user features is unknown, a value there has another
            type, the latency budget is out of range, or nobody is asked for.
    """
    manifest = variant.manifest
    if request.user_features:
        check_user_features(request.user_features, manifest.user_features)
    elif request.user_id == PAD_ID and request.like_item_id == PAD_ID:
        raise WrongField("user_id", "is missing: send it, or user_features")
    for name in request.context:
        if name not in manifest.context:
            raise WrongField(f"context.{name}", f"is not known to this bundle: {one_of(manifest.context)}")
    budget = request.latency_budget_ms
    if budget is not None and not settings.reserve_ms < budget <= settings.latency_budget_ms:
        raise WrongField(
            "latency_budget_ms",
            f"must be above {settings.reserve_ms} (reserved) and at most {settings.latency_budget_ms}",
        )
    return check_filters(request.filters, manifest.filters), _rules(request, manifest, settings.order)


def _rules(request: SlateBody, manifest: Manifest, defaults: OrderRules) -> CheckedRules:
    try:
        if request.rules is not None:
            check_rules(request.rules, manifest.filters, manifest.item_id_dtype)
    except WrongField as error:
        raise error.within("rules") from None
    if request.rules is None and not defaults.model_fields_set:
        return NO_RULES
    whole = merged(request.rules or RequestRules(), defaults)
    return check_rules(whole, manifest.filters, manifest.item_id_dtype)


def _shown(slate: Slate) -> list[int]:
    return slate.item_ids + [one.item_id for one in slate.retrieved or ()]


def _fields(one: ItemTrace | MovedItem | Provenance) -> dict[str, Any]:
    return {name: getattr(one, name) for name in one.__slots__}
