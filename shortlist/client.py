"""Asks the gateway: `Client` from code that waits, `AsyncClient` from code that awaits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx

from shortlist import calls
from shortlist.answers import Answer, EventsTaken, Id, ItemHistory, ServedBundle
from shortlist.calls import Asked, AskedForUser, Call
from shortlist.errors import ShortlistError
from shortlist.retries import Retries, Tries, failure_of

TIMEOUT_S = 2.0
EVENTS_TIMEOUT_S = 10.0
"""Of a call with events: each try waits until they are on the gateway's disk, up to a second or so."""
RETRIES = Retries()
T = TypeVar("T")


class _Caller:
    """What both clients know: where the gateway is, who asks, and how long a call may take."""

    _now_s = staticmethod(time.monotonic)

    def __init__(self, url: str, api_key: str | None, timeout_s: float, retries: Retries) -> None:
        if httpx.URL(url).scheme not in ("http", "https"):
            raise ValueError(f"url {url!r}: begin it with http:// or https://")
        if timeout_s <= 0 or retries.attempts < 1:
            raise ValueError("timeout_s must be above 0, and retries.attempts 1 or more")
        self._timeout_s, self._retries = timeout_s, retries
        self._settings: dict[str, Any] = {"base_url": url}
        if api_key is not None:
            key = api_key.strip()  # of the line that a file ends with
            if not (key.isascii() and key.isprintable() and key):
                raise ValueError("api_key holds what no key has: give it as it was printed when it was made")
            self._settings["headers"] = {"authorization": f"Bearer {key}"}

    def _tries(self, timeout_s: float | None) -> tuple[Tries, float]:
        budget_s = self._timeout_s if timeout_s is None else timeout_s
        return Tries(self._retries, budget_s, self._now_s), budget_s


