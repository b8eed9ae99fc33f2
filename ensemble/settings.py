"""Settings of the model process and of the commands that prepare it; read from `SHORTLIST_*`."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from contract.bundles import CURRENT, bundles_folder
from contract.environment import LOCAL_REDIS, RedisUrl, read_settings
from contract.keys import MAX_SEEN
from contract.rules.order_rules import OrderRules, SettingRules


class Provider(StrEnum):
    """What runs the models: an execution provider of ONNX Runtime."""

    CPU = "cpu"
    CUDA = "cuda"
    TENSORRT = "tensorrt"


class EmbeddingSettings(BaseModel):
    """Where the rows of the tables lie that a bundle has beside its models; without such, nothing is read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cache_mb: PositiveFloat = Field(
        64,
        description="MiB of rows that a process holds of each table. Higher: more hits, and as much more "
        "memory in each instance.",
    )
    redis_rows: NonNegativeInt = Field(
        0,
        description="Rows of each table that Redis holds at most, for all processes. 0: none, which is best "
        "where the disk is local and fast. Higher: fewer reads of a slow disk, some 100 bytes and the row.",
    )
    hit_rate: Annotated[float, Field(ge=0, le=1)] = Field(
        0.9,
        description="Share of rows that the process has, from which on a row that it has not is put there "
        "behind the answer; below, before it. Lower: a cold cache fills later, answers come earlier.",
    )
    folder: Path | None = Field(
        None, description="The folder on a local disk that holds every row. Default: embeddings in var_dir."
    )


class IndexEngine(StrEnum):
    """What searches the items' vectors."""

    REDIS = "redis"
    USEARCH = "usearch"


