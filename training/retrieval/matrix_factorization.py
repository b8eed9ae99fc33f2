"""Matrix factorization: a vector per user and per item, by their ids alone.

It knows a user by what was trained on, and nothing of what came after: whoever is unknown has the vector of
the unknown user.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import tensorflow as tf
from merlin.models.tf.losses.pairwise import BPRLoss

from contract import names
from contract.arrays import Array, Floats, Ints
from contract.bundle import ModelSpec
from contract.encoders import OOV_CODE, Field
from training.examples.positives import RetrievalExamples
from training.retrieval.config import FactorsConfig
from training.retrieval.convert import to_onnx
from training.retrieval.model import Validate
from training.retrieval.negatives import Negatives
from training.retrieval.sampling import drawing_chances

NEVER = -1e9
"""The score of what is no negative."""


@dataclass(frozen=True, eq=False)
class MatrixFactorization:
    """Trained tables, a `RetrievalModel`. `users` (codes, D + 1) end in 1, `items` (codes, D + 1) in what an
    item has for everybody."""

    name: str
    users: Floats
    items: Floats
    history: tuple[dict[str, float], ...] = ()
    """What every evaluation measured: `step`, `loss`, `validation`."""

    user_features = (names.USER_ID,)
    item_features = (names.ITEM_ID,)

    def encode_users(self, arrays: Mapping[str, Array]) -> Floats:
        """Takes `user_id` (U,), gives vectors (U, D + 1)."""
        return self.users[arrays[names.USER_ID]]

    def encode_items(self, arrays: Mapping[str, Array]) -> Floats:
        """Takes `item_id` (I,), gives vectors (I, D + 1)."""
        return self.items[arrays[names.ITEM_ID]]

    def users_to_onnx(self, spec: ModelSpec) -> onnx.ModelProto:
        """Builds a graph that looks up users."""
        return _lookup(self.users, names.USER_ID, spec)

    def items_to_onnx(self, spec: ModelSpec) -> onnx.ModelProto:
        """Builds a graph that looks up items."""
        return _lookup(self.items, names.ITEM_ID, spec)

    @property
    def score_range(self) -> tuple[float, float]:
        """Bounds of the inner product, by the lengths of the longest vectors (Cauchy and Schwarz)."""
        longest = [float(np.linalg.norm(table[:, :-1], axis=1).max()) for table in (self.users, self.items)]
        own, bound = self.items[:, -1], longest[0] * longest[1]
        return float(own.min()) - bound, float(own.max()) + bound


def _lookup(table: Floats, name: str, spec: ModelSpec) -> onnx.ModelProto:
    return to_onnx(lambda inputs: tf.gather(tf.constant(table), inputs[name][:, 0]), spec)


def fit_matrix_factorization(
    fields: Mapping[str, Field],
    examples: RetrievalExamples,
    catalogue: Mapping[str, Array],
    config: FactorsConfig,
    seed: int,
    validate: Validate | None = None,
) -> MatrixFactorization:
    """Trains the tables on positives, each compared with items that its user is not known to have chosen.

    `catalogue` holds the items' codes `item_id` (I,). With `validate` the tables are those of the best
    evaluation; training stops after `patience` evaluations without a gain.

    Source: Koren et al. 2009, equation 4, for the model; Rendle et al. 2009 for pairs; Yi et al. 2019,
    equation 4, for the softmax and its correction.
    """
    tf.keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    rng = np.random.default_rng(seed)
    batch_size = max(2, min(config.batch_size, len(examples) // 8))
    steps = max(1, min(config.steps, config.epochs * len(examples) // batch_size))
    chances = drawing_chances(examples, config)
    shares = np.bincount(examples.items, chances, examples.item_count).astype(np.float64)
    negatives = Negatives.of(shares, config)
    ends, chosen = np.cumsum(chances), examples.matrix()
    users, items = examples.histories.profile[names.USER_ID], catalogue[names.ITEM_ID]
    tables = _Tables(fields[names.USER_ID].cardinality, fields[names.ITEM_ID].cardinality, config, seed)
    step = tables.train_step(config)
    looks = {round(steps * (i + 1) / config.evaluations) for i in range(config.evaluations)}
    history: list[dict[str, float]] = []
    best: MatrixFactorization | None = None
    for done in range(1, steps + 1):
        rows = np.minimum(np.searchsorted(ends, rng.random(batch_size) * ends[-1]), len(examples) - 1)
        positives = examples.items[rows]
        drawn = negatives.draw(positives, rng)
        is_negative = chosen[examples.users[rows]][:, drawn].toarray() == 0
        loss = step(
            _withheld(users[examples.users[rows]], config.user_dropout, rng),
            _withheld(items[positives], config.item_dropout, rng),
            _withheld(items[drawn], config.item_dropout, rng),
            tf.constant(is_negative),
            tf.constant(negatives.log_counts(positives, batch_size)),
            tf.constant(negatives.log_counts(drawn, batch_size)),
        )
        if done not in looks:
            continue
        trained, row = tables.model(config, ()), {"step": float(done), "loss": float(loss)}
        if validate is None:
            best = trained
        else:
            row["validation"] = validate(trained)
            earlier = [past["validation"] for past in history]
            if row["validation"] > max(earlier, default=-np.inf):
                best = trained
            elif len(earlier) - int(np.argmax(earlier)) >= config.patience:
                history.append(row)
                break
        history.append(row)
    assert best is not None
    return MatrixFactorization(best.name, best.users, best.items, tuple(history))


def _withheld(codes: Ints, share: float, rng: np.random.Generator) -> tf.Tensor:
    return tf.constant(np.where(rng.random(len(codes)) < share, OOV_CODE, codes))


class _Tables(tf.Module):
    """The variables in training."""

    def __init__(self, users: int, items: int, config: FactorsConfig, seed: int) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        users_at, items_at = (
            rng.normal(0, 0.1 / np.sqrt(config.width), (rows, config.width)) for rows in (users, items)
        )
        self.users = tf.Variable(users_at, dtype=tf.float32)
        self.items = tf.Variable(items_at, dtype=tf.float32)
        self.own = tf.Variable(tf.zeros(items))

    def model(self, config: FactorsConfig, history: tuple[dict[str, float], ...]) -> MatrixFactorization:
        """Copies them."""
        users, items, own = self.users.numpy(), self.items.numpy(), self.own.numpy()
        ones = np.ones((len(users), 1), dtype=np.float32)
        title = {"softmax": "MF, softmax", "bpr": "MF, BPR", "bce": "MF, BCE"}[config.loss]
        return MatrixFactorization(title, np.hstack([users, ones]), np.hstack([items, own[:, None]]), history)

    def train_step(self, config: FactorsConfig) -> Any:
        """Compiles one step of Adam; it gives the loss."""
        optimizer = tf.keras.optimizers.Adam(config.learning_rate)
        variables = [self.users, self.items, self.own]

        def step(
            users: tf.Tensor,
            positives: tf.Tensor,
            drawn: tf.Tensor,
            is_negative: tf.Tensor,
            log_positive: tf.Tensor,
            log_drawn: tf.Tensor,
        ) -> tf.Tensor:
            with tf.GradientTape() as tape:
                user, chosen, other = (
                    tf.gather(self.users, users),
                    tf.gather(self.items, positives),
                    tf.gather(self.items, drawn),
                )
                positive = tf.reduce_sum(user * chosen, axis=1) + tf.gather(self.own, positives)
                negative = tf.matmul(user, other, transpose_b=True) + tf.gather(self.own, drawn)
                if config.loss == "softmax":
                    positive, negative = positive - log_positive, negative - log_drawn
                negative = tf.where(is_negative, negative, NEVER)
                if config.negatives == "hard":
                    negative, _ = tf.math.top_k(negative, min(config.hardest, config.drawn))
                loss = LOSSES[config.loss](positive[:, None], negative)
                used = [tf.reduce_sum(tf.square(v), axis=1) for v in (user, chosen, other)]
                loss += config.l2 * tf.add_n([tf.reduce_mean(each) for each in used])
            gradients = [tf.convert_to_tensor(g) for g in tape.gradient(loss, variables)]
            optimizer.apply_gradients(zip(gradients, variables, strict=True))
            return loss

        return tf.function(step, reduce_retracing=True, autograph=False)


def softmax_loss(positive: tf.Tensor, negative: tf.Tensor) -> tf.Tensor:
    """Takes scores (B,1) and (B,N), those of no negatives `NEVER`; gives the mean of -log P(positive)."""
    scores = tf.concat([positive, negative], axis=1)
    return tf.reduce_mean(tf.reduce_logsumexp(scores, axis=1) - positive[:, 0])


def bpr_loss(positive: tf.Tensor, negative: tf.Tensor) -> tf.Tensor:
    """As `softmax_loss`, of every pair by itself; Merlin's BPRLoss."""
    counted = tf.cast(negative > NEVER / 2, tf.float32)
    losses = BPRLoss().compute(positive, negative) * counted
    return tf.reduce_sum(losses) / tf.maximum(tf.reduce_sum(counted), 1.0)


def bce_loss(positive: tf.Tensor, negative: tf.Tensor) -> tf.Tensor:
    """As `softmax_loss`, of every item by itself; a positive weighs what all its negatives do."""
    counted = tf.cast(negative > NEVER / 2, tf.float32)
    losses = tf.nn.softplus(negative) * counted
    of_negatives = tf.reduce_sum(losses) / tf.maximum(tf.reduce_sum(counted), 1.0)
    return tf.reduce_mean(tf.nn.softplus(-positive)) + of_negatives


LOSSES: Mapping[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
    "softmax": softmax_loss,
    "bpr": bpr_loss,
    "bce": bce_loss,
}
