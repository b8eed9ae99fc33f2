"""The ranker: Merlin's DLRM on everything known of user, item, context and of the two together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import tensorflow as tf

from contract import names
from contract.arrays import Array, Floats
from contract.bundle import RankerSpec
from contract.encoders import OOV_CODE
from training.examples.ranking import RankingExamples
from training.examples.safe_names import safe_name
from training.metrics.ranking import log_loss
from training.ranking.config import DlrmConfig
from training.ranking.graph import ranker_graph
from training.ranking.network import Network, build_network
from training.ranking.weights import DlrmWeights

Batch = dict[str, tf.Tensor]
IDS = (names.USER_ID, names.ITEM_ID)
TARGET, CANDIDATE = "target", "candidate"
"""The heads that are asked: of exposures, and of retrieved candidates."""


@dataclass(frozen=True, eq=False)
class Dlrm:
    """A trained DLRM, a `RankingModel`: two answers of one network, each the mean logit of its members.

    `model` gives the probability that an exposure is clicked. `candidate_model` gives the probability that a
    retrieved candidate will be: what is served, because nobody has chosen yet to show it. Both take a dict of
    tensors by safe name, (B,1) or for lists (B,S), and give (B,1).
    """

    name = "DLRM"
    features: tuple[str, ...]
    members: tuple[Network, ...]
    is_trained_on_candidates: bool
    candidate_offset: float
    """Added to a candidate's logit, because not all negatives were trained on."""
    history: tuple[dict[str, float], ...]
    """What every evaluation measured: `step`, `log_loss` on validation."""

    def model(self, inputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Gives the probability of the target, were the item shown, (B,1)."""
        return tf.sigmoid(self._logit(inputs, TARGET))

    def candidate_model(self, inputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Gives the probability of the target for a retrieved item, (B,1)."""
        if not self.is_trained_on_candidates:
            return self.model(inputs)
        return tf.sigmoid(self._logit(inputs, CANDIDATE) + self.candidate_offset)

    def _logit(self, inputs: Mapping[str, tf.Tensor], head: str) -> tf.Tensor:
        logits = [member.model(dict(inputs), training=False)[head] for member in self.members]
        return tf.add_n(logits) / len(logits)

    def candidate_weights(self) -> tuple[tuple[DlrmWeights, ...], float]:
        """Gives the members' weights, and what is added to their mean logit, behind `candidate_model`."""
        if not self.is_trained_on_candidates:
            return tuple(member.weights(TARGET) for member in self.members), 0.0
        return tuple(member.weights(CANDIDATE) for member in self.members), self.candidate_offset

    def to_onnx(self, spec: RankerSpec) -> onnx.ModelProto:
        """Builds the graph behind `candidate_model`, the user's half apart from the candidates'."""
        return ranker_graph(spec, *self.candidate_weights())

    @cached_property
    def _compiled(self) -> Any:
        return tf.function(self.model, reduce_retracing=True, autograph=False)

    @cached_property
    def _compiled_candidates(self) -> Any:
        return tf.function(self.candidate_model, reduce_retracing=True, autograph=False)

    def predict(self, arrays: Mapping[str, Array], rows: int = 8192) -> Floats:
        """Takes encoded exposures, (rows,) or for lists (rows, S), gives P of each, (rows,)."""
        return self._run(self._compiled, arrays, rows)

    def predict_candidates(self, arrays: Mapping[str, Array], rows: int = 8192) -> Floats:
        """Takes encoded candidates, (rows,) or for lists (rows, S), gives P of each, (rows,)."""
        return self._run(self._compiled_candidates, arrays, rows)

    def _run(self, model: Any, arrays: Mapping[str, Array], rows: int) -> Floats:
        total = len(arrays[self.features[0]])
        parts = [
            model(_tensors(self.features, arrays, slice(at, at + rows))).numpy()[:, 0]
            for at in range(0, total, rows)
        ]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)


def fit_dlrm(examples: RankingExamples, seed: int = 0, config: DlrmConfig | None = None) -> Dlrm:
    """Trains the ranker.

    A row whose target is unknown, such as one of a history, trains heads of its own for the labels that it
    has: the embeddings learn from it, the target's calibration does not suffer. So do candidates, which train
    the head that is served. The weights kept are those of the lowest log loss on validation.

    Source: Naumov et al. 2019, section 2; Merlin's DLRMBlock.
    """
    config = config or DlrmConfig()
    train, candidates = examples.train, examples.candidates
    labels = examples.labels.reshape(len(examples.labels), -1)
    heads = [TARGET, *(f"auxiliary_{i}" for i in range(1, labels.shape[1]))]
    features = tuple(name for name in examples.fields if name in train)
    if candidates is not None:
        heads.append(CANDIDATE)
        train = {name: np.concatenate([train[name], candidates.columns[name]]) for name in features}
        labels = _with_candidates(labels, candidates.labels)
    weights = _weights(labels, heads, examples.weights, config)
    offset = 0.0 if candidates is None else float(np.log(candidates.sampled))
    members, history = [], []
    for member in range(config.members):
        tf.keras.utils.set_random_seed(seed + member)
        network = build_network(examples.fields, features, heads, config)
        alone = Dlrm(features, (network,), candidates is not None, offset, ())
        history += _train(alone, heads, train, labels, weights, examples, config, seed + member)
        members.append(network)
    return Dlrm(features, tuple(members), candidates is not None, offset, tuple(history))


