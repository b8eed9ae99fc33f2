"""The two towers: user and item columns to vectors of unit length and one coordinate of popularity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from merlin.schema import Schema

from contract import names
from contract.encoders import OOV_CODE, PAD_CODE, Field
from training.retrieval.config import TwoTowerConfig
from training.retrieval.tower_design import (
    GATE_START,
    KNOTS,
    NEWCOMER_TASTE,
    POOLS,
    POPULARITY_BOUND,
    PRIOR_SPEED,
    PRIOR_START,
    table_rows,
    told_rows,
)

Tensors = Mapping[str, tf.Tensor]


def pool(embeddings: tf.Tensor, mask: tf.Tensor, decay: tf.Tensor) -> tf.Tensor:
    """Averages embeddings (B,S,D), newest first, where `mask` (B,S) is 1; (B,D).

    Position s weighs exp(-decay * s). One is added to the sum of weights: the shorter the list, the nearer to
    zero. Padding counts for nothing.
    """
    weights = mask * tf.exp(-decay * tf.range(tf.shape(mask)[1], dtype=tf.float32))
    total = tf.reduce_sum(weights, axis=1, keepdims=True)
    return tf.reduce_sum(embeddings * weights[:, :, None], axis=1) / (total + 1.0)


def is_present(codes: tf.Tensor) -> tf.Tensor:
    """Takes codes (B,S), gives 1.0 where there is no padding."""
    return tf.cast(tf.not_equal(codes, PAD_CODE), tf.float32)


def _withhold(values: tf.Tensor, rows: tf.Tensor, instead: int) -> tf.Tensor:
    return tf.where(rows, tf.cast(instead, values.dtype), values)


class _Tower(tf.keras.layers.Layer):
    """Sums one vector per side column; these start at zero, so that at first the item tables alone decide."""

    def __init__(self, fields: Sequence[Field], schema: Schema, width: int, name: str) -> None:
        super().__init__(name=name)
        self.schema = schema
        self.fields = tuple(fields)
        self.width = width
        self.tables: dict[str, tf.Variable] = {}

    def _add_table(self, name: str, start: npt.NDArray[np.float32]) -> None:
        self.tables[name] = self.add_weight(
            name=f"{name}_table", shape=start.shape, initializer=tf.constant_initializer(start)
        )

    def _add_side_tables(self, names_: Sequence[str]) -> None:
        for field in self.fields:
            if field.name in names_:
                self._add_table(field.name, np.zeros((table_rows(field), self.width), np.float32))

    def _side(self, inputs: Tensors, names_: Sequence[str], tables: Tensors | None = None) -> list[tf.Tensor]:
        tables = self.tables if tables is None else tables
        return [_told(f, inputs[f.name], tables[f.name]) for f in self.fields if f.name in names_]

    def compute_output_shape(self, _: object) -> tf.TensorShape:
        """Says (B, D + 1), whatever the inputs."""
        return tf.TensorShape((None, self.width + 1))


def _told(field: Field, values: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
    if field.kind == "numeric":
        number = tf.clip_by_value(tf.reshape(values, (-1, 1)), -5.0, 5.0)
        if table.shape[0] == 1:
            return number * table
        beyond = tf.maximum(number - tf.constant([KNOTS], tf.float32), 0.0)
        return tf.matmul(tf.concat([number, beyond], axis=1), table)
    if field.kind == "embedding":
        return tf.matmul(values, table)
    if field.kind == "categorical":
        return tf.gather(table, tf.reshape(values, (-1,)))
    return pool(tf.gather(table, values), is_present(values), tf.constant(0.0))


class UserTower(_Tower):
    """Encodes users: their recent items, their id and profile; (B, D + 1).

    The first D are a direction of length 1, the last coordinate is how much popularity counts, up to
    `POPULARITY_BOUND`. A user without history has the length `NEWCOMER_TASTE` and the bound. An unknown
    user has `OOV_CODE` as id, padding as lists and null as profile; training withholds ids, and shows it
    unknown users.
    """

    def __init__(
        self,
        fields: Sequence[Field],
        schema: Schema,
        item_start: npt.NDArray[np.float32],
        base: npt.NDArray[np.float32],
        config: TwoTowerConfig,
    ) -> None:
        """Takes the item table (cardinality, D) and the vector (D,) that users without history start at."""
        super().__init__(fields, schema, config.width, "user_tower")
        self.config = config
        self.side = tuple(f.name for f in fields if f.vocabulary != names.ITEM_ID)
        self._add_table(names.ITEM_ID, item_start)
        self._add_side_tables(self.side)
        self.pools = tuple(p for p in POOLS if p[0] in {f.name for f in fields})
        self.decays = [self._scalar(f"decay_{i}", decay) for i, (_, decay, _) in enumerate(self.pools)]
        self.mixes = [
            self.add_weight(
                name=f"mix_{i}",
                shape=(self.width, self.width),
                initializer=tf.constant_initializer(weight * np.eye(self.width, dtype=np.float32)),
            )
            for i, (_, _, weight) in enumerate(self.pools)
        ]
        self.base = self.add_weight(name="base", shape=base.shape, initializer=tf.constant_initializer(base))
        gate = np.array([GATE_START[0], *[GATE_START[1]] * len(self.pools)], dtype=np.float32)
        self.gate = self.add_weight(name="gate", shape=gate.shape, initializer=tf.constant_initializer(gate))
        # Added where there is no history; fitted after training, not by its steps.
        self.newcomer = self.add_weight(
            name="newcomer", shape=(self.width,), initializer="zeros", trainable=False
        )
        self.is_placed = self.add_weight(name="is_placed", shape=(), initializer="zeros", trainable=False)

    def place_newcomer(self, direction: npt.NDArray[np.float32], sums: npt.NDArray[np.float32]) -> None:
        """Moves users without history by what leads the unknown one, now at `sums` (D + 1,), to a place.

        Its length is kept, so that a profile turns it as much as before.
        """
        length = float(np.linalg.norm(sums[:-1]))
        self.newcomer.assign_add(direction / max(float(np.linalg.norm(direction)), 1e-6) * length - sums[:-1])
        self.is_placed.assign(1.0)

    def _scalar(self, name: str, value: float) -> tf.Variable:
        return self.add_weight(name=name, shape=(), initializer=tf.constant_initializer(value))

    def call(self, inputs: Tensors, training: bool = False) -> tf.Tensor:
        """Takes encoded columns, (B,1) or for lists (B,S), gives vectors (B, D + 1)."""
        sums = self.sums(inputs, training)
        direction = tf.math.l2_normalize(sums[:, :-1], axis=1)
        weight = POPULARITY_BOUND * tf.sigmoid(sums[:, -1:])
        placed = self._is_new(inputs) * self.is_placed
        direction *= 1.0 + placed * (NEWCOMER_TASTE - 1.0)
        weight += placed * (POPULARITY_BOUND - weight)
        return tf.concat([direction, weight], axis=1)

    def _is_new(self, inputs: Tensors) -> tf.Tensor:
        """Gives 1.0 for users without history, (B,1)."""
        counts = [tf.reduce_sum(is_present(inputs[p[0]]), axis=1, keepdims=True) for p in self.pools]
        return tf.cast(tf.equal(tf.add_n(counts), 0.0), tf.float32)

    def sums(self, inputs: Tensors, training: bool = False) -> tf.Tensor:
        """Gives what vectors are made of: the direction at any length and the gate's logit; (B, D + 1)."""
        if training:
            ids = inputs[names.USER_ID]
            dropped = tf.random.uniform(tf.shape(ids)) < self.config.user_dropout
            inputs = {**inputs, names.USER_ID: _withhold(ids, dropped, OOV_CODE)}
        embedded = {
            name: tf.gather(self.tables[names.ITEM_ID], inputs[name]) for name in {p[0] for p in self.pools}
        }
        total = self.base[None] + tf.add_n(self._side(inputs, self.side))
        gate = tf.fill(tf.shape(total[:, :1]), self.gate[0])
        for i, (name, _, _) in enumerate(self.pools):
            mask = is_present(inputs[name])
            total += tf.matmul(pool(embedded[name], mask, self.decays[i]), self.mixes[i])
            gate += self.gate[i + 1] * tf.math.log(1.0 + tf.reduce_sum(mask, axis=1, keepdims=True)) / 4.0
        return tf.concat([total + self._is_new(inputs) * self.newcomer[None], gate], axis=1)


