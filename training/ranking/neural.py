"""What networks that rank share: members whose logits are averaged, heads, and how they are asked."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from contract.arrays import Array, Floats
from training.ranking.columns import Batch, to_tensors

Model = Callable[[Mapping[str, tf.Tensor]], tf.Tensor]
TARGET, CANDIDATE = "target", "candidate"
"""The heads that are asked: of exposures, and of retrieved candidates."""


@dataclass(frozen=True, eq=False)
class Network:
    """One network: `model` takes a dict of tensors by safe name, gives a dict of logits (B,1) by head."""

    model: tf.keras.Model


@dataclass(frozen=True, eq=False)
class NeuralRanker:
    """Trained networks, whose mean logits count; a `RankingModel` where a subclass says how it is exported.

    `model` gives the probability that an exposure is clicked. `candidate_model` gives the probability that a
    retrieved candidate will be: what is served, because nobody has chosen yet to show it. Both take a dict of
    tensors by safe name, (B,1) or for lists (B,S), and give (B,1).
    """

    name: ClassVar[str]
    features: tuple[str, ...]
    members: tuple[Network, ...]
    is_trained_on_candidates: bool
    candidate_offset: float
    """Added to a candidate's logit, because not all negatives were trained on."""
    history: tuple[dict[str, float], ...]
    """What every evaluation measured: `step`, `log_loss` on validation."""

    def model(self, inputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Gives the probability of the target, were the item shown, (B,1)."""
        return tf.sigmoid(self._logits(inputs)[TARGET])

    def candidate_model(self, inputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Gives the probability of the target for a retrieved item, (B,1)."""
        return self.served(self._logits(inputs))

    def served(self, logits: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Takes the mean logits by head, gives what `candidate_model` does."""
        if not self.is_trained_on_candidates:
            return tf.sigmoid(logits[TARGET])
        return tf.sigmoid(logits[CANDIDATE] + self.candidate_offset)

    def _logits(self, inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return mean_logits([member.model(dict(inputs), training=False) for member in self.members])

    def predict(self, arrays: Mapping[str, Array], rows: int = 8192) -> Floats:
        """Takes encoded exposures, (rows,) or for lists (rows, S), gives P of each, (rows,)."""
        return self._run(self.model, arrays, rows)

    def predict_candidates(self, arrays: Mapping[str, Array], rows: int = 8192) -> Floats:
        """Takes encoded candidates, (rows,) or for lists (rows, S), gives P of each, (rows,)."""
        return self._run(self.candidate_model, arrays, rows)

    def _run(self, model: Model, arrays: Mapping[str, Array], rows: int) -> Floats:
        compiled = self._traced(model, to_tensors(self.features, arrays, slice(0, 0)))
        total = len(arrays[self.features[0]])
        parts = [
            compiled(to_tensors(self.features, arrays, slice(at, at + rows))).numpy()[:, 0]
            for at in range(0, total, rows)
        ]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)

    def _traced(self, model: Model, inputs: Batch) -> Any:
        """Compiles a model for any number of such rows: traced for one number, it would round in another way
        than for the next."""
        spec = {name: tf.TensorSpec((None, *t.shape[1:]), t.dtype) for name, t in inputs.items()}
        key = (model.__name__, *spec.items())
        if key not in self._compiled:
            self._compiled[key] = tf.function(model, input_signature=[spec], autograph=False)
        return self._compiled[key]

    @cached_property
    def _compiled(self) -> dict[Hashable, Any]:
        return {}


def mean_logits(members: list[dict[str, tf.Tensor]]) -> dict[str, tf.Tensor]:
    """Averages what the members give, head by head."""
    return {head: tf.add_n([logits[head] for logits in members]) / len(members) for head in members[0]}
