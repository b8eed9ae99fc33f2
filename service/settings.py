"""What an operator may set. One class, frozen, read from the environment and checked at start."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

from contract.bundles import CURRENT, bundles_folder
from contract.environment import LOCAL_REDIS, RedisUrl, retired
from contract.rules.order_rules import OrderRules, SettingRules
from service.api_keys import ApiKey, parse_keys

PREFIX = "SHORTLIST_"


class WrongSettings(ValueError):
    """Names each wrong setting in one line, with what it must be."""


def _host_and_port(value: str) -> str:
    if not re.fullmatch(r"[^\s:/]+:\d{1,5}", value) or not 0 < int(value.rpartition(":")[2]) < 65536:
        raise ValueError("must be host:port, such as 127.0.0.1:8001")
    return value


Address = Annotated[str, AfterValidator(_host_and_port)]


def _keys(value: Any) -> Any:
    return parse_keys(value) if isinstance(value, str) else value


ApiKeys = Annotated[tuple[ApiKey, ...], NoDecode, BeforeValidator(_keys)]
SECRETS = ("api_keys", "redis_url")
"""A wrong value of these is not repeated: it may hold a password, or a key where its hash should be."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the host; a name other than localhost counts as reachable."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class TritonSettings(BaseModel):
    """How the ensemble is reached."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: Address = Field("127.0.0.1:8001", description="Triton's gRPC port, as host:port.")
    max_in_flight: PositiveInt = Field(
        64,
        description="Most requests that may wait for the ensemble at once; how many may is found by trying, "
        "from answer times. One more gets a cheaper slate at once, no queue. Raise it when Triton still "
        "has cores to spare; lower it to keep memory small.",
    )
    most_calls: PositiveInt = Field(
        2,
        description="Calls under way to Triton at once; requests that come meanwhile share the next one. "
        "Raise it with more model instances; lower it for larger batches.",
    )
    most_rows: PositiveInt = Field(
        16,
        description="Requests that share a call, at most the model's own batch size. Raise it for more "
        "throughput; lower it when answers that share a call are late.",
    )


class EventSettings(BaseModel):
    """Which events are accepted, and when."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_age_s: PositiveInt = Field(
        86_400,
        description="Seconds back that an event may have happened, and for which one that is sent again is "
        "known. Raise it for callers that were away for longer; lower it to save memory, some 140 "
        "bytes of Redis for each event of that time.",
    )
    unknown_users: Literal["keep", "refuse"] = Field(
        "keep", description="What becomes of events of users of whom Redis holds nothing."
    )
    unknown_items: Literal["keep", "refuse"] = Field(
        "refuse", description="What becomes of events of items that Redis does not know."
    )
    most_waiting: PositiveInt = Field(
        2_000_000,
        description="Events that may wait in Redis for the consumer and the archive; more are told 429. "
        "Raise it to bridge a longer outage of the consumer, lower it to save memory: about 300 bytes each.",
    )
    most_changes: PositiveInt = Field(
        2_000,
        description="Changes of items and users that may wait in Redis for the consumer, of up to 500 items "
        "each; more are told 429. Raise it to bridge a longer outage of the consumer, lower it to save "
        "memory: as much as the bodies of the requests.",
    )
    synced: bool = Field(
        True,
        description="Whether accepted means that Redis' file is on the disk, not only handed to the system: "
        "an answer takes up to a second longer, and survives a power failure and any kill of Redis.",
    )
    timeout_ms: PositiveInt = Field(
        5000,
        description="Milliseconds that Redis may take to keep events. Raise it for a slow disk; lower it to "
        "tell callers sooner that it is away.",
    )
    max_body_bytes: PositiveInt = Field(
        1_048_576, description="Longest request body with events; 500 of them take about 150,000 bytes."
    )


