"""The calls of the gateway: what is sent, and how its answer is read. No connection is made here."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypedDict, TypeVar
from urllib.parse import quote

import httpx

from shortlist.answers import Answer, EventsTaken, Id, ItemHistory, ServedBundle
from shortlist.errors import NotUnderstood, refusal

T = TypeVar("T")
_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")


class Asked(TypedDict, total=False):
    """What any slate may be asked for; left out, the gateway's own defaults hold. `/docs` describes each.

    `filters` maps a column to its allowed values, or to an object of bounds, `any` and `not`; `rules`
    asks for boosts, pins, caps, shares and diversity; `after` takes the `next` of the answer before.
    """

    n: int
    exclude_item_ids: Sequence[Id]
    filters: Mapping[str, Any]
    rules: Mapping[str, Any]
    explain: bool
    latency_budget_ms: int
    after: str


class AskedForUser(Asked, total=False):
    """What a recommendation may ask for beside that."""

    context: Mapping[str, int]
    user_features: Mapping[str, Any]
    source: Literal["batch"]


@dataclass(frozen=True)
class Call(Generic[T]):
    """One question: how it is sent, and what reads its answer."""

    method: str
    path: str
    read: Callable[[Mapping[str, Any]], T]
    body: Mapping[str, Any] | None = None
    query: Mapping[str, int] = field(default_factory=dict)

    def answer(self, response: httpx.Response) -> T:
        """Reads the answer.

        Raises:
            Refused: it is a problem document, or of a status that is no answer.
            NotUnderstood: it is nothing that the gateway answers.
        """
        if response.status_code >= 400:
            raise refusal(response)
        try:
            document = response.json()
            if not isinstance(document, dict):
                raise TypeError(f"no object, but {type(document).__name__}")
            return self.read(document)
        except (ValueError, KeyError, TypeError) as error:
            said = f"{response.status_code}, {response.headers.get('content-type', 'no content-type')}"
            message = f"{response.url} answered {said}, which is no answer of a gateway: {error!r}"
            raise NotUnderstood(message) from None


def recommend(user_id: Id | None, request: AskedForUser) -> Call[Answer]:
    """Asks for the best items of a user; of nobody in particular, where features of one are given."""
    named = {} if user_id is None else {"user_id": user_id}
    return Call("POST", "/v1/recommendations", Answer.read, _body(named, request))


def similar(item_id: Id, user_id: Id | None, request: Asked) -> Call[Answer]:
    """Asks for the items most like another."""
    named = {"item_id": item_id} | ({} if user_id is None else {"user_id": user_id})
    return Call("POST", "/v1/similar", Answer.read, _body(named, request))


def recommend_many(requests: Sequence[Mapping[str, Any]]) -> Call[list[Answer]]:
    """Asks for the best items of each of several users, each as its request says."""

    def read(document: Mapping[str, Any]) -> list[Answer]:
        return [Answer.read(answer) for answer in document["answers"]]

    body = {"requests": [_body({}, request) for request in requests]}
    return Call("POST", "/v1/recommendations/many", read, body)


def send_events(events: Sequence[Mapping[str, Any]], atomic: bool) -> Call[EventsTaken]:
    """Tells what users did. An event without a name gets one, so that all tries of the call count once."""
    named = [{"event_id": uuid.uuid4().hex, **event} for event in events]
    return Call("POST", "/v1/events", EventsTaken.read, {"events": named, "atomic": atomic})


def put_items(items: Sequence[Mapping[str, Any]]) -> Call[None]:
    """Puts items."""
    return Call("PUT", "/v1/items", _nothing, {"items": [dict(item) for item in items]})


def delete_item(item_id: Id) -> Call[None]:
    """Takes an item out."""
    return Call("DELETE", f"/v1/items/{_part(item_id)}", _nothing)


def user(user_id: Id) -> Call[dict[str, Any]]:
    """Asks for all that is held of a user."""
    return Call("GET", f"/v1/users/{_part(user_id)}", dict)


def delete_user(user_id: Id) -> Call[None]:
    """Deletes all that is held of a user."""
    return Call("DELETE", f"/v1/users/{_part(user_id)}", _nothing)


def seen(user_id: Id, limit: int) -> Call[ItemHistory]:
    """Asks what a user has seen."""
    return Call("GET", f"/v1/users/{_part(user_id)}/seen", ItemHistory.read, query={"limit": limit})


def bundle() -> Call[ServedBundle]:
    """Asks what is served."""
    return Call("GET", "/v1/bundle", ServedBundle.read)


def headers(request_id: str | None) -> dict[str, str]:
    """Makes the header that all tries of a call carry: the caller's id, or a new one.

    Raises:
        ValueError: the gateway would replace this id.
    """
    if request_id is not None and not _SANE_ID.fullmatch(request_id):
        raise ValueError(
            f"request_id {request_id!r}: send 1 to 64 letters, digits, '.', '_', ':' or '-', or leave it out"
        )
    return {"x-request-id": request_id or uuid.uuid4().hex}


def _nothing(_: Mapping[str, Any]) -> None:
    """Reads that it was accepted."""


def _part(own: Id) -> str:
    """Writes an id as a part of a path."""
    return quote(str(own), safe="").replace(".", "%2E")  # or ".." would climb


def _body(first: Mapping[str, Any], request: Mapping[str, Any]) -> dict[str, Any]:
    return dict(first) | {
        name: list(value) if name.endswith("_ids") and isinstance(value, Sequence) else value
        for name, value in request.items()
    }
