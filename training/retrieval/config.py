"""Settings of the retrieval models; no TensorFlow, so that the settings load at once."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    field_validator,
)

Sharding = Literal["auto", "table_wise", "row_wise", "data_parallel"]
Loss = Literal["softmax", "bpr", "bce"]
Kind = Literal["in-batch", "uniform", "popularity", "mixed", "hard"]


class DrawingConfig(BaseModel):
    """How often which example is drawn."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    timed_weight: PositiveFloat = Field(
        20.0,
        description="How much oftener than a history's row a timed example is drawn. Raise it: more recent.",
    )
    half_life: PositiveFloat = Field(
        0.7,
        description="Age at which a timed example is drawn half as often, as a share of the time that "
        "train's timed rows span. Lower it: more recent.",
    )
    target_weight: PositiveFloat = Field(
        8.0,
        description="How much oftener an example whose target is 1 is drawn. Raise it: more like the target.",
    )


class TwoTowerConfig(DrawingConfig):
    """Chosen on validation; `docs/quality-log.md` records what each one was tried against."""

    width: PositiveInt = Field(
        128, description="D, without the prior coordinate. Raise it: finer, slower, larger index."
    )
    temperature: PositiveFloat = Field(
        0.1, description="Divides the cosines. Lower it: the closest items count more."
    )
    batch_size: PositiveInt = Field(1024, description="Examples per step, and so negatives per positive.")
    steps: PositiveInt = Field(400, description="Steps at most. Raise it: slower, and in time overfitted.")
    epochs: PositiveInt = Field(10, description="Passes over the examples at most: the limit on few data.")
    evaluations: PositiveInt = Field(4, description="How often validation is measured over all steps.")
    patience: PositiveInt = Field(2, description="Evaluations without a gain before training stops.")
    learning_rate: PositiveFloat = Field(0.001, description="Adam's, at its peak.")
    fresh_share: NonNegativeFloat = Field(
        1.0,
        le=1,
        description="Share of the examples of the last steps whose user is as of just before, the others as "
        "of the last snapshot. These steps are made where what follows the newest items says more on "
        "validation than what is similar to all, and kept where validation gains. 0: none.",
    )
    fresh_evaluations: PositiveInt = Field(2, description="How long these steps are, in evaluations.")
    user_dropout: NonNegativeFloat = Field(
        0.1, lt=1, description="Share of examples whose user_id is withheld. Raise it: less by heart."
    )
    unknown_user_share: NonNegativeFloat = Field(
        0.1,
        lt=1,
        description="Share of each batch that trains the unknown user. Raise it for better unknown users.",
    )
    new_item_cost: NonNegativeFloat = Field(
        0.02,
        lt=1,
        description="Share of validation's NDCG@100 that may be lost by showing new items. Raise it: more of "
        "them are shown.",
    )
    ridge: PositiveFloat = Field(
        500.0,
        description="L2 penalty, in users and at most a tenth of them, of the linear model that the item "
        "tables start from. Raise it: rare items start smaller.",
    )
    start_items: PositiveInt = Field(
        8000,
        description="Items, the most frequent, that start from the linear model; others start at random.",
    )


class TorchrecConfig(BaseModel):
    """How the second trainer lays its tables out, and how often it writes down where it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sharding: Sharding = Field(
        "auto",
        description="How tables lie on the workers. table_wise: each on one. row_wise: each cut by its rows. "
        "data_parallel: all on each. auto: as the planner reckons.",
    )
    memory_mib: PositiveInt | None = Field(
        None,
        description="Memory of each worker for tables and their optimizer, MiB; a plan that needs more is "
        "refused. Default: all that the machine has, shared among its workers.",
    )
    ray_address: str = Field(
        "",
        description="host:port of a Ray cluster that several workers train on, whose machines see var/ under "
        "the same path. Default: a Ray of the training's own, on this machine.",
    )
    shards: str = Field(
        "",
        description="Folder or address of shards (`make shards`) that the steps' examples are streamed from. "
        "Default: drawn from the training's own folder.",
    )
    checkpoint_steps: PositiveInt = Field(
        100, description="Steps from one checkpoint to the next. Lower: less is lost, more is written."
    )
    rows_learning_rate: PositiveFloat = Field(
        0.003,
        description="Adagrad's, of users' rows that go on learning beside the models. Raise it: new "
        "interactions move them further, and are sooner learned by heart.",
    )
    rows_epochs: PositiveInt = Field(
        1, description="Passes over the new examples, of rows. Raise it: as of their learning rate."
    )

    @field_validator("shards")
    @classmethod
    def _absolute(cls, address: str) -> str:
        return str(Path(address).absolute()) if address and "://" not in address else address


class FactorsConfig(DrawingConfig):
    """The matrix factorization's size, what it is compared with in training, and by which loss."""

    loss: Loss = Field(
        "softmax",
        description="softmax: the positive among the negatives, corrected for how often each is drawn. "
        "bpr: each pair by itself. bce: each item by itself.",
    )
    negatives: Kind = Field(
        "in-batch",
        description="in-batch: the other positives. uniform, popularity: drawn from the catalogue. mixed: "
        "in-batch and uniform. hard: those of uniform ones that score highest.",
    )
    drawn: PositiveInt = Field(1024, description="Items drawn from the catalogue per step.")
    hardest: PositiveInt = Field(16, description="Of them, how many count where negatives are hard.")
    width: PositiveInt = Field(64, description="D, without the coordinate of the items' own.")
    batch_size: PositiveInt = Field(1024, description="Examples per step.")
    steps: PositiveInt = Field(1000, description="Steps at most.")
    epochs: PositiveInt = Field(20, description="Passes over the examples at most.")
    evaluations: PositiveInt = Field(8, description="How often validation is measured over all steps.")
    patience: PositiveInt = Field(2, description="Evaluations without a gain before training stops.")
    learning_rate: PositiveFloat = Field(0.005, description="Adam's.")
    l2: NonNegativeFloat = Field(0.01, description="Penalty of a vector per use. More: less overfit.")
    user_dropout: NonNegativeFloat = Field(
        0.1, lt=1, description="Share of examples whose user_id is withheld, for unknown users."
    )
    item_dropout: NonNegativeFloat = Field(
        0.02, lt=1, description="Share of items whose item_id is withheld, for new items."
    )


class BprConfig(FactorsConfig):
    """The matrix factorization trained by pairs."""

    loss: Loss = Field("bpr", description="As that of `mf_softmax`.")
    negatives: Kind = Field("uniform", description="As those of `mf_softmax`.")