def _with_candidates(labels: Floats, clicked: Floats) -> Floats:
    """Appends a column for the candidates' head, and a row per candidate."""
    joined = np.full((len(labels) + len(clicked), labels.shape[1] + 1), np.nan, dtype=np.float32)
    joined[: len(labels), :-1] = labels
    joined[len(labels) :, -1] = clicked
    return joined


def _tensors(features: Sequence[str], arrays: Mapping[str, Array], rows: Array | slice) -> Batch:
    chosen = {name: arrays[name][rows] for name in features}
    return {safe_name(name): tf.constant(a[:, None] if a.ndim == 1 else a) for name, a in chosen.items()}


def _train(
    ranker: Dlrm,
    heads: Sequence[str],
    train: Mapping[str, Array],
    labels: Floats,
    weights: Floats,
    examples: RankingExamples,
    config: DlrmConfig,
    seed: int,
) -> list[dict[str, float]]:
    """Trains the only member of `ranker`, keeps its best weights, and says what every evaluation measured."""
    rng = np.random.default_rng(seed)
    model = ranker.members[0].model
    batch_size = min(config.batch_size, max(16, len(labels) // 16))
    steps = max(1, config.epochs * len(labels) // batch_size)
    schedule = tf.keras.optimizers.schedules.PolynomialDecay(config.learning_rate, steps, 1e-5)
    step = _train_step(model, heads, tf.keras.optimizers.Adam(schedule), config)
    known = np.nan_to_num(labels)
    history: list[dict[str, float]] = []
    best: list[Array] | None = None
    looks = {round(steps * (i + 1) / config.evaluations) for i in range(config.evaluations)}
    order = np.concatenate([rng.permutation(len(labels)) for _ in range(config.epochs)])
    for done in range(1, steps + 1):
        rows = order[(done - 1) * batch_size : done * batch_size]
        batch = _tensors(ranker.features, train, rows)
        step(batch, tf.constant(known[rows]), tf.constant(weights[rows]))
        if done in looks and len(examples.validation_labels):
            loss = log_loss(examples.validation_labels, ranker.predict(examples.validation))
            if loss < min((row["log_loss"] for row in history), default=np.inf):
                best = model.get_weights()
            history.append({"seed": seed, "step": done, "log_loss": loss})
    if best is not None:
        model.set_weights(best)
    return history


def _weights(labels: Floats, heads: Sequence[str], told: Sequence[float], config: DlrmConfig) -> Floats:
    """Weighs every label of every row, (rows, heads): the target where known, else what else is known, by the
    labels' own weights (T,) relative to the target's."""
    own = [weight / told[0] for weight in told] + [1.0] * (len(heads) - len(told))
    each = [
        config.candidate_weight if head == CANDIDATE else config.auxiliary_weight * weight
        for head, weight in zip(heads, own, strict=True)
    ]
    is_known = ~np.isnan(labels)
    weights = is_known * np.array(each, dtype=np.float32)
    weights[is_known[:, 0]] = 0
    weights[is_known[:, 0], 0] = 1
    return weights.astype(np.float32)


def _train_step(
    model: tf.keras.Model, heads: Sequence[str], optimizer: tf.keras.optimizers.Optimizer, config: DlrmConfig
) -> Any:
    def step(inputs: Batch, labels: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        withheld = {name: _withhold(inputs[name], config.id_dropout) for name in IDS if name in inputs}
        with tf.GradientTape() as tape:
            outputs = model({**inputs, **withheld}, training=True)
            logits = tf.concat([outputs[head] for head in heads], axis=1)
            losses = tf.nn.sigmoid_cross_entropy_with_logits(labels, logits) * weights
            loss = tf.reduce_mean(tf.reduce_sum(losses, axis=1)) + tf.add_n(model.losses)
        variables = model.trainable_variables
        # Dense gradients: with sparse ones Adam would skip the decay of moments of rows not in the batch.
        gradients = [tf.convert_to_tensor(g) for g in tape.gradient(loss, variables)]
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return loss

    return tf.function(step, reduce_retracing=True, autograph=False)


def _withhold(codes: tf.Tensor, share: float) -> tf.Tensor:
    drawn = tf.random.uniform(tf.shape(codes)) < share
    return tf.where(drawn, tf.cast(OOV_CODE, codes.dtype), codes)
