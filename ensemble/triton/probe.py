"""`python -m ensemble.triton.probe`: asks each model of a Triton for a slate, says what the answers mean.

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
from contract.tensors import ANSWER, REQUEST, REQUEST_TENSORS, pack_request, plain_request
from ensemble.triton.repository import CALL_S, PORT, ModelRepository

COUNT_S = 0.5
"""Seconds for Triton's own count of batches."""
BROKEN_TEXT = "is not healthy"
"""What Triton says of a Python process that is dead, or has not moved for a second."""
NOT_YET = ("not ready", "unknown model", "no version")


class Sign(StrEnum):
    """What one look at a server says of it."""

    ANSWERS = "answers"  # the chain spoke, were it only to say that Redis is away
    STARTING = "starting"  # it does not listen, or its model is not loaded yet
    BROKEN = "broken"  # it says that its Python process does not move
    SILENT = "silent"  # it took the request and gave no answer of the chain: stuck, or too busy


_WORSE = (Sign.STARTING, Sign.ANSWERS, Sign.SILENT, Sign.BROKEN)
"""From what weighs least to what weighs most, where models differ."""


@dataclass(frozen=True)
class Look:
    """A sign, and the words behind it."""

    sign: Sign
    why: str = ""


class Probe:
    """Sends real requests to the models of one Triton over HTTP."""

    def __init__(self, host: str, port: int, timeout_s: float = CALL_S) -> None:
        self._repository, self._timeout_s = ModelRepository(host, port), timeout_s
        self._bodies: dict[str, bytes] = {}

    def look(self) -> Look:
        """Asks every model that is called ready for one slate; gives what is worst, and of a model that is
        not ready after all nothing, where another answers."""
        try:
            ready = self._repository.ready()
        except (ConnectionRefusedError, ConnectionResetError, http.client.HTTPException, ValueError) as error:
            return Look(Sign.STARTING, f"it does not listen: {error!r}")
        except OSError as error:
            return Look(Sign.SILENT, f"no answer within {CALL_S:g} s: {error}")
        looks = [self.look_at(model) for model in ready]
        return max(looks, key=lambda look: _WORSE.index(look.sign), default=Look(Sign.STARTING, "no model"))

    def look_at(self, model: str) -> Look:
        """Asks one model for a slate."""
        try:
            if model not in self._bodies:
                status, body = self._repository.call("GET", f"/v2/models/{model}")
                if status != http.client.OK:
                    return Look(Sign.STARTING, body)
                self._bodies[model] = _request(json.loads(body)["inputs"])
            path = f"/v2/models/{model}/infer"
            status, body = self._repository.call("POST", path, self._bodies[model], self._timeout_s)
        except (ConnectionRefusedError, ConnectionResetError, http.client.HTTPException, ValueError) as error:
            return Look(Sign.STARTING, f"{model}: it does not listen: {error!r}")
        except OSError as error:
            return Look(Sign.SILENT, f"{model}: no answer within {self._timeout_s:g} s: {error}")
        return _meaning(status, body)

    def executions(self) -> int | None:
        """How many batches the models have run; None where Triton does not say.

        A busy server is told from a stuck one by this: it rises.
        """
        try:
            status, body = self._repository.call("GET", "/v2/models/stats", timeout_s=COUNT_S)
            models = json.loads(body)["model_stats"] if status == http.client.OK else None
            return None if models is None else sum(int(one["execution_count"]) for one in models)
        except (OSError, http.client.HTTPException, ValueError, LookupError):
            return None


def _request(inputs: list[dict[str, Any]]) -> bytes:
    """Takes the model's inputs as Triton describes them, gives a request for one item."""
    (width,) = (described["shape"][1] for described in inputs if described["name"] == REQUEST)
    context = [str(place) for place in range(width - len(REQUEST_TENSORS))]
    words = pack_request(plain_request(np.zeros(1, dtype=np.int64), 1, context), context)[REQUEST]
    request = {"name": REQUEST, "datatype": "INT64", "shape": words.shape, "data": words[0].tolist()}
    return json.dumps({"inputs": [request], "outputs": [{"name": ANSWER.name}]}).encode()


def _meaning(status: int, body: str) -> Look:
    """Takes an answer's status and text, gives what it means."""
    if status == http.client.OK:
        return Look(Sign.ANSWERS)
    text = body[:300]
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
