"""`python -m ensemble.triton.probe`: asks a Triton for a real slate, says what its answer means.

Triton's own health check cannot be trusted: this release goes on reporting ready when its Python process is
dead. Standard library and contract only, so that a container's health check starts in a moment.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from contract.errors import StageError
from contract.tensors import ANSWER, MODEL_NAME, REQUEST, REQUEST_TENSORS, pack_request, plain_request

TIMEOUT_S, COUNT_S = 1.5, 0.5
"""Seconds for a slate, and for Triton's own count of batches. The first leaves Triton the second after which
it gives up on its Python process and says so."""
BROKEN_TEXT = "is not healthy"
"""What Triton says of a Python process that is dead, or has not moved for a second."""
STATS = "/stats"
NOT_YET = ("not ready", "unknown model", "no version")
PORT = 8000
"""Triton's own default for HTTP."""


class Sign(StrEnum):
    """What one look at a server says of it."""

    ANSWERS = "answers"  # the chain spoke, were it only to say that Redis is away
    STARTING = "starting"  # it does not listen, or its model is not loaded yet
    BROKEN = "broken"  # it says that its Python process does not move
    SILENT = "silent"  # it took the request and gave no answer of the chain: stuck, or too busy


@dataclass(frozen=True)
class Look:
    """A sign, and the words behind it."""

    sign: Sign
    why: str = ""


class Probe:
    """Sends real requests to one Triton over HTTP."""

    def __init__(self, host: str, port: int, timeout_s: float = TIMEOUT_S) -> None:
        self._address, self._timeout_s = (host, port), timeout_s
        self._body = b""

    def look(self) -> Look:
        """Asks for one slate."""
        try:
            if not self._body:
                status, told = self._call("GET", f"/v2/models/{MODEL_NAME}")
                if status != http.client.OK:
                    return Look(Sign.STARTING, told)
                self._body = _request(json.loads(told)["inputs"])
            status, told = self._call("POST", f"/v2/models/{MODEL_NAME}/infer", self._body)
        except (ConnectionRefusedError, ConnectionResetError, http.client.HTTPException, ValueError) as error:
            return Look(Sign.STARTING, f"it does not listen: {error!r}")
        except OSError as error:
            return Look(Sign.SILENT, f"no answer within {self._timeout_s:g} s: {error}")
        return _meaning(status, told)

    def executions(self) -> int | None:
        """How many batches the model has run; None where Triton does not say.

        A busy server is told from a stuck one by this: it rises.
        """
        try:
            status, told = self._call("GET", f"/v2/models/{MODEL_NAME}{STATS}")
            return int(json.loads(told)["model_stats"][0]["execution_count"]) if status == 200 else None
        except (OSError, http.client.HTTPException, ValueError, LookupError):
            return None

    def _call(self, method: str, path: str, body: bytes | None = None) -> tuple[int, str]:
        timeout_s = COUNT_S if path.endswith(STATS) else self._timeout_s
        connection = http.client.HTTPConnection(*self._address, timeout=timeout_s)
        try:
            connection.request(method, path, body, {"content-type": "application/json"} if body else {})
            response = connection.getresponse()
            return response.status, response.read().decode(errors="replace")
        finally:
            connection.close()


def _request(inputs: list[dict[str, Any]]) -> bytes:
    """Takes the model's inputs as Triton describes them, gives a request for one item."""
    (width,) = (described["shape"][1] for described in inputs if described["name"] == REQUEST)
    context = [str(place) for place in range(width - len(REQUEST_TENSORS))]
    words = pack_request(plain_request(np.zeros(1, dtype=np.int64), 1, context), context)[REQUEST]
    request = {"name": REQUEST, "datatype": "INT64", "shape": words.shape, "data": words[0].tolist()}
    return json.dumps({"inputs": [request], "outputs": [{"name": ANSWER.name}]}).encode()


def _meaning(status: int, told: str) -> Look:
    """Takes an answer's status and text, gives what it means."""
    if status == http.client.OK:
        return Look(Sign.ANSWERS)
    text = told[:300]
    if StageError.parse(text) is not None:
        return Look(Sign.ANSWERS, text)
    if BROKEN_TEXT in text:
        return Look(Sign.BROKEN, text)
    # What is left comes from Triton itself: the model is loading, or the queue is full or too slow.
    return Look(Sign.STARTING if any(words in text for words in NOT_YET) else Sign.SILENT, text)


def main() -> int:
    """The health check of a container: 0 where the chain answers, 1 where it does not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=PORT, help=f"Triton's HTTP port (default: {PORT})")
    found = Probe("127.0.0.1", parser.parse_args().port).look()
    if found.sign is Sign.ANSWERS:
        return 0
    print(f"triton is {found.sign}: {found.why}", file=sys.stderr)  # noqa: T201
    return 1


if __name__ == "__main__":
    sys.exit(main())
