"""Settings of the training commands, from `SHORTLIST_*`; each says its unit and which way to move it."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from contract.environment import read_settings
from contract.keys import MAX_SEEN
from training.ranking.config import DcnConfig, DeepConfig, DlrmConfig, MultiTaskConfig
from training.retrieval.config import BprConfig, FactorsConfig, TorchrecConfig, TwoTowerConfig
from training.settings_file import SettingsFile, SettingsFileError

Trainer = Literal["merlin", "torchrec"]
OrderBy = Literal["blend", "ranker"]


class SettingError(ValueError):
    """Says which setting's value does not fit, and what to choose."""


class QualityLevel(StrEnum):
    """How much time training may take."""

    TINY = "tiny"
    DEFAULT = "default"
    FULL = "full"


class SyntheticSettings(BaseModel):
    """The synthetic world's size, and what makes it hard."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    users: PositiveInt = Field(3_000, description="Users. More: slower, steadier metrics.")
    items: PositiveInt = Field(1_500, description="Items in the catalogue. More: retrieval is harder.")
    days: Annotated[int, Field(ge=10)] = Field(
        30, description="Days of interactions. More: tastes and fashions drift further."
    )
    interactions: PositiveInt = Field(150_000, description="Interactions. More: better models, slower.")
    seed: NonNegativeInt = Field(0, description="The world itself; another number is another world.")
    drift: NonNegativeFloat = Field(
        1.0,
        description="How fast tastes move and popularity fades. 0: not at all; higher: the past tells less.",
    )
    followers: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0,
        description="Share of users who follow fixed chains of items. Higher: the last item tells more of "
        "the next than taste does.",
    )


class TrainingSettings(BaseSettings):
    """Everything of the training commands that may be turned."""

    model_config = SettingsConfigDict(
        env_prefix="SHORTLIST_",
        env_nested_delimiter="__",
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,
    )

    data: str = Field(
        "default",
        description="The data set: kuairand, movielens, groceries, lastfm, synthetic, or a folder. "
        "Default: kuairand where its files are found, else synthetic.",
    )
    data_dir: Path = Field(
        Path("data"), description="Where the files of kuairand and movielens are looked for."
    )
    var_dir: Path = Field(Path("var"), description="Where prepared data, bundles and logs are kept.")
    max_seen: PositiveInt = Field(
        MAX_SEEN,
        description="Seen items kept per user, newest first. Lower: older ones may be answered again.",
    )
    quality: QualityLevel = Field(
        QualityLevel.DEFAULT,
        description="tiny: seconds, for tests. default: minutes. full: default, with every baseline, "
        "several seeds and bootstrap intervals.",
    )
    seed: NonNegativeInt = Field(0, description="Initial weights and the order of examples.")
    seeds: PositiveInt = Field(
        3, description="Trainings of QUALITY=full, from `seed` on. More: slower, surer."
    )
    threads: PositiveInt = Field(
        2, description="Threads of TensorFlow. Metrics are reproduced with the same number only."
    )
    retrieval: str = Field("two_tower", description="The retrieval model, by its name in training/models.py.")
    trainer: Trainer = Field(
        "merlin",
        description="What trains two_tower: merlin, in this process, or torchrec, in one or several of its "
        "own, with tables cut among them.",
    )
    workers: PositiveInt = Field(1, description="Processes that train together, of torchrec alone.")
    ranker: str = Field("dlrm", description="The ranking model, by its name in training/models.py.")
    task_weights: dict[str, float] = Field(
        {},
        description="Of each label's probability in the score of mmoe and ple, by label, as JSON; a negative "
        "one counts against an item. Default: the target's alone. How much that score counts in slates, "
        "`order_by` says.",
    )
    order_by: OrderBy = Field(
        "blend",
        description="What orders slates. blend: the scores of the ranker and of the sources, each weighed by "
        "what validation's users chose of the target, where the ranker may count nothing. ranker: its score "
        "alone, whatever validation says.",
    )
    k: PositiveInt = Field(100, description="K, candidates that the end-to-end evaluation ranks per user.")
    flat_up_to: NonNegativeInt = Field(
        20_000,
        description="Items up to which the index compares every vector, exact; above, it is a graph (HNSW). "
        "Higher: exact, and slower in proportion to the catalogue.",
    )
    tables_beside: tuple[Literal["user_id", "item_id"], ...] = Field(
        (),
        description='Ids whose tables of embeddings lie beside the exported models, as JSON: ["user_id"]. '
        "Serving reads their rows in levels of memory and disk, and takes changed ones over. Default: none, "
        "which is faster where the tables fit into each process.",
    )
    shard_rows: PositiveInt = Field(
        1024, description="Rows of a block, what shards are read by. Lower: less memory, slower."
    )
    shard_lanes: PositiveInt = Field(
        16,
        description="Blocks that are read side by side. The ranks that train must divide it. Raise it: more "
        "ranks fit.",
    )
    promotion_margin: Annotated[float, Field(ge=0, le=1)] = Field(
        0.03,
        description="Share of the current bundle's NDCG@10 that a promoted one may lose on the same test. "
        "Higher: worse ones pass; lower: chance refuses good ones, sooner with few test users.",
    )
    synthetic: SyntheticSettings = SyntheticSettings()
    two_tower: TwoTowerConfig = TwoTowerConfig()
    torchrec: TorchrecConfig = TorchrecConfig()
    mf_softmax: FactorsConfig = FactorsConfig()
    mf_bpr: BprConfig = BprConfig()
    dlrm: DlrmConfig = DlrmConfig()
    dcn: DcnConfig = DcnConfig()
    deep_fm: DeepConfig = DeepConfig()
    wide_deep: DeepConfig = DeepConfig()
    neumf: DeepConfig = DeepConfig()
    mmoe: MultiTaskConfig = MultiTaskConfig()
    ple: MultiTaskConfig = MultiTaskConfig()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What is given counts before the environment, that before the file of `SHORTLIST_SETTINGS`."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, SettingsFile(settings_cls)

    def at_quality(self) -> TrainingSettings:
        """Gives the settings with the sizes that QUALITY=tiny asks for; the others keep what is set."""
        if self.quality is not QualityLevel.TINY:
            return self
        towers = {"width": 16, "steps": 60, "evaluations": 2, "batch_size": 256}
        return self.model_copy(update={"two_tower": self.two_tower.model_copy(update=towers)})

    def without_fresh_steps(self) -> TrainingSettings:
        """Gives the settings without those steps of the towers that are for what comes next."""
        return self.model_copy(update={"two_tower": self.two_tower.model_copy(update={"fresh_share": 0.0})})


def load_settings() -> TrainingSettings:
    """Reads the environment, and the file that it names; a wrong value ends the process with one line and
    exit status 2."""
    try:
        return read_settings(TrainingSettings)
    except SettingsFileError as error:
        sys.stderr.write(f"settings: {error}\n")
        raise SystemExit(2) from None
