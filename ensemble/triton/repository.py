"""The models of one Triton, over its HTTP API: which are ready, load one, unload one.

Standard library and contract only, so that a container's health check starts in a moment.
"""

from __future__ import annotations

import http.client
import json
import time
from typing import Any

PORT = 8000
"""Triton's own default for HTTP."""
CALL_S = 1.5
"""Seconds for a call that is no load. Triton is left the second after which it gives up on a Python process
and says so."""
PAUSE_S = 0.05
UNLOADED_S = 20.0
"""Seconds for a model to answer what it has begun, and to end."""
READY = "READY"


class LoadError(RuntimeError):
    """Says why a model was not loaded, or not unloaded."""


class ModelRepository:
    """Talks to one Triton that was started with `--model-control-mode=explicit`.

    Any method may raise `OSError` or `http.client.HTTPException` where it does not listen or does not answer.
    """

    def __init__(self, host: str, port: int, timeout_s: float = CALL_S) -> None:
        self._address, self._timeout_s = (host, port), timeout_s

    def call(
        self, method: str, path: str, body: bytes | None = None, timeout_s: float | None = None
    ) -> tuple[int, str]:
        """Sends one request, gives the answer's status and text."""
        connection = http.client.HTTPConnection(*self._address, timeout=timeout_s or self._timeout_s)
        try:
            connection.request(method, path, body, {"content-type": "application/json"} if body else {})
            response = connection.getresponse()
            return response.status, response.read().decode(errors="replace")
        finally:
            connection.close()

    def states(self) -> dict[str, str]:
        """Gives model -> state of those that were ever loaded: READY, LOADING, UNLOADING, UNAVAILABLE.

        Raises:
            ValueError: what it says is no index of models.
        """
        status, body = self.call("POST", "/v2/repository/index", b"{}")
        if status != http.client.OK:
            raise ValueError(f"/v2/repository/index: {status} {body[:300]}")
        index: list[dict[str, Any]] = json.loads(body)
        return {one["name"]: one["state"] for one in index if one.get("state")}

    def ready(self) -> list[str]:
        """Names the models that Triton calls ready, dead ones among them.

        Raises:
            ValueError: what it says is no index of models.
        """
        return [name for name, state in self.states().items() if state == READY]

    def load(self, model: str, timeout_s: float) -> None:
        """Loads a model, or loads it anew where its files have changed, and waits until it is ready; one that
        was loaded before answers meanwhile, and goes on where the new one fails.

        Raises:
            LoadError: it did not load, or not in time.
        """
        try:
            status, body = self.call("POST", f"/v2/repository/models/{model}/load", b"{}", timeout_s)
        except TimeoutError:
            raise LoadError(f"{model}: is not loaded after {timeout_s:g} s") from None
        if status != http.client.OK:
            raise LoadError(f"{model}: Triton does not load it: {_said(body)}")

    def unload(self, model: str) -> None:
        """Unloads a model once it has answered what it has begun, and waits for its end.

        Raises:
            LoadError: it is still there.
        """
        status, body = self.call("POST", f"/v2/repository/models/{model}/unload", b"{}")
        if status != http.client.OK:
            raise LoadError(f"{model}: Triton does not unload it: {_said(body)}")
        until = time.monotonic() + UNLOADED_S
        while self.states().get(model) not in (None, "UNAVAILABLE"):
            if time.monotonic() > until:
                raise LoadError(f"{model}: is not unloaded after {UNLOADED_S:g} s")
            time.sleep(PAUSE_S)


def _said(body: str) -> str:
    try:
        said: str = json.loads(body)["error"]
    except (ValueError, LookupError, TypeError):
        said = body
    return " ".join(said.split())[:600]