class Client(_Caller):
    """A connection to a gateway, to be shared by threads and closed at the end, as by `with`.

    `timeout_s` is the time that a call may take, with all of its tries and the pauses between; a server that
    does not answer within what is left of it makes the call raise `OutOfTime`. Only what may go well a moment
    later is tried again: a connection that fails, 429 and 503. All tries carry one request id.
    """

    _sleep = staticmethod(time.sleep)

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        *,
        api_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        retries: Retries = RETRIES,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Connects at the first call. `transport` is httpx's, for proxies, certificates and tests.

        Raises:
            ValueError: an address, a key, a time or a number of tries that is none.
        """
        super().__init__(url, api_key, timeout_s, retries)
        self._http = httpx.Client(**self._settings, transport=transport)

    def __enter__(self) -> Self:
        """Gives itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the connections."""
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def recommend(
        self,
        user_id: Id | None = None,
        *,
        request_id: str | None = None,
        timeout_s: float | None = None,
        **request: Unpack[AskedForUser],
    ) -> Answer:
        """Asks for the best items for a user now, or for nobody in particular of whom `user_features` tell.

        Raises:
            ShortlistError: there is no answer; the exceptions of this package say why.
        """
        return self._ask(calls.recommend(user_id, request), request_id, timeout_s)

    def recommend_many(
        self,
        requests: Sequence[Mapping[str, Any]],
        *,
        request_id: str | None = None,
        timeout_s: float | None = None,
    ) -> list[Answer]:
        """Asks for 1 to 64 users at once; a request is `user_id` and what `recommend` may ask.

        Raises:
            ShortlistError: there is no answer; one wrong request refuses all.
        """
        return self._ask(calls.recommend_many(requests), request_id, timeout_s)

    def similar(
        self,
        item_id: Id,
        *,
        user_id: Id | None = None,
        request_id: str | None = None,
        timeout_s: float | None = None,
        **request: Unpack[Asked],
    ) -> Answer:
        """Asks for the items most like another, without what the user has seen, if one is named.

        Raises:
            ShortlistError: there is no answer.
        """
        return self._ask(calls.similar(item_id, user_id, request), request_id, timeout_s)

    def send_events(
        self,
        events: Sequence[Mapping[str, Any]],
        *,
        atomic: bool = False,
        timeout_s: float = EVENTS_TIMEOUT_S,
    ) -> EventsTaken:
        """Tells what users did, 1 to 500 events: `user_id`, `item_id`, and labels by name or a `type`; see
        `/docs`. They are kept when it returns, each once, whatever became of earlier tries.

        Raises:
            ShortlistError: none was accepted, or it is not known whether; send the same again.
        """
        return self._ask(calls.send_events(events, atomic), None, timeout_s)

    def put_items(self, items: Sequence[Mapping[str, Any]]) -> None:
        """Puts items, 1 to 500: `item_id` and the columns of the data set's items, each item whole. They are
        kept when it returns, and retrieved within two seconds or so.

        Raises:
            ShortlistError: none was accepted, or it is not known whether; send the same again.
        """
        return self._ask(calls.put_items(items), None, EVENTS_TIMEOUT_S)

    def delete_item(self, item_id: Id) -> None:
        """Takes an item out: two seconds later no slate holds it.

        Raises:
            ShortlistError: it was not accepted, or it is not known whether; send the same again.
        """
        return self._ask(calls.delete_item(item_id), None, EVENTS_TIMEOUT_S)

    def user(self, user_id: Id) -> dict[str, Any]:
        """Asks for all that is held of a user: `features`, `seen`, `slates`, `events`, `shown`.

        Raises:
            ShortlistError: there is no answer.
        """
        return self._ask(calls.user(user_id), None, EVENTS_TIMEOUT_S)

    def delete_user(self, user_id: Id) -> None:
        """Deletes all that is held of a user; files follow with the next preparation.

        Raises:
            ShortlistError: it was not accepted, or it is not known whether; send the same again.
        """
        return self._ask(calls.delete_user(user_id), None, EVENTS_TIMEOUT_S)

    def seen(self, user_id: Id, limit: int = 20) -> ItemHistory:
        """Asks what a user has seen, newest first.

        Raises:
            ShortlistError: there is no answer.
        """
        return self._ask(calls.seen(user_id, limit))

    def bundle(self) -> ServedBundle:
        """Asks what is served.

        Raises:
            ShortlistError: there is no answer.
        """
        return self._ask(calls.bundle())

    def _ask(self, call: Call[T], request_id: str | None = None, timeout_s: float | None = None) -> T:
        headers, (tries, budget_s) = calls.headers(request_id), self._tries(timeout_s)
        while True:
            timeout = tries.begin()
            try:
                return call.answer(self._http.request(**_sent(call), headers=headers, timeout=timeout))
            except httpx.RequestError as error:
                failure: ShortlistError = failure_of(error, budget_s)
            except ShortlistError as error:
                failure = error
            failure.attempts, failure.request_id = tries.made, headers["x-request-id"]
            self._sleep(tries.pause_s(failure))


class AsyncClient(_Caller):
    """The same as `Client`, for asyncio; to be closed at the end, as by `async with`."""

    _sleep = staticmethod(asyncio.sleep)

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        *,
        api_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        retries: Retries = RETRIES,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Connects at the first call. `transport` is httpx's, for proxies, certificates and tests.

        Raises:
            ValueError: an address, a key, a time or a number of tries that is none.
        """
        super().__init__(url, api_key, timeout_s, retries)
        self._http = httpx.AsyncClient(**self._settings, transport=transport)

    async def __aenter__(self) -> Self:
        """Gives itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the connections."""
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def recommend(
        self,
        user_id: Id | None = None,
        *,
        request_id: str | None = None,
        timeout_s: float | None = None,
        **request: Unpack[AskedForUser],
    ) -> Answer:
        """Asks for the best items for a user now, or for nobody in particular of whom `user_features` tell.

        Raises:
            ShortlistError: there is no answer; the exceptions of this package say why.
        """
        return await self._ask(calls.recommend(user_id, request), request_id, timeout_s)

    async def recommend_many(
        self,
        requests: Sequence[Mapping[str, Any]],
        *,
        request_id: str | None = None,
        timeout_s: float | None = None,
    ) -> list[Answer]:
        """Asks for 1 to 64 users at once; a request is `user_id` and what `recommend` may ask.

        Raises:
            ShortlistError: there is no answer; one wrong request refuses all.
        """
        return await self._ask(calls.recommend_many(requests), request_id, timeout_s)

    async def similar(
        self,
        item_id: Id,
        *,
        user_id: Id | None = None,
        request_id: str | None = None,
        timeout_s: float | None = None,
        **request: Unpack[Asked],
    ) -> Answer:
        """Asks for the items most like another, without what the user has seen, if one is named.

        Raises:
            ShortlistError: there is no answer.
        """
        return await self._ask(calls.similar(item_id, user_id, request), request_id, timeout_s)

    async def send_events(
        self,
        events: Sequence[Mapping[str, Any]],
        *,
        atomic: bool = False,
        timeout_s: float = EVENTS_TIMEOUT_S,
    ) -> EventsTaken:
        """Tells what users did, 1 to 500 events: `user_id`, `item_id`, and labels by name or a `type`; see
        `/docs`. They are kept when it returns, each once, whatever became of earlier tries.

        Raises:
            ShortlistError: none was accepted, or it is not known whether; send the same again.
        """
        return await self._ask(calls.send_events(events, atomic), None, timeout_s)

    async def put_items(self, items: Sequence[Mapping[str, Any]]) -> None:
        """Puts items, 1 to 500: `item_id` and the columns of the data set's items, each item whole. They are
        kept when it returns, and retrieved within two seconds or so.

        Raises:
            ShortlistError: none was accepted, or it is not known whether; send the same again.
        """
        return await self._ask(calls.put_items(items), None, EVENTS_TIMEOUT_S)

    async def delete_item(self, item_id: Id) -> None:
        """Takes an item out: two seconds later no slate holds it.

        Raises:
            ShortlistError: it was not accepted, or it is not known whether; send the same again.
        """
        return await self._ask(calls.delete_item(item_id), None, EVENTS_TIMEOUT_S)

    async def user(self, user_id: Id) -> dict[str, Any]:
        """Asks for all that is held of a user: `features`, `seen`, `slates`, `events`, `shown`.

        Raises:
            ShortlistError: there is no answer.
        """
        return await self._ask(calls.user(user_id), None, EVENTS_TIMEOUT_S)

    async def delete_user(self, user_id: Id) -> None:
        """Deletes all that is held of a user; files follow with the next preparation.

        Raises:
            ShortlistError: it was not accepted, or it is not known whether; send the same again.
        """
        return await self._ask(calls.delete_user(user_id), None, EVENTS_TIMEOUT_S)

    async def seen(self, user_id: Id, limit: int = 20) -> ItemHistory:
        """Asks what a user has seen, newest first.

        Raises:
            ShortlistError: there is no answer.
        """
        return await self._ask(calls.seen(user_id, limit))

    async def bundle(self) -> ServedBundle:
        """Asks what is served.

        Raises:
            ShortlistError: there is no answer.
        """
        return await self._ask(calls.bundle())

    async def _ask(self, call: Call[T], request_id: str | None = None, timeout_s: float | None = None) -> T:
        headers, (tries, budget_s) = calls.headers(request_id), self._tries(timeout_s)
        while True:
            timeout = tries.begin()
            try:
                async with asyncio.timeout(tries.left_s()):
                    response = await self._http.request(**_sent(call), headers=headers, timeout=timeout)
                return call.answer(response)
            except (httpx.RequestError, TimeoutError) as error:
                failure: ShortlistError = failure_of(error, budget_s)
            except ShortlistError as error:
                failure = error
            failure.attempts, failure.request_id = tries.made, headers["x-request-id"]
            await self._sleep(tries.pause_s(failure))


def _sent(call: Call[Any]) -> dict[str, Any]:
    body = {} if call.body is None else {"json": call.body}
    return {"method": call.method, "url": call.path, "params": call.query, **body}
