"""Settings of the batch job, beside those of the chain; read from `SHORTLIST_BATCH_*`."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from pydantic import Field, NonNegativeInt, PositiveInt, field_validator

from contract.batch_files import BatchFiles
from contract.environment import read_settings
from contract.tensors import MAX_N


class RetrievalMode(StrEnum):
    """What finds the items nearest to a user."""

    EXACT = "exact"  # a matrix product with all of the bundle's vectors
    REDIS = "redis"  # the index that online requests ask


class BatchSettings(BatchFiles):
    """Every number of the batch job that may be turned, with its unit and which way to turn it."""

    n: Annotated[int, Field(ge=1, le=MAX_N)] = Field(
        50,
        description="Items stored per user. Higher: more is left where seen and unavailable items are "
        "removed at reading; 8 bytes each.",
    )
    ttl_s: PositiveInt = Field(
        7 * 24 * 3600,
        description="Seconds that a stored slate lives; at least twice the time between two full runs. "
        "Higher: users still have one when runs fail for days, though an old one.",
    )
    shard_users: Annotated[int, Field(ge=1, le=65_536)] = Field(
        2048,
        description="Users computed, stored and resumed together. Higher: less overhead, more memory per "
        "worker, more to repeat after a crash.",
    )
    step_users: Annotated[int, Field(ge=1, le=4096)] = Field(
        64,
        description="Users of a shard that go through the chain at a time. Higher: fewer calls, less of it "
        "in the processor's cache, more memory.",
    )
    workers: NonNegativeInt = Field(
        0,
        description="Processes that run the chain. 0: one per core of this machine, or of the cluster less "
        "one. Higher than the cores: slower.",
    )
    address: str = Field(
        "",
        description="Address of a Ray cluster, such as host:6379. Empty: Ray is started on this machine, for "
        "the run alone.",
    )
    object_store_mb: Annotated[int, Field(ge=80)] = Field(
        128,
        description="Megabytes of Ray's object store on this machine; only user ids and counts go "
        "through it.",
    )
    retrieval: RetrievalMode = Field(
        RetrievalMode.EXACT,
        description="exact: a matrix product over the bundle's vectors. redis: the index that requests ask, "
        "for catalogues too large to compare.",
    )
    redis_timeout_ms: PositiveInt = Field(
        10_000,
        description="Milliseconds a round trip of the job to Redis may take. Higher: a busy Redis does not "
        "fail a run.",
    )
    lock_s: Annotated[float, Field(ge=1)] = Field(
        30,
        description="Seconds after which the lock of a run that died is free. Lower: the next one begins "
        "sooner; higher: a longer stall of Redis or of the process does not cost the run its publication.",
    )
    cron: str = Field(
        "",
        description="When everyone is computed: minute, hour, day, month, weekday, as cron reads them, such "
        "as `0 3 * * *`. Empty: never by the clock.",
    )
    timezone: ZoneInfo = Field(
        ZoneInfo("UTC"), description="Time zone of SHORTLIST_BATCH_CRON, such as Europe/Berlin."
    )
    poll_s: Annotated[float, Field(ge=0.1)] = Field(
        10,
        description="Seconds between two looks for a new bundle and for changed users. Lower: noticed "
        "sooner; a look costs a few round trips to Redis.",
    )
    changed_users: PositiveInt = Field(
        1000,
        description="More users than this changed: only they are computed. Lower: fresher slates, more and "
        "smaller runs; higher than there are users: never.",
    )
    retry_s: Annotated[float, Field(ge=1)] = Field(
        60,
        description="Seconds until the schedule tries a run that failed again; twice as long each time, up "
        "to an hour. Lower: back sooner after a short outage, more attempts in a long one.",
    )

    retrain_cron: str = Field(
        "",
        description="When a training begins, as SHORTLIST_BATCH_CRON says it, such as `0 4 * * 1`. Empty: "
        "never by the clock.",
    )
    retrain_events: NonNegativeInt = Field(
        0,
        description="Events since the last training after which one begins; 0: never. Lower: models know "
        "more of the last days, and more trainings are paid for.",
    )
    retrain_on_drift: bool = Field(
        False, description="Whether a training begins once the watch has found drift."
    )
    retrain_pause_s: Annotated[float, Field(ge=0)] = Field(
        6 * 3600,
        description="Seconds after a training, whatever became of it, before drift or events begin another. "
        "Lower: sooner again where one was not enough; higher: fewer in vain.",
    )
    retrain_command: str = Field(
        "make retrain", min_length=1, description="What trains; it is told REASON=... as its last argument."
    )

    @field_validator("cron", "retrain_cron")
    @classmethod
    def _comes_true(cls, cron: str) -> str:
        try:
            if cron:
                next(CronSim(cron, datetime.now(UTC)))
        except (CronSimError, StopIteration) as error:
            wrong = str(error) or "it never comes true"
            raise ValueError(f"{wrong}; write minute, hour, day, month, weekday as in cron") from None
        return cron

    def slot_after(self, instant_s: float, cron: str | None = None) -> datetime | None:
        """Gives the first time of a schedule, else of that for everyone, after a Unix time; None where there
        is no schedule."""
        cron = self.cron if cron is None else cron
        if not cron:
            return None
        return next(CronSim(cron, datetime.fromtimestamp(instant_s, self.timezone)), None)


def load_batch_settings() -> BatchSettings:
    """Reads the environment; a wrong value ends the process with one line and exit status 2."""
    return read_settings(BatchSettings)