class Settings(BaseSettings):
    """Settings of the gateway. Environment names begin with SHORTLIST_; nested ones use two underscores."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,
    )

    host: str = Field(
        "127.0.0.1", min_length=1, description="Address to listen on; 0.0.0.0 for every interface."
    )
    port: int = Field(
        8080, ge=0, le=65535, description="TCP port to listen on; 0 takes any free one and logs it."
    )
    var_dir: Path = Field(Path("var"), description="Where bundles and logs are kept.")
    bundle_dir: Path | None = Field(
        None,
        description="Folder of the bundle; its manifest.json and popular.json are read once, at start. "
        "Default: bundles/current under SHORTLIST_VAR_DIR.",
    )
    triton: TritonSettings = TritonSettings()
    redis_url: RedisUrl = Field(LOCAL_REDIS, description="URL of Redis, with user and password.")
    events: EventSettings = EventSettings()
    order: SettingRules = Field(
        OrderRules(),
        description="Rules of the order of every slate, as the ensemble has them: the gateway keeps them on "
        "stored and popular slates.",
    )
    store_timeout_ms: PositiveInt = Field(
        20,
        description="Milliseconds that one Redis call of the gateway may take, never past the request's own "
        "budget. Raise it when answers lack display fields on a busy machine; lower it to "
        "answer sooner without them.",
    )
    kept_cards: PositiveInt = Field(
        20_000,
        description="Items whose display fields are kept in memory, about half a kilobyte each; they never "
        "change within a bundle. Raise it for large catalogues; lower it to save memory.",
    )
    pointer_ms: PositiveInt = Field(
        1000,
        description="Milliseconds for which it is kept which batch run is read. Raise it for fewer reads; "
        "lower it to serve a newly published run, or the former one after a rollback, sooner.",
    )
    availability_ms: PositiveInt = Field(
        5000,
        description="Milliseconds for which it is kept whether an item is available, for stored slates; of "
        "as many items as cards are kept. Raise it for fewer reads; lower it to stop showing an item sooner.",
    )
    shown_buffer: NonNegativeInt = Field(
        10_000,
        description="Answers whose notes may wait for Redis, about a kilobyte each; more are not noted, and "
        "counted. Raise it to bridge longer outages; lower it to save memory, 0: nothing is noted.",
    )
    shown_ms: PositiveInt = Field(
        200,
        description="Milliseconds between two writes of notes to Redis. Raise it for fewer commands; lower "
        "it to lose less with a killed process.",
    )
    shown_kept: PositiveInt = Field(
        500_000,
        description="Notes that the stream may hold before they are archived, about 0.4 kilobyte each; then "
        "the oldest go. Raise it to bridge longer absences of the consumer; lower it to spare Redis' memory.",
    )
    arm_excess: Annotated[float, Field(gt=0, le=1)] = Field(
        0.1,
        description="Share of an arm's answers, beyond the champion's, that may fail or be degraded; one "
        "beyond it three times in a row, each of ten seconds and fifty answers at least, is taken out of the "
        "split. Lower it to end a bad split sooner; raise it where chance alone ends good ones.",
    )
    latency_budget_ms: PositiveInt = Field(
        80,
        description="Milliseconds for the whole request, as the caller sees it. Raise it for fewer stored "
        "and popular slates, lower it for faster ones; a request may ask for less.",
    )
    reserve_ms: PositiveInt = Field(
        10,
        description="Milliseconds of the budget kept for the gateway itself: display fields, or a stored or "
        "popular slate. Raise it and the fallback answers sooner; lower it and the ensemble has "
        "longer.",
    )
    check_timeout_ms: PositiveInt = Field(
        1000,
        description="Milliseconds that /readyz waits for each dependency. Raise it on slow networks; keep "
        "it below the timeout of whatever asks.",
    )
    max_requests: PositiveInt = Field(
        256,
        description="Requests under /v1 that may be in the process at once; one more is told 503 unread. "
        "Raise it on a machine whose cheap answers still come in time; lower it when they do not.",
    )
    warm_up_requests: NonNegativeInt = Field(
        50,
        description="Requests that the ensemble must have answered through this process before /readyz says "
        "yes. Raise it when the first callers still wait longer than others; lower it to be ready sooner.",
    )
    shutdown_grace_s: PositiveInt = Field(
        10,
        description="Seconds that requests in flight get to finish after SIGTERM. Raise it above the slowest "
        "caller's timeout; lower it to restart sooner.",
    )
    api_keys: ApiKeys = Field(
        (),
        description="Who may ask under /v1: NAME:HASH, separated by commas, as "
        "`python -m service.api_keys NAME` prints them. None: anyone, which is "
        "refused unless the host is loopback.",
    )
    allow_anonymous: bool = Field(
        False,
        description="Lets anyone ask who reaches the address: for a gateway behind a proxy that knows its "
        "callers.",
    )
    max_body_bytes: PositiveInt = Field(
        65536,
        description="Longest request body. The longest valid one (1,024 excluded ids) is below 32,000 bytes.",
    )
    max_connections: PositiveInt = Field(
        1000,
        description="Connections open at once; while there are more, requests are told 503. Raise it for "
        "more callers, and the limit of open files with it; lower it to spend less memory.",
    )
    receive_timeout_ms: PositiveInt = Field(
        2000,
        description="Milliseconds that a request's body may take to arrive. Raise it for slow networks; "
        "lower it to be rid of stalled callers sooner.",
    )
    idle_timeout_s: PositiveInt = Field(
        30,
        description="Seconds that a connection may stay open after an answer. Raise it above the idle "
        "timeout of a balancer in front; lower it to free connections sooner.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info",
        description="Least severe log line written. `info` writes one line a request; `warning` only "
        "trouble.",
    )

    @property
    def bundle(self) -> Path:
        """The bundle's folder."""
        return self.bundle_dir or bundles_folder(self.var_dir) / CURRENT

    @model_validator(mode="after")
    def _strangers_are_let_in_on_purpose(self) -> Self:
        if self.api_keys and self.allow_anonymous:
            raise ValueError(
                "SHORTLIST_ALLOW_ANONYMOUS: must be false where SHORTLIST_API_KEYS is set; choose one"
            )
        if not (self.api_keys or self.allow_anonymous or is_loopback(self.host)):
            raise ValueError(
                f"SHORTLIST_API_KEYS: must be set where SHORTLIST_HOST, {self.host}, is not loopback: "
                "`python -m service.api_keys NAME` makes a key; or set SHORTLIST_ALLOW_ANONYMOUS=true "
                "behind a proxy that knows its callers"
            )
        return self

    @model_validator(mode="after")
    def _reserve_fits_in_the_budget(self) -> Self:
        if self.reserve_ms >= self.latency_budget_ms:
            raise ValueError(
                f"SHORTLIST_RESERVE_MS: {self.reserve_ms} must be below SHORTLIST_LATENCY_BUDGET_MS, "
                f"{self.latency_budget_ms}: nothing would be left for the ensemble"
            )
        return self


def load_settings() -> Settings:
    """Reads the settings from the environment.

    Raises:
        WrongSettings: a value is wrong; one line names the variable, the value and the remedy.
    """
    if notice := retired(os.environ):
        raise WrongSettings(notice)
    try:
        return Settings()
    except SettingsError as error:
        field = re.search(r'field "(\w+)"', str(error))
        name = PREFIX + (field[1].upper() if field else "*")
        part = "CAPS='[...]', as JSON" if name.endswith("ORDER") else "ADDRESS"
        raise WrongSettings(f"{name}: not readable; set its parts, such as {name}__{part}") from None
    except ValidationError as error:
        lines = []
        for wrong in error.errors():
            name = PREFIX + "__".join(str(part) for part in wrong["loc"]).upper()
            message = wrong["msg"].removeprefix("Value error, ")
            if wrong["loc"] and wrong["loc"][0] not in SECRETS:
                message += f", not {wrong['input']!r}"
            lines.append(f"{name}: {message}" if wrong["loc"] else message)
        raise WrongSettings("; ".join(lines)) from None
