"""How settings are read from the environment, by every role, and what the setting of Redis may be."""

from __future__ import annotations

import errno
import os
import re
import ssl
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, PydanticCustomError, core_schema
from pydantic_settings import BaseSettings, SettingsError

S = TypeVar("S", bound=BaseSettings)

REDIS_URL = "SHORTLIST_REDIS_URL"
AUTHENTICATION_FAILED = f"authentication failed: look at user and password in {REDIS_URL}"
SECRET = "secret"
"""Pydantic's type of an error whose input is not repeated."""
_FORM = "redis://[user][:password]@host:port/database, or rediss:// for TLS"
_ENCODED = "write @ : / ? # % in user and password as %40 %3A %2F %3F %23 %25"
_CA_FILE = "ssl_ca_certs"


class RedisUrl:
    """Where Redis is and how it is entered: `redis://user:password@host:port/database`, all but the host as
    need be; `rediss://` for TLS, with `?ssl_ca_certs=FILE` where the system does not know the authority.

    Neither its text nor any of its errors shows the password.
    """

    def __init__(self, url: str) -> None:
        """Takes a URL whose user and password are percent-encoded.

        Raises:
            ValueError: it is none; the message repeats no part of it, as any may be of the password.
        """
        try:
            parts = urlsplit(url)
            port, options = parts.port, dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
        except ValueError:
            raise ValueError(f"must be {_FORM}; {_ENCODED}") from None
        if parts.scheme not in ("redis", "rediss"):
            raise ValueError(f"must be {_FORM}")
        database = parts.path.removeprefix("/") or "0"
        host = parts.hostname or ""
        is_whole = re.fullmatch(r"[^\s@]+", host) and port != 0 and not parts.fragment
        if not is_whole or not re.fullmatch(r"\d{1,9}", database, re.ASCII):
            raise ValueError(f"must be {_FORM}; {_ENCODED}")
        if parts.username and not parts.password:
            raise ValueError(
                "names a user without a password; a password alone is written redis://:password@host"
            )
        if ":" in host:
            raise ValueError("must have a name or an IPv4 address for its host: Feast reads no IPv6 address")
        self.has_tls = parts.scheme == "rediss"
        self.host, self.port, self.database = host, port or 6379, int(database)
        self.user, self.password = unquote(parts.username or ""), unquote(parts.password or "")
        self.ca_file = options.pop(_CA_FILE, "")
        if options or (self.ca_file and not self.has_tls):
            raise ValueError(f"may end with ?{_CA_FILE}=FILE, for rediss:// alone, and with nothing else")
        if self.ca_file and not Path(self.ca_file).is_file():
            raise ValueError(f"names a file that is not there: {_CA_FILE}={self.ca_file}")
        try:
            self.tls_context()
        except ssl.SSLError:
            raise ValueError(f"names a file without certificates: {_CA_FILE}={self.ca_file}") from None
        self._url = url

    @property
    def address(self) -> str:
        """host:port, for messages."""
        return f"{self.host}:{self.port}"

    def at(self, address: str) -> RedisUrl:
        """Gives another server, `host:port`, that is entered in the same way; its database is 0."""
        parts = urlsplit(self._url)
        entry = parts.netloc.rpartition("@")[0]
        netloc = f"{entry}@{address}" if entry else address
        return RedisUrl(parts._replace(netloc=netloc, path="/0").geturl())

    def get_secret_value(self) -> str:
        """Gives the URL with its password: for an environment, never for a command line or a log."""
        return self._url

    def connection_kwargs(self) -> dict[str, Any]:
        """Gives the arguments by which `redis.Redis`, of either kind and any version, connects."""
        options: dict[str, Any] = {"host": self.host, "port": self.port, "db": self.database}
        options |= {"username": self.user} if self.user else {}
        options |= {"password": self.password} if self.password else {}
        if self.has_tls:
            options |= {"ssl": True, "ssl_cert_reqs": "required", "ssl_check_hostname": True}
            options |= {"ssl_ca_certs": self.ca_file} if self.ca_file else {}
        return options

    def tls_context(self) -> ssl.SSLContext | None:
        """Gives what checks the server's certificate and name; None where there is no TLS."""
        return ssl.create_default_context(cafile=self.ca_file or None) if self.has_tls else None

    def __repr__(self) -> str:
        """Shows no password."""
        entry = f"{self.user}:***@" if self.password else ""
        return f"redis{'s' * self.has_tls}://{entry}{self.address}/{self.database}"

    def __eq__(self, other: object) -> bool:
        """Compares the password as well."""
        return isinstance(other, RedisUrl) and other._url == self._url

    def __hash__(self) -> int:
        """Follows `==`."""
        return hash(self._url)

    @classmethod
    def __get_pydantic_core_schema__(cls, _: Any, __: GetCoreSchemaHandler) -> CoreSchema:
        """Lets a setting have this type: its text is read, and written without the password."""

        def read(value: Any) -> RedisUrl:
            if isinstance(value, cls):
                return value
            try:
                return cls(str(value))
            except ValueError as error:
                raise PydanticCustomError(SECRET, "{why}", {"why": str(error)}) from None

        return core_schema.no_info_plain_validator_function(
            read, serialization=core_schema.plain_serializer_function_ser_schema(repr)
        )


