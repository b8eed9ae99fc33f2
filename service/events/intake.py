"""Takes the events of one request: those that are right go to the log, the others are told what is wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from contract.bundle import Manifest
from contract.events import Event
from service.events.check import WrongEvent, read_event
from service.events.log import EventLog
from service.events.refused import EntriesRefused
from service.events.schemas import EventBody, EventProblem, EventsRequest, EventsResponse
from service.failures import DependencyUnavailable, TooFarBehind
from service.field_errors import body_refused, errors_of, field_error
from service.metrics import Metrics
from service.settings import Settings
from service.store.redis_reader import REDIS

Read = tuple[Event, int, int]
MOST_AT_ONCE = 256
"""Requests that wait for Redis at once: each keeps its events, and a connection to Redis."""
TURN = 50
"""Events that are checked before others have their turn."""


@dataclass
class _Sorted:
    """The events of a request: those that are right, by their place, and what is wrong with the others."""

    right: dict[int, Read] = field(default_factory=dict)
    wrong: dict[int, list[EventProblem]] = field(default_factory=dict)

    def refuse(self, index: int, name: str, message: str) -> None:
        """Notes what is wrong with an event."""
        self.right.pop(index, None)
        self.wrong.setdefault(index, []).append(EventProblem(index=index, field=name, message=message))

    @property
    def errors(self) -> list[EventProblem]:
        """All that is wrong, by the events' places."""
        return [one for index in sorted(self.wrong) for one in self.wrong[index]]


class EventIntake:
    """Accepts events of one data set; the manifest is that of the bundle that is served now."""

    def __init__(
        self,
        manifest: Callable[[], Manifest],
        log: EventLog,
        settings: Settings,
        metrics: Metrics,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self.log, self.settings, self.metrics = log, settings, metrics
        self._manifest, self._now_s = manifest, now_s
        self.waiting = 0

    async def accept(self, document: Any, request_id: str) -> EventsResponse:
        """Takes the body of a request.

        Raises:
            RequestValidationError: it is no request with events.
            EntriesRefused: all events are wrong, or one is and the request is `atomic`.
            DependencyUnavailable: Redis does not answer, or too many wait for it; nothing, or everything, is
                accepted.
            TooFarBehind: too many events wait already.
        """
        bodies, is_atomic, found = self._parsed(document)
        now_s, manifest = self._now_s(), self._manifest()
        for index, body in bodies.items():
            if index % TURN == TURN - 1:
                await asyncio.sleep(0)  # slates are asked of the same process
            try:
                found.right[index] = read_event(body, manifest, now_s, self.settings.events.max_age_s)
            except WrongEvent as error:
                self.metrics.events.refused(error.reason)
                found.refuse(index, error.field, error.message)
        await self._look_for_unknown(found)
        if found.wrong and (is_atomic or not found.right):
            raise EntriesRefused("events", found.errors)
        if self.waiting >= MOST_AT_ONCE:
            raise DependencyUnavailable(
                REDIS, f"{self.waiting} requests wait for its disk already", is_late=True
            )
        self.waiting += 1
        try:
            accepted = await self.log.append([(event, user) for event, user, _ in found.right.values()])
        except TooFarBehind:
            self.metrics.events.refused("backlog")
            raise
        finally:
            self.waiting -= 1
        duplicates = len(found.right) - accepted
        self.metrics.events.taken(accepted, duplicates)
        return EventsResponse(
            request_id=request_id,
            accepted=accepted,
            duplicates=duplicates,
            refused=len(found.wrong),
            errors=found.errors,
        )

    def _parsed(self, document: Any) -> tuple[dict[int, EventBody], bool, _Sorted]:
        found = _Sorted()
        try:
            request = EventsRequest.model_validate(document)
            return dict(enumerate(request.events)), request.atomic, found
        except ValidationError as error:
            errors = errors_of(error)
        if of_no_event := [one for one in errors if len(one["loc"]) < 3 or one["loc"][0] != "events"]:
            raise body_refused(of_no_event)
        for one in errors:
            index = int(one["loc"][1])
            name, message = field_error({**one, "loc": ("body", *one["loc"][2:])})
            if not any(problem.field == name for problem in found.wrong.get(index, ())):
                self.metrics.events.refused("form")
                found.refuse(index, name, message)
        whole = enumerate(document["events"])
        bodies = {index: EventBody.model_validate(one) for index, one in whole if index not in found.wrong}
        return bodies, document.get("atomic", False), found

    async def _look_for_unknown(self, found: _Sorted) -> None:
        users = list({user_id for _, user_id, _ in found.right.values()})
        items = list({item_id for _, _, item_id in found.right.values()})
        unknown = await self.log.unknown(users, items)
        settings = self.settings.events
        for name, ids, place, is_kept in (
            ("user", unknown[0], 1, settings.unknown_users == "keep"),
            ("item", unknown[1], 2, settings.unknown_items == "keep"),
        ):
            for index in [one for one, read in found.right.items() if read[place] in ids]:
                self.metrics.events.unknown(name, "kept" if is_kept else "refused")
                if not is_kept:
                    self.metrics.events.refused(f"unknown_{name}")
                    found.refuse(index, f"{name}_id", _UNKNOWN[name])


_UNKNOWN = {
    "user": "is not known: materialise the user's row first, or set SHORTLIST_EVENTS__UNKNOWN_USERS=keep",
    "item": "is not known: PUT /v1/items first, or set SHORTLIST_EVENTS__UNKNOWN_ITEMS=keep",
}