class ItemTower(_Tower):
    """Encodes items: their id and catalogue; (B, D + 1).

    The last coordinate is the popularity prior: a factor, learned, of the log of how often an item was chosen
    of late. A new item has `OOV_CODE` as id; once training has placed these, its vector and its popularity
    are what its catalogue says, by tables of their own.
    """

    def __init__(
        self,
        fields: Sequence[Field],
        schema: Schema,
        item_start: npt.NDArray[np.float32],
        popularity: npt.NDArray[np.float32],
        config: TwoTowerConfig,
    ) -> None:
        super().__init__(fields, schema, config.width, "item_tower")
        self.config = config
        self.side = tuple(f.name for f in fields if f.name != names.ITEM_ID)
        self._add_table(names.ITEM_ID, item_start)
        self._add_side_tables(self.side)
        self.popularity = self.add_weight(
            name="popularity",
            shape=popularity.shape,
            initializer=tf.constant_initializer(popularity),
            trainable=False,
        )
        start = tf.constant_initializer(PRIOR_START / PRIOR_SPEED)
        self.factor = self.add_weight(name="popularity_factor", shape=(), initializer=start)
        # Fitted after training, not by its steps.
        self.new_tables = {
            field.name: self._fitted(f"new_{field.name}_table", (told_rows(field), self.width + 1))
            for field in self.fields
            if field.name in self.side
        }
        self.new_base = self._fitted("new_base", (self.width + 1,))
        self.lift = self._fitted("lift", ())
        self.is_placed = self._fitted("is_placed", ())

    def _fitted(self, name: str, shape: tuple[int, ...]) -> tf.Variable:
        return self.add_weight(name=name, shape=shape, initializer="zeros", trainable=False)

    def place_new_items(
        self, base: npt.NDArray[np.float32], tables: Mapping[str, npt.NDArray[np.float32]]
    ) -> None:
        """Puts new items where their columns say: at `base` (D + 1,), the last their popularity, and what
        `tables` (rows, D + 1) add."""
        self.new_base.assign(base)
        for name, table in tables.items():
            self.new_tables[name].assign(table)
        self.is_placed.assign(1.0)

    def prior(self) -> tf.Tensor:
        """Gives every item code's popularity prior, in logits; (cardinality,)."""
        return PRIOR_SPEED * self.factor * self.popularity

    def call(self, inputs: Tensors, training: bool = False) -> tf.Tensor:
        """Takes encoded columns, (B,1) or for lists (B,L), gives vectors (B, D + 1)."""
        codes = tf.reshape(inputs[names.ITEM_ID], (-1,))
        own = tf.concat(
            [tf.gather(self.tables[names.ITEM_ID], codes), tf.gather(self.popularity, codes)[:, None]], axis=1
        )
        side = self._side(inputs, self.side)
        total = own + tf.pad(tf.add_n(side), [[0, 0], [0, 1]]) if side else own
        if not training:
            is_new = tf.equal(codes, OOV_CODE) & (self.is_placed > 0.0)
            total = tf.where(is_new[:, None], self._of_new(inputs, tf.zeros_like(total)), total)
        # The logits are divided by the temperature; the prior, in logits, must come out as it went in.
        coordinate = self.config.temperature * PRIOR_SPEED * self.factor * total[:, -1:]
        return tf.concat([tf.math.l2_normalize(total[:, :-1], axis=1), coordinate], axis=1)

    def _of_new(self, inputs: Tensors, zeros: tf.Tensor) -> tf.Tensor:
        """Gives what new items' vectors are made of, (B, D + 1): no more nor less popular than known ones."""
        total = tf.add_n([zeros + self.new_base, *self._side(inputs, self.side, self.new_tables)])
        popularity = tf.clip_by_value(
            total[:, -1:] + self.lift, tf.reduce_min(self.popularity), tf.reduce_max(self.popularity)
        )
        return tf.concat([total[:, :-1], popularity], axis=1)
