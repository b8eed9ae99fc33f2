"""API keys: made here, kept by the caller; the gateway knows their hashes alone.

`python -m service.api_keys NAME` makes one.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import re
import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_HASH = re.compile(r"[0-9a-f]{64}")
PREFIX = "shortlist_"
"""Begins every key, so that a scanner of repositories and logs can find one that got there."""
RANDOM_BYTES = 32
"""Of a key: 256 bits, so that a fast hash without salt is enough; nobody can try them all."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A caller's name, and the SHA-256 of a key of theirs as 64 hex digits."""

    caller: str
    digest: str

    @classmethod
    def parse(cls, text: str) -> ApiKey:
        """Reads `caller:digest`.

        Raises:
            ValueError: it is something else, perhaps a key itself, which is therefore not repeated.
        """
        caller, _, digest = text.strip().partition(":")
        if not _NAME.fullmatch(caller) or not _HASH.fullmatch(digest):
            raise ValueError(
                "must list NAME:HASH, separated by commas: a name of at most 32 of a-z, 0-9, _ and -, and "
                "the 64 hex digits that `python -m service.api_keys NAME` prints"
            )
        return cls(caller, digest)


def parse_keys(text: str) -> tuple[ApiKey, ...]:
    """Reads a comma-separated list; a caller may have several keys, so that they can be changed in turn.

    Raises:
        ValueError: an entry is no `caller:digest`, or a digest is there twice.
    """
    keys = tuple(ApiKey.parse(part) for part in text.split(",") if part.strip())
    if len({key.digest for key in keys}) < len(keys):
        raise ValueError("has the same hash twice: every caller needs a key of their own")
    return keys


def digest_of(key: bytes) -> str:
    """The SHA-256 of a key, as hex."""
    return hashlib.sha256(key).hexdigest()


def caller_of(key: bytes, keys: Sequence[ApiKey]) -> str | None:
    """Names the caller whose key this is; None for nobody's.

    Every hash is compared, each in constant time, so that the time tells nothing about them.
    """
    digest, caller = digest_of(key), None
    for known in keys:
        if hmac.compare_digest(known.digest, digest):
            caller = known.caller
    return caller


def make_key() -> str:
    """Draws a new key."""
    return PREFIX + secrets.token_urlsafe(RANDOM_BYTES)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a new key and what the gateway is to be told of it; neither is kept."""
    parser = argparse.ArgumentParser(prog="python -m service.api_keys", description=__doc__)
    parser.add_argument("name", help="the caller's: a-z, 0-9, _ and -; logs and metrics show it")
    name = parser.parse_args(arguments).name
    if not _NAME.fullmatch(name):
        parser.error(f"{name}: a name has at most 32 of a-z, 0-9, _ and -, and begins with a letter or digit")
    key = make_key()
    sys.stdout.write(
        f"For {name}, to send as `authorization: Bearer KEY`; it is shown this once:\n    {key}\n"
        f"For the gateway, in SHORTLIST_API_KEYS, after a comma where there are others:\n"
        f"    {name}:{digest_of(key.encode())}\n"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
