"""How Feast is told where Redis is; `python -m feature_repo.connection` writes it for a command by hand.

Feast splits its connection string at commas and reads each value as JSON, after YAML and the shell had it:
user, password and paths are written in JSON's escapes, which none of them touches.
"""

from __future__ import annotations

import sys

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from contract.environment import LOCAL_REDIS, RedisUrl, read_settings

VARIABLE = "SHORTLIST_FEAST_REDIS"
"""What `feature_store.yaml` reads. It holds the password, so it is given by the environment alone."""


class ConnectionSettings(BaseSettings):
    """Where Redis is."""

    model_config = SettingsConfigDict(
        env_prefix="SHORTLIST_", extra="ignore", env_ignore_empty=True, hide_input_in_errors=True
    )

    redis_url: RedisUrl = Field(
        LOCAL_REDIS, description="URL of the Redis that features are brought to, with user and password."
    )


def connection_string(url: RedisUrl) -> str:
    """Writes a URL as Feast 0.48 reads it: `host:port,name=value,...`."""
    options = url.connection_kwargs()
    place = f"{options.pop('host')}:{options.pop('port')}"
    return ",".join([place, *(f"{name}={_escaped(value)}" for name, value in options.items())])


def _escaped(value: str | int | bool) -> str:
    if isinstance(value, str):
        return '"' + "".join(c if c.isascii() and c.isalnum() else _unicode(c) for c in value) + '"'
    return str(value).lower()


def _unicode(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


if __name__ == "__main__":
    sys.stdout.write(connection_string(read_settings(ConnectionSettings).redis_url))