class EnsembleSettings(BaseSettings):
    """Every number of the chain that may be turned, with its unit and which way to turn it."""

    model_config = SettingsConfigDict(
        env_prefix="SHORTLIST_",
        env_nested_delimiter="__",
        frozen=True,
        extra="ignore",
        env_ignore_empty=True,
        hide_input_in_errors=True,
    )

    var_dir: Path = Field(Path("var"), description="Where bundles, models and logs are kept.")
    bundle_dir: Path | None = Field(
        None, description="The bundle to index and export. Default: bundles/current."
    )
    redis_url: RedisUrl = Field(
        LOCAL_REDIS,
        description="URL of the Redis that holds features, vectors and seen items, with user and password.",
    )
    redis_timeout_ms: PositiveInt = Field(
        200,
        description="Milliseconds that Redis is waited for, for a connection and for each piece of a reply. "
        "Lower: a stalled Redis fails sooner.",
    )
    index_nodes: str = Field(
        "",
        description="Redis nodes over which the export spreads the index, host:port by comma, entered as "
        "SHORTLIST_REDIS_URL is. Default: that one alone. More: each holds and searches its share of the "
        "items; `make nodes` moves what is indexed.",
    )
    index_engine: IndexEngine = Field(
        IndexEngine.REDIS,
        description="What searches the items' vectors: redis, on one node or several, or usearch, in each "
        "model process, by a graph in a file that the processes of a machine map. The latter keeps no vector "
        "in Redis and opens at once; it is faster over tens of thousands of items, slower over a million. "
        "`make export` builds the file.",
    )
    index_timeout_ms: PositiveInt = Field(
        50,
        description="Milliseconds that a node of a spread index is waited for; then the others answer "
        "without it. Lower: a stalled node costs less; higher: a busy one is waited for.",
    )
    k: PositiveInt = Field(
        100, description="K, candidates per request. Higher: better recall, slower scoring, about linearly."
    )
    max_overfetch: NonNegativeInt = Field(
        400,
        description="Most items retrieved beyond K at once, to make up for seen and excluded ones. Higher: "
        "fewer second rounds for users who have seen much, slower retrieval for them.",
    )
    max_seen: PositiveInt = Field(
        MAX_SEEN,
        description="S, most seen items read per user, newest first. Lower: older ones may be answered "
        "again.",
    )
    provider: Provider = Field(Provider.CPU, description="What runs the models: cpu, cuda or tensorrt.")
    ort_threads: PositiveInt = Field(
        1,
        description="Threads of one model run. Higher: faster large batches, but cores taken from "
        "neighbours.",
    )
    refresh_s: PositiveFloat = Field(
        60,
        description="Seconds between two readings of the item features. Lower: fresher, more load on Redis.",
    )
    exploration_temperature: NonNegativeFloat = Field(
        0.0, description="Gumbel top-k temperature. 0: off, the best first. Higher: more random slates."
    )
    order: SettingRules = Field(
        OrderRules(),
        description="Rules of the order of every slate: SHORTLIST_ORDER__BOOSTS, __PINS, __CAPS, __SHARES, "
        "each a JSON list, and SHORTLIST_ORDER__DIVERSITY, 0 to 1. Higher diversity: items less like each "
        "other, further from the order of the scores.",
    )
    instances: PositiveInt = Field(
        1,
        description="Processes that run the chain beside each other. Higher: one waits for Redis while "
        "another works, for as much memory again, and smaller batches.",
    )
    max_batch_size: Annotated[int, Field(ge=1, le=1024)] = Field(
        32,
        description="Most requests that run together. Higher: more throughput under load, longer single "
        "runs.",
    )
    queue_delay_us: NonNegativeInt = Field(
        0,
        description="Microseconds a request may wait for others to join it. Higher: fuller batches, later "
        "answers.",
    )
    recall_target: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.98,
        description="Share of the K nearest items that an approximate index must find. Higher: a wider "
        "search, slower; the export finds out how wide.",
    )
    head_items: NonNegativeInt = Field(
        20_000,
        description="Most popular items that are compared exactly in the process; Redis' index is asked "
        "beside it for the others, and for users with filters. 0: none. Higher: better recall of what is "
        "popular, about 10 microseconds a user for each thousand.",
    )
    queue_size: NonNegativeInt = Field(
        0,
        description="Requests that may wait in Triton's queue; one more is refused at once. 0, the default: "
        "deadlines and the gateway bound it; with another value, Triton 2.51 lets a request wait now and "
        "then for half a second beside an idle model.",
    )
    queue_timeout_ms: NonNegativeInt = Field(
        0,
        description="Milliseconds a request may wait in Triton's queue where it does not say less itself. 0, "
        "the default: its deadline and its gRPC timeout decide; another value has the cost of queue_size.",
    )
    keep_bundles: PositiveInt = Field(
        2,
        description="Bundles per data set whose vectors stay in Redis, those that are served counted in and "
        "never dropped. Higher: older roll-backs, more memory.",
    )
    loaded_bundles: PositiveInt = Field(
        4,
        description="Bundles that Triton may hold loaded at once: champion, arms, shadow, and the former "
        "champion, which goes first. Higher: more side by side, some 300 MiB for each.",
    )
    load_timeout_s: PositiveFloat = Field(
        120,
        description="Seconds that a bundle may take to load and to be warm. Lower: one that hangs is refused "
        "sooner.",
    )
    unload_after_s: PositiveFloat = Field(
        60,
        description="Seconds for which a bundle that is not served any more stays loaded. Lower: memory is "
        "free sooner; a bundle must load, and the gateways leave another, within it.",
    )
    embeddings: EmbeddingSettings = Field(
        EmbeddingSettings(),
        description="Where rows of tables lie that a bundle has beside its models: "
        "SHORTLIST_EMBEDDINGS__CACHE_MB, __REDIS_ROWS, __HIT_RATE, __FOLDER.",
    )
    triton_http: str = Field(
        "127.0.0.1:8000",
        pattern=r"^[^\s:/]+:\d{1,5}$",
        description="Triton's HTTP port, as host:port, where a promotion loads bundles.",
    )

    @model_validator(mode="after")
    def _overfetch_is_worth_reading(self) -> EnsembleSettings:
        if self.max_seen < self.max_overfetch:
            raise ValueError(
                "max_seen must be at least max_overfetch: what is not read cannot be made up for"
            )
        return self

    @model_validator(mode="after")
    def _each_node_is_an_address_and_stands_once(self) -> EnsembleSettings:
        nodes = self.index_nodes.split(",") if self.index_nodes else []
        if odd := [node for node in nodes if not re.fullmatch(r"[^\s:/@]+:\d{1,5}", node)]:
            raise ValueError(
                f"SHORTLIST_INDEX_NODES names {odd[0]!r}, which is no host:port; write each node so, with "
                "commas between them"
            )
        twice = sorted({node for node in nodes if nodes.count(node) > 1})
        if twice:
            raise ValueError(f"SHORTLIST_INDEX_NODES names {', '.join(twice)} twice: name each node once")
        return self

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes over which an index is to be spread; none where the model process searches itself."""
        if self.index_engine is not IndexEngine.REDIS:
            return ()
        return tuple(self.index_nodes.split(",")) if self.index_nodes else (self.redis_url.address,)

    @property
    def bundle(self) -> Path:
        """The bundle's folder."""
        return self.bundle_dir or bundles_folder(self.var_dir) / CURRENT

    def embeddings_of(self, bundle: str) -> Path:
        """The folder of the rows of a bundle's tables."""
        return (self.embeddings.folder or self.var_dir / "embeddings") / bundle

    @property
    def retrieved(self) -> int:
        """R, the width of `retrieved_ids`."""
        return self.k + self.max_overfetch


def load_settings() -> EnsembleSettings:
    """Reads the environment; a wrong value ends the process with one line and exit status 2."""
    return read_settings(EnsembleSettings)