LOCAL_REDIS = RedisUrl("redis://127.0.0.1:6379/0")


def explain_redis(error: Exception, away: str = f"start it (`make up`), or set {REDIS_URL}") -> str:
    """Says in one line what a Redis client's error is and what to do, whichever release the client is of, and
    what to do where it does not answer."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    said = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    said = said.rpartition("of pipeline caused error: ")[2]  # before it stand keys and values
    if "AuthenticationError" in kinds:
        return AUTHENTICATION_FAILED
    if "NoPermissionError" in kinds:
        return f"{said}; docs/operations.md lists what the user in {REDIS_URL} must be allowed"
    if "OutOfMemoryError" in kinds or "OOM" in said or "used memory > 'maxmemory'" in said:
        # In a script or a pipeline it is a mere ResponseError, whose code some clients take away.
        return "it is full: raise its maxmemory (of the local one: SHORTLIST_REDIS_MAXMEMORY_MB)"
    if "SSL" in said:
        return f"{said}; look at rediss:// and {_CA_FILE} in {REDIS_URL}"
    if kinds & {"ConnectionError", "TimeoutError", "OSError"}:
        return f"{said}; {away}"
    return said


def is_full_disk(error: Exception) -> bool:
    """Whether a file could not be written for want of room."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def explain_full_disk(error: OSError, folder: Path) -> str:
    """Says in one line what to do where there is no room left under `folder`."""
    return (
        f"{folder}: {os.strerror(error.errno or errno.ENOSPC)}; nothing half-written is left: make room, or "
        "set SHORTLIST_VAR_DIR to a folder that has it, and run it again"
    )


def retired(environment: Mapping[str, str]) -> str:
    """Names a setting that is given and no longer read, and its successor; empty where there is none."""
    if "SHORTLIST_REDIS_ADDRESS" in environment:
        return f"SHORTLIST_REDIS_ADDRESS is no longer read: set {REDIS_URL}=redis://host:port in its place"
    return ""


def read_settings(kind: type[S]) -> S:
    """Reads the environment; a wrong value, or a retired one, ends the process with one line and status 2."""
    if message := retired(os.environ):
        sys.stderr.write(f"settings: {message}\n")
        raise SystemExit(2)
    try:
        return kind()
    except SettingsError as error:
        sys.stderr.write(f"settings: {error}; write it as JSON\n")
        raise SystemExit(2) from None
    except ValidationError as error:
        sys.stderr.write(describe(error, kind.model_config.get("env_prefix", "")) + "\n")
        raise SystemExit(2) from None


def describe(error: ValidationError, prefix: str = "SHORTLIST_") -> str:
    """Names each wrong setting, its value unless it is secret, and what is expected, in one line."""
    parts = []
    for e in error.errors():
        name = "__".join(str(part) for part in e["loc"]).upper()
        value = "" if e["type"] == SECRET else f"={e['input']}"
        parts.append(f"{prefix}{name}{value}: {e['msg']}" if name else str(e["msg"]))
    return "settings: " + "; ".join(parts)
