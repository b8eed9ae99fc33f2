"""Rankers of several labels: MMoE and PLE, whose experts all labels share, each by gates of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import merlin.models.tf as mm
import tensorflow as tf
from merlin.models.tf.blocks.experts import MMOEBlock, PLEBlock

from contract.encoders import Field
from training.examples.ranking import RankingExamples
from training.ranking.by_column import NUMERIC, ColumnNetwork, ColumnRanker, Vectors, beside, column_network
from training.ranking.config import MultiTaskConfig
from training.ranking.fit import Build, fit_ranker
from training.ranking.neural import CANDIDATE, TARGET

Weights = Mapping[str, float]


@dataclass(frozen=True, eq=False)
class MultiTask(ColumnRanker):
    """A trained network of several tasks, a `RankingModel`. Its score of candidates is the weighted mean of
    the tasks' probabilities; the target's own where no weights are told."""

    weights: tuple[float, ...] = (1.0,)
    """Of each label, the target's first; a negative one counts against an item."""

    def served(self, logits: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Gives the score of candidates, (B,1), in [0,1]: the weighted sum of probabilities, moved and scaled
        by the sums of the weights, so that the order is the sum's; with one weight it is a probability.

        Candidates' own head exists for the target alone. How much likelier or unlikelier a candidate is than
        an exposure, in odds, is taken to be the same for every label: it is the chance to be looked at.
        """
        shift = tf.zeros_like(logits[TARGET])
        if self.is_trained_on_candidates:
            shift = logits[CANDIDATE] + self.candidate_offset - logits[TARGET]
        heads = [TARGET, *(f"auxiliary_{at}" for at in range(1, len(self.weights)))]
        total = tf.add_n(
            [
                weight * tf.sigmoid(logits[head] + shift)
                for head, weight in zip(heads, self.weights, strict=True)
                if weight
            ]
        )
        lowest = sum(weight for weight in self.weights if weight < 0)
        return (total - lowest) / sum(abs(weight) for weight in self.weights)


Kind = TypeVar("Kind", bound=MultiTask)


class Mmoe(MultiTask):
    """A trained MMoE."""

    name = "MMoE"


class Ple(MultiTask):
    """A trained PLE."""

    name = "PLE"


def fit_mmoe(
    examples: RankingExamples,
    seed: int = 0,
    config: MultiTaskConfig | None = None,
    weights: Weights | None = None,
) -> Mmoe:
    """Trains an MMoE on every label; `weights` by the labels' names make its score.

    Source: Ma et al. 2018, equations 3 to 6; Merlin's MMOEBlock.
    """
    return _fit(Mmoe, mmoe, examples, seed, config, weights)


def fit_ple(
    examples: RankingExamples,
    seed: int = 0,
    config: MultiTaskConfig | None = None,
    weights: Weights | None = None,
) -> Ple:
    """Trains a PLE on every label; `weights` by the labels' names make its score.

    Source: Tang et al. 2020, equations 1 to 8; Merlin's PLEBlock.
    """
    return _fit(Ple, ple, examples, seed, config, weights)


Experts = Callable[[Sequence[str], MultiTaskConfig], tf.keras.layers.Layer]
"""Takes tasks, gives a layer that takes (B,D) and gives a vector for each."""


def mmoe(tasks: Sequence[str], config: MultiTaskConfig) -> tf.keras.layers.Layer:
    """Makes experts that all tasks share."""
    return MMOEBlock(list(tasks), expert_block=mm.MLPBlock(list(config.expert)), num_experts=config.experts)


def ple(tasks: Sequence[str], config: MultiTaskConfig) -> tf.keras.layers.Layer:
    """Makes experts that all tasks share, and some for each alone."""
    return PLEBlock(
        config.layers,
        list(tasks),
        mm.MLPBlock(list(config.expert)),
        num_task_experts=config.task_experts,
        num_shared_experts=config.experts,
    )


def _fit(
    kind: type[Kind],
    experts: Experts,
    examples: RankingExamples,
    seed: int,
    config: MultiTaskConfig | None,
    weights: Weights | None,
) -> Kind:
    """Trains one; its score is the target's probability where no weight is told."""
    fitted = fit_ranker(kind, _build(experts), examples, seed, config or MultiTaskConfig(), every_label=True)
    label_weights = tuple(weights.get(name, 0.0) for name in examples.label_names) if weights else (1.0,)
    return replace(fitted, weights=label_weights)


def _build(experts: Experts) -> Build[MultiTaskConfig]:
    def build(
        fields: Mapping[str, Field], features: Sequence[str], heads: Sequence[str], config: MultiTaskConfig
    ) -> ColumnNetwork:
        widths = {"deep": config.width}
        return column_network(fields, features, widths, Tasks(experts, heads, config), config)

    return build


class Tasks(tf.keras.layers.Layer):
    """Takes the vectors of all columns through the experts, then each head through a tower of its own."""

    def __init__(self, experts: Experts, heads: Sequence[str], config: MultiTaskConfig) -> None:
        super().__init__()
        # Merlin finds a task's experts by how their names begin, so none may begin like another.
        self.tasks = {head: f"task_{at:03d}" for at, head in enumerate(heads)}
        self.experts = experts([*self.tasks.values()], config)
        self.towers = {head: mm.MLPBlock(list(config.tower), dropout=config.dropout) for head in heads}
        self.logits = {head: tf.keras.layers.Dense(1) for head in heads}

    def call(self, vectors: Vectors, training: bool = False) -> dict[str, tf.Tensor]:
        """Gives logits (B,1) by head."""
        found = self.experts(beside(vectors["deep"], vectors[NUMERIC]))
        return {
            head: self.logits[head](self.towers[head](found[task], training=training))
            for head, task in self.tasks.items()
        }
