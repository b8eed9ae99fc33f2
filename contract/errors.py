"""Who is responsible for a failure, and how a stage's failure survives Triton as text."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum


class ErrorCode(StrEnum):
    """Who is responsible for a failure."""

    BAD_REQUEST = "bad_request"  # the caller: 4xx, outside the service level
    CONTRACT = "contract"  # our bug: 500, never hidden by the fallback
    DEPENDENCY = "dependency"  # Redis, Triton, a model: fallback, else 503


class WrongField(ValueError):
    """A field of a request that only a bundle, or the settings, can tell to be wrong."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field, self.message = field, message

    def within(self, outer: str) -> WrongField:
        """The same, of a field that stands in another."""
        return WrongField(f"{outer}.{self.field}", self.message)


class StageError(Exception):
    """A stage's failure; prints `code|stage|message`, which survives Triton as text."""

    def __init__(self, code: ErrorCode, stage: str, message: str) -> None:
        super().__init__(f"{code}|{stage}|{message}")
        self.code, self.stage, self.message = code, stage, message

    @classmethod
    def parse(cls, text: str) -> StageError | None:
        """Finds `code|stage|message` in a Triton error text; None where there is none."""
        for code in ErrorCode:
            _, found, rest = text.partition(f"{code}|")
            stage, bar, message = rest.partition("|")
            if found and bar:
                return cls(code, stage, message)
        return None


def one_of(names: Sequence[str]) -> str:
    """Says which names there are instead of one that is not known."""
    return f"use one of {', '.join(names)}" if names else "it has none; leave it out"
