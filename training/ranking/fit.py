"""How a network that ranks is trained, whatever its architecture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from contract import names
from contract.arrays import Array, Floats
from contract.encoders import OOV_CODE, Field
from training.examples.ranking import RankingExamples
from training.metrics.ranking import log_loss
from training.ranking.columns import Batch, to_tensors
from training.ranking.config import RankerConfig
from training.ranking.neural import CANDIDATE, TARGET, Network, NeuralRanker

IDS = (names.USER_ID, names.ITEM_ID)
Ranker = TypeVar("Ranker", bound=NeuralRanker)
Config = TypeVar("Config", bound=RankerConfig)
Build = Callable[[Mapping[str, Field], Sequence[str], Sequence[str], Config], Network]
"""Takes fields, the features to read, the heads to have and the settings; gives an untrained network."""


def fit_ranker(
    kind: type[Ranker],
    build: Build[Config],
    examples: RankingExamples,
    seed: int,
    config: Config,
    *,
    every_label: bool = False,
) -> Ranker:
    """Trains the networks that `build` makes, gives a ranker of the `kind`.

    A row whose target is unknown, such as one of a history, trains heads of its own for the labels that it
    has: the embeddings learn from it, the target's calibration does not suffer. So do candidates, which train
    the head that is served. With `every_label` a row whose target is known trains the other labels' heads as
    well. The weights kept are those of the lowest log loss on validation.
    """
    train, candidates = examples.train, examples.candidates
    labels = examples.labels.reshape(len(examples.labels), -1)
    heads = [TARGET, *(f"auxiliary_{i}" for i in range(1, labels.shape[1]))]
    features = tuple(name for name in examples.fields if name in train)
    if candidates is not None:
        heads.append(CANDIDATE)
        train = {name: np.concatenate([train[name], candidates.columns[name]]) for name in features}
        labels = _with_candidates(labels, candidates.labels)
    weights = label_weights(labels, heads, examples.weights, config, every_label=every_label)
    offset = 0.0 if candidates is None else float(np.log(candidates.sampled))
    members, history = [], []
    for member in range(config.members):
        tf.keras.utils.set_random_seed(seed + member)
        tf.config.experimental.enable_op_determinism()  # threads would add gradients in any order
        # TensorFlow orders some sums by the names of what is summed: the same names, the same last bit.
        tf.keras.backend.reset_uids()
        network = build(examples.fields, features, heads, config)
        alone = kind(features, (network,), candidates is not None, offset, ())
        history += _train(alone, heads, train, labels, weights, examples, config, seed + member)
        members.append(network)
    return kind(features, tuple(members), candidates is not None, offset, tuple(history))


def _with_candidates(labels: Floats, clicked: Floats) -> Floats:
    """Appends a column for the candidates' head, and a row per candidate."""
    joined = np.full((len(labels) + len(clicked), labels.shape[1] + 1), np.nan, dtype=np.float32)
    joined[: len(labels), :-1] = labels
    joined[len(labels) :, -1] = clicked
    return joined


def label_weights(
    labels: Floats,
    heads: Sequence[str],
    of_labels: Sequence[float],
    config: RankerConfig,
    *,
    every_label: bool = False,
) -> Floats:
    """Weighs every label of every row, (rows, heads): the target where known, else what else is known, by the
    labels' own weights (T,) relative to the target's; with `every_label` whatever is known."""
    own = [weight / of_labels[0] for weight in of_labels] + [1.0] * (len(heads) - len(of_labels))
    each = [
        config.candidate_weight if head == CANDIDATE else config.auxiliary_weight * weight
        for head, weight in zip(heads, own, strict=True)
    ]
    is_known = ~np.isnan(labels)
    weights = is_known * np.array(each, dtype=np.float32)
    if not every_label:
        weights[is_known[:, 0]] = 0
    weights[is_known[:, 0], 0] = 1
    return weights.astype(np.float32)


def _train(
    ranker: NeuralRanker,
    heads: Sequence[str],
    train: Mapping[str, Array],
    labels: Floats,
    weights: Floats,
    examples: RankingExamples,
    config: RankerConfig,
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
        batch = to_tensors(ranker.features, train, rows)
        step(batch, tf.constant(known[rows]), tf.constant(weights[rows]))
        if done in looks and len(examples.validation_labels):
            loss = log_loss(examples.validation_labels, ranker.predict(examples.validation))
            if loss < min((row["log_loss"] for row in history), default=np.inf):
                best = model.get_weights()
            history.append({"seed": seed, "step": done, "log_loss": loss})
    if best is not None:
        model.set_weights(best)
    return history


def _train_step(
    model: tf.keras.Model,
    heads: Sequence[str],
    optimizer: tf.keras.optimizers.Optimizer,
    config: RankerConfig,
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
