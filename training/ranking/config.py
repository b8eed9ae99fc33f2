"""Settings of the rankers; no TensorFlow, so that the settings load at once."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveFloat, PositiveInt
from pydantic import Field as Setting


class RankerConfig(BaseModel):
    """How a network that ranks is trained, whatever its architecture."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    width: PositiveInt = Setting(16, description="Of every embedding. Wider: slower, overfits sooner.")
    dropout: NonNegativeFloat = Setting(0.2, description="Share of hidden units dropped in training.")
    id_dropout: NonNegativeFloat = Setting(
        0.1, description="Share of ids withheld in training, so that unknown ones are scored sensibly."
    )
    l2: NonNegativeFloat = Setting(0.01, description="Penalty of an embedding per use. More: less overfit.")
    learning_rate: PositiveFloat = Setting(0.005, description="Of Adam at the start; falls to 0 linearly.")
    batch_size: PositiveInt = Setting(2048, description="Rows per step.")
    epochs: PositiveInt = Setting(1, description="Passes over the rows; ids overfit from the second on.")
    evaluations: PositiveInt = Setting(4, description="Looks at validation, evenly spread; the best is kept.")
    auxiliary_weight: NonNegativeFloat = Setting(
        0.3, description="Of a row whose target is unknown, trained on its other labels; a target's is 1."
    )
    candidate_weight: NonNegativeFloat = Setting(
        0.5, description="Of a retrieved candidate. More: better slates, worse probabilities of exposures."
    )
    members: PositiveInt = Setting(2, description="Networks whose logits are averaged. More: better, slower.")


class DlrmConfig(RankerConfig):
    """The DLRM's size."""

    bottom: tuple[PositiveInt, ...] = Setting((64,), description="Hidden layers over the numerics.")
    top: tuple[PositiveInt, ...] = Setting((64, 32), description="Hidden layers over the dot products.")


class DcnConfig(RankerConfig):
    """The DCN's size."""

    depth: PositiveInt = Setting(2, description="Cross layers. More: products of more columns.")
    deep: tuple[PositiveInt, ...] = Setting((128, 64), description="Hidden layers beside the cross layers.")


class DeepConfig(RankerConfig):
    """The size of a network with a deep part beside a shallow one: DeepFM, Wide & Deep, NeuMF."""

    deep: tuple[PositiveInt, ...] = Setting((128, 64), description="Hidden layers of the deep part.")


class MultiTaskConfig(RankerConfig):
    """The size of MMoE and of PLE; every task, a label each, has gates and a tower of its own."""

    expert: tuple[PositiveInt, ...] = Setting((64,), description="Hidden layers of each expert.")
    experts: PositiveInt = Setting(4, description="Experts that all tasks share.")
    task_experts: PositiveInt = Setting(1, description="PLE: experts that each task has besides.")
    layers: PositiveInt = Setting(1, description="PLE: layers of experts, one upon the other.")
    tower: tuple[PositiveInt, ...] = Setting((32,), description="Hidden layers of each task.")
