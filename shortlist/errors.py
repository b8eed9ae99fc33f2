"""What a call of the gateway raises."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx


class ShortlistError(Exception):
    """No answer; every other exception here is one of these.

    `attempts` is how often the gateway was asked, `request_id` the id that all of these requests carried, by
    which the gateway's log has them.
    """

    attempts: int = 1
    request_id: str = ""


class Unreachable(ShortlistError):
    """No connection, or it broke before an answer came."""


class OutOfTime(ShortlistError):
    """The gateway did not answer within the time that the call may take."""


class NotUnderstood(ShortlistError):
    """An answer came that is none of the gateway's: another server, or another version, has that address."""


class Refused(ShortlistError):
    """The gateway answered with a problem document (RFC 9457).

    `status` is HTTP's; `detail` says what is wrong and what to do; `fields` maps the wrong fields to what is
    wrong with them; `retry_after_s` is how long the gateway asked to be left alone, in seconds; `document` is
    the whole of it.
    """

    def __init__(self, status: int, document: Mapping[str, Any], retry_after_s: float | None = None) -> None:
        self.status, self.document, self.retry_after_s = status, dict(document), retry_after_s
        self.detail = str(document.get("detail") or document.get("title") or "")
        self.fields = {str(one["field"]): str(one["message"]) for one in document.get("errors") or ()}
        super().__init__(f"{status}: {self.detail}")


class WrongRequest(Refused):
    """A field is wrong, missing or unknown, or the body is none that the gateway takes (4xx)."""


class UnknownCaller(Refused):
    """The gateway asks for an API key, and knows none or not the one that was sent (401, 403)."""


class Overloaded(Refused):
    """The gateway cannot answer at the moment (429, 503)."""


class GatewayFailed(Refused):
    """The gateway, or a proxy in front of it, failed (any other 5xx); the gateway's log says why."""


def refusal(response: httpx.Response) -> Refused:
    """Takes an answer of status 400 or more, gives what is raised for it."""
    status = response.status_code
    kind: type[Refused] = WrongRequest if status < 500 else GatewayFailed
    if status in (401, 403):
        kind = UnknownCaller
    elif status in (429, 503):
        kind = Overloaded
    try:
        document = response.json()
    except ValueError:
        document = None
    if not isinstance(document, dict):  # a proxy's own words
        document = {"detail": response.text[:200] or response.reason_phrase}
    return kind(status, document, retry_after_s(response))


def retry_after_s(response: httpx.Response) -> float | None:
    """Reads the header `retry-after`, seconds or a date, as seconds from now; None where it is missing or
    neither."""
    header = response.headers.get("retry-after", "").strip()
    if header.isdecimal():
        return float(header)
    try:
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
