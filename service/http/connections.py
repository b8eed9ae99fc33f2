"""What a connection may do before the app sees a request: a bounded head, within a bounded time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.http.problems import PROBLEM_TYPE, problem_document
from service.settings import Settings

Refused = Callable[[str], None]
"""Counts a refusal, by its reason."""


class _Refusal(Exception):
    """Ends the parsing of a request that is not wanted."""


class BoundedProtocol(HttpToolsProtocol):
    """Bounds the connections, the head's length and its time, a body that nobody reads, and a stalled reader.

    uvicorn itself reads headers without end and waits for them for ever. A head that comes in one piece, as
    nearly all do, costs no timer.
    """

    settings: Settings
    refused: Refused

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Takes a connection, or says that there are too many."""
        super().connection_made(transport)
        self._receiving: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None
        self._why = (400, "request", "This is no HTTP request: send HTTP/1.1")
        self._in_head, self._head_bytes, self._unread_bytes = True, 0, 0
        most = self.settings.max_connections
        if len(self.connections) > most:
            self._refuse(503, "connections", f"{most} connections are open already: try again shortly")
        else:
            self._wait(self.transport.close, self.settings.idle_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the timers."""
        self._stop_waiting()
        self._stop_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Takes a piece of a head or a body."""
        if self.transport.is_closing():
            return
        if self._in_head:
            if not self._head_bytes:
                self._stop_waiting()
            self._head_bytes += len(data)
        elif self.cycle is not None and self.cycle.response_complete:
            self._unread_bytes += len(data)
            if self._unread_bytes > 4 * self.settings.max_body_bytes:
                self.transport.close()
                return
        super().data_received(data)
        if not self._in_head or self.transport.is_closing():
            return
        if self._head_bytes > self.settings.max_head_bytes:
            self._refuse(*self._too_long())
        elif self._receiving is None and self._head_bytes:
            self._wait(self._head_is_late, self._timeout_s)

    def on_message_begin(self) -> None:
        """Begins a head; what came before it in the same piece counts as well."""
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Ends a head; the app is called."""
        most = self.settings.max_head_bytes
        if self._head_bytes > most:  # of the piece, perhaps with a body: now the head's own length is known
            length = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if length > most:
                self._why = self._too_long()
                raise _Refusal
        self._in_head, self._head_bytes, self._unread_bytes = False, 0, 0
        self._stop_waiting()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Ends a request: the next head may come."""
        super().on_message_complete()
        self._in_head, self._head_bytes = True, 0
        if self.cycle is not None and self.cycle.response_complete:
            self._wait(self.transport.close, self.settings.idle_timeout_s)

    def on_response_complete(self) -> None:
        """Ends an answer; a body that is still on its way is thrown away for a while, then cut off."""
        super().on_response_complete()
        if not self._in_head and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self._wait(self.transport.close, self._timeout_s)

    def pause_writing(self) -> None:
        """Waits for the caller to take what was written, for a while."""
        super().pause_writing()
        self._stop_writing()
        self._writing = self.loop.call_later(self._timeout_s, self._reader_is_late)

    def resume_writing(self) -> None:
        """Goes on writing."""
        self._stop_writing()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  (uvicorn's words say nothing of the remedy)
        """Answers what the parser refuses."""
        self._refuse(*self._why)

    def _unsupported_upgrade_warning(self) -> None:
        """Says nothing: a request that offers another protocol is answered in this one, and needs no log."""

    def _too_long(self) -> tuple[int, str, str]:
        most = self.settings.max_head_bytes
        return 431, "head_too_long", f"Request line and headers are too long: send at most {most} bytes"

    @property
    def _timeout_s(self) -> float:
        return self.settings.receive_timeout_ms / 1000

    def _head_is_late(self) -> None:
        most = self.settings.receive_timeout_ms
        self._refuse(408, "head_late", f"The headers did not come within {most} ms: send them at once")

    def _reader_is_late(self) -> None:
        self.refused("reader_late")
        self.transport.abort()

    def _refuse(self, status: int, reason: str, detail: str) -> None:
        """Answers with a problem document and hangs up; beside an answer on its way, hangs up alone."""
        self._stop_waiting()
        if self.transport.is_closing():
            return
        self.refused(reason)
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(_response(status, detail))
        self.transport.close()

    def _wait(self, call: Callable[[], None], seconds: float) -> None:
        self._stop_waiting()
        self._receiving = self.loop.call_later(seconds, call)

    def _stop_waiting(self) -> None:
        if self._receiving is not None:
            self._receiving.cancel()
            self._receiving = None

    def _stop_writing(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None


def bounded_protocol(settings: Settings, refused: Refused) -> type[BoundedProtocol]:
    """Binds the protocol to these settings; uvicorn makes one of it for every connection."""
    return type("Protocol", (BoundedProtocol,), {"settings": settings, "refused": staticmethod(refused)})


def _response(status: int, detail: str) -> bytes:
    body = json.dumps(problem_document(status, detail)).encode()
    headers = {"content-type": PROBLEM_TYPE, "content-length": str(len(body)), "connection": "close"}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["retry-after"] = "1"
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body
