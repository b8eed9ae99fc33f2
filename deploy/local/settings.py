"""The settings of the three servers on one machine."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveFloat, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from contract.bundles import CURRENT, bundles_folder
from contract.environment import REDIS_URL, RedisUrl, read_settings

ROOT = Path(__file__).resolve().parents[2]
Port = Annotated[int, Field(ge=1, le=65535)]
PREFIX = "SHORTLIST_"
LOOPBACK = "127.0.0.1"


class LocalSettings(BaseSettings):
    """Where the local servers listen and keep their files, and how long they may take."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="ignore", env_ignore_empty=True, hide_input_in_errors=True
    )

    var_dir: Path = Field(
        Path("var"), description="Folder of all that is made at run time; move it where there is room."
    )
    bundle_dir: Path | None = Field(
        None, description="Bundle that the gateway reads. Default: bundles/current."
    )
    host: str = Field(
        LOOPBACK,
        description="Gateway's address; 0.0.0.0 lets other machines in, and needs SHORTLIST_API_KEYS.",
    )
    port: Port = Field(8080, description="Gateway's port; change it where it is taken.")
    api_keys: str = Field("", description="Gateway's keys, NAME:HASH, by comma; none: loopback only.")
    allow_anonymous: bool = Field(
        False, description="Whether the gateway needs no keys: only behind a proxy that knows its callers."
    )
    api_key: SecretStr | None = Field(
        None, description="Key that demo and load send; make one with `python -m service.api_keys NAME`."
    )
    redis_port: Port = Field(6379, description="Redis' port; change it where it is taken.")
    redis_url: RedisUrl | None = Field(
        None,
        description="URL of a Redis of your own; then none is started here. Default: the local one.",
    )
    redis_maxmemory_mb: int = Field(
        0, ge=0, description="Megabytes that Redis may use, 0 for all; above it writes fail and reads go on."
    )
    triton_http_port: Port = Field(8000, description="Triton's HTTP port; change it where it is taken.")
    triton_grpc_port: Port = Field(8001, description="Triton's gRPC port; change it where it is taken.")
    triton_metrics_port: Port = Field(8002, description="Triton's metrics port; change it where it is taken.")
    ready_timeout_s: PositiveFloat = Field(
        180.0, description="Seconds that a server may take to answer; raise it on a slow machine."
    )
    stop_timeout_s: PositiveFloat = Field(
        20.0, description="Seconds that a server may take to finish its requests; raise it for long requests."
    )

    @property
    def var(self) -> Path:
        """The run-time folder, absolute; a relative one stands in the checkout."""
        return (ROOT / self.var_dir).resolve()

    @property
    def bundle(self) -> Path:
        """The bundle's folder, absolute."""
        return ROOT / self.bundle_dir if self.bundle_dir else bundles_folder(self.var) / CURRENT

    @property
    def redis(self) -> RedisUrl:
        """The Redis that all roles use."""
        return self.redis_url or self.local_redis

    @property
    def local_redis(self) -> RedisUrl:
        """The Redis that is started here, with the password that the run-time folder keeps."""
        return RedisUrl(f"redis://:{kept_password(self.var)}@{LOOPBACK}:{self.redis_port}/0")

    @property
    def has_own_redis(self) -> bool:
        """Whether the Redis in use is the user's, not started here."""
        return self.redis_url is not None and self.redis_url != self.local_redis

    @property
    def gateway_url(self) -> str:
        """Where the gateway answers on this machine."""
        return f"http://{LOOPBACK if self.host == '0.0.0.0' else self.host}:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        """What a caller of the gateway sends beside its request: the key, where there is one."""
        return {"authorization": f"Bearer {self.api_key.get_secret_value()}"} if self.api_key else {}

    def environment(self) -> dict[str, str]:
        """The variables by which every role finds the others."""
        return {
            "SHORTLIST_VAR_DIR": str(self.var),
            "SHORTLIST_BUNDLE_DIR": str(self.bundle),
            "SHORTLIST_HOST": self.host,
            "SHORTLIST_PORT": str(self.port),
            "SHORTLIST_API_KEYS": self.api_keys,
            "SHORTLIST_ALLOW_ANONYMOUS": str(self.allow_anonymous).lower(),
            REDIS_URL: self.redis.get_secret_value(),
            "SHORTLIST_TRITON__ADDRESS": f"{LOOPBACK}:{self.triton_grpc_port}",
            "SHORTLIST_TRITON_HTTP": f"{LOOPBACK}:{self.triton_http_port}",
            "SHORTLIST_TRITON_HTTP_PORT": str(self.triton_http_port),
            "SHORTLIST_TRITON_GRPC_PORT": str(self.triton_grpc_port),
            "SHORTLIST_TRITON_METRICS_PORT": str(self.triton_metrics_port),
            "SHORTLIST_REDIS_PORT": str(self.redis_port),
        }


def load_settings() -> LocalSettings:
    """Reads the settings from the environment; a wrong value is one line, and ends the program with 2."""
    return read_settings(LocalSettings)


def kept_password(var: Path) -> str:
    """Reads the password of the local Redis; makes it where there is none, for its owner's eyes alone."""
    path = var / "redis_password"
    if not path.is_file():
        var.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(f".{os.getpid()}")
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(secrets.token_hex(24))
        with suppress(FileExistsError):  # another process was first
            os.link(fresh, path)
        fresh.unlink()
    return path.read_text()


def python_of(role: str) -> Path:
    """The interpreter of a role's environment."""
    return ROOT / ".venv" / role / "bin" / "python"
