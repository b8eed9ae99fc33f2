"""Settings of what happens live, beside those of the chain; read from `SHORTLIST_LIVE_*`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic_settings import BaseSettings, SettingsConfigDict

from contract.environment import read_settings


class LiveSettings(BaseSettings):
    """Every number of the consumer that may be turned, with its unit and which way to turn it."""

    model_config = SettingsConfigDict(
        env_prefix="SHORTLIST_LIVE_", frozen=True, extra="ignore", env_ignore_empty=True
    )

    most_entries: PositiveInt = Field(
        100,
        description="Entries that have their effect in one transaction, at most. Higher: sooner done with a "
        "backlog; each transaction keeps Redis from answering longer, as the square of the keys it watches.",
    )
    linger_ms: NonNegativeInt = Field(
        100,
        description="Milliseconds from one reading of the streams to the next, in which entries gather. "
        "Lower: effects come sooner; higher: fewer transactions, so less work for Redis.",
    )
    lease_s: Annotated[float, Field(ge=0.2)] = Field(
        5.0,
        description="Seconds after which another consumer takes the streams of one that died. Lower: sooner; "
        "higher: a longer stall of Redis or of the process makes nobody change.",
    )
    redis_timeout_ms: PositiveInt = Field(
        10_000,
        description="Milliseconds that a round trip to Redis may take. Higher: a busy Redis is waited for.",
    )
    archive_s: PositiveFloat = Field(
        60.0,
        description="Seconds until what was read is written to a file. Lower: `make data` knows more of the "
        "last minute, in more and smaller files; streams stay shorter.",
    )
    archive_entries: PositiveInt = Field(
        10_000,
        description="Entries of a file at most; so many that wait are written at once. Higher: fewer files, "
        "longer pauses between effects while one is written.",
    )
    watch_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        0, description="Port on which the watch tells Prometheus what it finds; 0: on none."
    )
    watch_host: str = Field(
        "127.0.0.1", min_length=1, description="Address of that port; 0.0.0.0 for every interface."
    )
    watch_answers: PositiveInt = Field(
        50,
        description="Answers a second, at most, whose features are looked at; of more, some by chance. "
        "Higher: drift is seen sooner under load; each costs Redis a dozen reads.",
    )
    drift_answers: PositiveInt = Field(
        2_000,
        description="Answers that are compared with the bundle's reference, the last ones. Lower: drift is "
        "seen sooner; higher: less of it is chance.",
    )
    drift_psi: PositiveFloat = Field(
        0.25,
        description="Population stability index above which a feature has drifted, where the divergence says "
        "so too. Lower: smaller shifts are told, and more of them are chance.",
    )
    drift_jensen_shannon: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.03,
        description="Jensen-Shannon divergence, bits, above which a feature has drifted, where the index "
        "says so too. Lower: smaller shifts are told, and more of them are chance.",
    )


def load_live_settings() -> LiveSettings:
    """Reads the environment; a wrong value ends the process with one line and exit status 2."""
    return read_settings(LiveSettings)
