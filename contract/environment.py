"""How settings are read from the environment, by every role that may import this package."""

from __future__ import annotations

import sys
from typing import TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings

S = TypeVar("S", bound=BaseSettings)


def read_settings(kind: type[S]) -> S:
    """Reads the environment; a wrong value ends the process with one line and exit status 2."""
    try:
        return kind()
    except ValidationError as error:
        sys.stderr.write(describe(error, kind.model_config.get("env_prefix", "")) + "\n")
        raise SystemExit(2) from None


def describe(error: ValidationError, prefix: str = "SHORTLIST_") -> str:
    """Names each wrong setting, its value and what is expected, in one line."""
    parts = []
    for e in error.errors():
        name = "__".join(str(part) for part in e["loc"]).upper()
        parts.append(f"{prefix}{name}={e['input']}: {e['msg']}" if name else str(e["msg"]))
    return "settings: " + "; ".join(parts)
