"""Takes what changes items and users, and asks what is held of a user: all by a stream of Redis."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from contract.errors import WrongField
from contract.items import Row, check_row
from contract.keys import catalogue_reply_key, catalogue_stream_key
from contract.live_catalogue import FIELD, FORGET, PUT, SHOW, TAKE_OUT, encode_change
from contract.names import COMPARED
from service.catalogue.schemas import Accepted, ItemsRequest, UserResponse
from service.events.log import EventLog
from service.events.refused import EntriesRefused
from service.events.schemas import EventProblem
from service.failures import DependencyUnavailable
from service.field_errors import body_refused, errors_of
from service.variant import Variant

CONSUMER = "the consumer (`python -m live consume`)"
LOOK_S, PATIENCE_S = 0.05, 3.0
"""Seconds between two looks for a reply, and until it is given up."""
TURN = 10
"""Items that are checked before others have their turn."""


class CatalogueIntake:
    """Accepts changes of the data set of the bundle that serves."""

    def __init__(self, served: Callable[[], Variant], log: EventLog) -> None:
        self._served, self._log = served, log

    async def put(self, document: Any, request_id: str) -> Accepted:
        """Takes the body of a request: all items, or none.

        Raises:
            RequestValidationError: it is no request with items.
            EntriesRefused: fields of items are wrong.
            DependencyUnavailable: Redis does not answer; nothing, or everything, is accepted.
            TooFarBehind: too many changes wait already.
        """
        try:
            request = ItemsRequest.model_validate(document)
        except ValidationError as error:
            raise body_refused(errors_of(error)) from None
        rows, errors = await self._read(request.items)
        if errors:
            raise EntriesRefused("items", errors)
        await self._ask(PUT, rows)
        return Accepted(request_id=request_id, accepted=len(request.items))

    async def take_out(self, item_id: str, request_id: str) -> Accepted:
        """Takes an item out, of whose id a path has the text.

        Raises:
            WrongField: it is no id.
            DependencyUnavailable, TooFarBehind: as `put`.
        """
        number, _ = self._served().ids.item_of_path(item_id)
        await self._ask(TAKE_OUT, str(number))
        return Accepted(request_id=request_id, accepted=1)

    async def forget(self, user_id: str, request_id: str) -> Accepted:
        """Deletes all that is held of a user, of whose id a path has the text.

        Raises:
            WrongField: it is no id.
            DependencyUnavailable, TooFarBehind: as `put`.
        """
        number, _ = self._served().ids.user_of_path(user_id)
        await self._ask(FORGET, str(number))
        return Accepted(request_id=request_id, accepted=1)

    async def show(self, user_id: str, request_id: str) -> UserResponse:
        """Tells all that is held of a user.

        Raises:
            WrongField: it is no id.
            DependencyUnavailable: Redis or the consumer does not answer.
            TooFarBehind: as `put`.
        """
        ids = self._served().ids
        number, own = ids.user_of_path(user_id)
        change_id = await self._ask(SHOW, str(number))
        held = await self._reply(change_id)
        lists = [(held, "seen"), *((held["features"], name) for name in COMPARED)]
        shown = (*held["slates"], *held["shown"]["waiting"], *held["shown"]["archived"])
        for document, name in (*lists, *((one, "item_ids") for one in shown)):
            if numbers := document.get(name):
                document[name] = [own_id for _, own_id in ids.named(numbers)]
        return UserResponse(request_id=request_id, user_id=own, **held)

    async def _read(self, items: list[dict[str, Any]]) -> tuple[dict[str, Row], list[EventProblem]]:
        dataset = self._served().dataset
        rows: dict[str, Row] = {}
        errors: list[EventProblem] = []
        for index, item in enumerate(items):
            if index % TURN == TURN - 1:
                await asyncio.sleep(0)  # slates are asked of the same process
            try:
                number, row = check_row(item, dataset)
            except WrongField as error:
                errors.append(EventProblem(index=index, field=error.field, message=error.message))
                continue
            if str(number) in rows:
                message = "is that of an item further up: send each item once"
                errors.append(EventProblem(index=index, field="item_id", message=message))
            rows[str(number)] = row
        return rows, errors

    async def _ask(self, kind: str, content: str | Mapping[str, Any]) -> str:
        stream = catalogue_stream_key(self._served().manifest.dataset)
        return await self._log.add(stream, FIELD, encode_change(kind, content))

    async def _reply(self, change_id: str) -> dict[str, Any]:
        key = catalogue_reply_key(self._served().manifest.dataset, change_id)
        until_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < until_s:
            if (reply := await self._log.take(key)) is not None:
                document: dict[str, Any] = json.loads(reply)
                return document
            await asyncio.sleep(LOOK_S)
        raise DependencyUnavailable(CONSUMER, "no answer in time", is_late=True)
