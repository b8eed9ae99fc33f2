"""Retrieval's model: Merlin's TwoTowerModelV2, trained by bias-corrected in-batch sampled softmax."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import merlin.models.tf as mm
import numpy as np
import onnx
import tensorflow as tf
from merlin.models.tf.outputs.base import DotProduct
from merlin.models.tf.transforms.bias import PopularityLogitsCorrection
from merlin.schema import ColumnSchema, Schema, Tags

from contract import names
from contract.arrays import Array, Floats
from contract.bundle import ModelSpec
from contract.encoders import Field
from training.examples.positives import RetrievalExamples
from training.examples.safe_names import safe_name, with_safe_names
from training.retrieval.config import TwoTowerConfig
from training.retrieval.convert import to_onnx
from training.retrieval.model import Validate
from training.retrieval.pieces import in_pieces
from training.retrieval.placing import place_unknown
from training.retrieval.sampling import BatchMix, batches, sampling_probabilities
from training.retrieval.task import FittingTask
from training.retrieval.tower_design import TowersStart, score_range
from training.retrieval.towers import ItemTower, UserTower


@dataclass(frozen=True, eq=False)
class TwoTower:
    """The trained towers, a `RetrievalModel`. They take dicts of tensors by safe name, (B,1), lists (B,S)."""

    name = "two-tower"
    user_features: tuple[str, ...]
    item_features: tuple[str, ...]
    user_tower: UserTower
    item_tower: ItemTower
    history: tuple[dict[str, float], ...] = ()
    """What every evaluation measured: `step`, `loss`, `validation`."""
    fresh_share: float = 0.0
    """What share of the examples of the steps that it ended with were as of just before."""

    def encode_users(self, arrays: Mapping[str, Array]) -> Floats:
        """Takes encoded columns, (U,) or for lists (U,S), gives vectors (U, D + 1)."""
        return _encode(self.user_tower, self.user_features, arrays)

    def encode_items(self, arrays: Mapping[str, Array]) -> Floats:
        """Takes encoded columns, (I,) or for lists (I,L), gives vectors (I, D + 1)."""
        return _encode(self.item_tower, self.item_features, arrays)

    def users_to_onnx(self, spec: ModelSpec) -> onnx.ModelProto:
        """Converts the user tower."""
        return to_onnx(self.user_tower, spec)

    def items_to_onnx(self, spec: ModelSpec) -> onnx.ModelProto:
        """Converts the item tower."""
        return to_onnx(self.item_tower, spec)

    @property
    def item_popularity(self) -> Floats:
        """How popular every item code is, (item codes,)."""
        popularity: Floats = self.item_tower.popularity.numpy()
        return popularity

    def renew_popularity(self, popularity: Floats) -> None:
        """Sets how popular every item code is."""
        self.item_tower.popularity.assign(popularity)

    @property
    def side_fields(self) -> tuple[Field, ...]:
        """What the item tower reads beside the id, by safe name."""
        return tuple(field for field in self.item_tower.fields if field.name in self.item_tower.side)

    @property
    def new_item_lift(self) -> float:
        """How much more popular than their features say new items are taken to be."""
        return float(self.item_tower.lift.numpy())

    def lift_new_items(self, lift: float) -> None:
        """Sets it."""
        self.item_tower.lift.assign(lift)

    def place_new_items(self, base: Floats, tables: Mapping[str, Floats]) -> None:
        """Puts new items at `base` (D + 1,) and what `tables` (rows, D + 1) add."""
        self.item_tower.place_new_items(base, tables)

    def user_sums(self, arrays: Mapping[str, Array]) -> Floats:
        """Takes encoded columns (U,), lists (U,S), gives what vectors are made of, (U, D + 1)."""
        sums: Floats = self.user_tower.sums(_tensors(arrays)).numpy()
        return sums

    def place_newcomer(self, direction: Floats, sums: Floats) -> None:
        """Moves users without history as the unknown one, now at `sums` (D + 1,), moves to a direction."""
        self.user_tower.place_newcomer(direction, sums)

    @property
    def score_range(self) -> tuple[float, float]:
        """Bounds of the inner product of any user with any item."""
        return score_range(self.item_tower.prior().numpy(), self.item_tower.config.temperature)


def _encode(
    tower: Callable[..., tf.Tensor], features: tuple[str, ...], arrays: Mapping[str, Array]
) -> Floats:
    columns = {name: arrays[name] for name in features}
    return in_pieces(lambda some: tower(_tensors(some)).numpy(), columns)


def _tensors(arrays: Mapping[str, Array]) -> dict[str, tf.Tensor]:
    return {safe_name(n): tf.constant(a[:, None] if a.ndim == 1 else a) for n, a in arrays.items()}


def fit_two_tower(
    fields: Mapping[str, Field],
    examples: RetrievalExamples,
    catalogue: Mapping[str, Array],
    config: TwoTowerConfig,
    seed: int,
    validate: Validate | None = None,
) -> TwoTower:
    """Trains the towers on positives, all other items of a batch being the negatives.

    `catalogue` holds the encoded columns of all items (I,), `item_id` included, in the order of their table.
    With `validate` the weights are those of the best evaluation; training stops after `patience` evaluations
    without a gain. It ends with some steps of users as of just before, where `config` asks for them; what
    these learn is kept where they evaluate better than all before.

    Source: Yi et al. 2019, equations 3 to 5; an item's sampling probability is its chance to be drawn.
    """
    tf.keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    task = FittingTask(fields, examples, catalogue, config, seed)
    per_epoch = task.steps_per_evaluation
    towers = _towers(task)
    mix = BatchMix.of(examples, config, task.batch_size)
    model = two_tower_model(*towers, sampling_probabilities(fields, examples, catalogue, mix.mixed), config)
    schedule = _WarmUpThenDown(config.learning_rate, per_epoch * config.evaluations)
    model.compile(optimizer=tf.keras.optimizers.Adam(schedule), metrics=[], run_eagerly=False)
    trained = TwoTower(tuple(task.user_columns), tuple(catalogue), *towers)
    keeper = _BestWeights(trained, validate, per_epoch, config.patience)

    def train(epochs: int, fresh_share: float) -> None:
        drawn = batches(fields, examples, catalogue, mix.chances, mix.sizes, seed, fresh_share)
        model.fit(_dataset(drawn), epochs=epochs, steps_per_epoch=per_epoch, callbacks=[keeper], verbose=0)

    train(config.evaluations, 0.0)
    is_fresh = False
    if config.fresh_share and validate is not None:
        model.optimizer.iterations.assign(per_epoch * max(0, config.evaluations - config.fresh_evaluations))
        before = len(keeper.history)
        train(config.fresh_evaluations, config.fresh_share)
        is_fresh = keeper.best_at >= before
    place_unknown(trained, task, validate)
    fresh_share = config.fresh_share if is_fresh else 0.0
    return replace(trained, history=tuple(keeper.history), fresh_share=fresh_share)


def two_tower_model(
    user_tower: UserTower, item_tower: ItemTower, probabilities: Floats, config: TwoTowerConfig
) -> mm.RetrievalModelV2:
    """Joins the towers to Merlin's model, whose loss is the corrected in-batch sampled softmax.

    Merlin corrects the logits before it divides them by the temperature, so the correction's factor is the
    temperature: what remains is cosine / temperature + prior - log q.
    """
    item_id = item_tower.schema.select_by_tag(Tags.ITEM_ID)
    correction = PopularityLogitsCorrection(
        probabilities, is_prob_distribution=True, reg_factor=config.temperature, schema=item_id
    )
    output = mm.ContrastiveOutput(
        to_call=DotProduct(),
        negative_samplers="in-batch",
        schema=item_id,
        logits_temperature=config.temperature,
        post=correction,
        store_negative_ids=True,
    )
    return mm.TwoTowerModelV2(
        mm.Encoder(user_tower, prep_features=False),
        mm.Encoder(item_tower, prep_features=False),
        outputs=output,
        schema=user_tower.schema + item_tower.schema,
    )


def merlin_schema(fields: Mapping[str, Field], columns: list[str]) -> Schema:
    """Describes encoded columns to Merlin: tags, and for codes the range."""
    ids = {names.USER_ID: [Tags.USER_ID, Tags.USER], names.ITEM_ID: [Tags.ITEM_ID, Tags.ITEM]}
    schemas = []
    for name in columns:
        field = fields[name]
        is_numeric, is_several = field.kind in ("numeric", "embedding"), field.kind in ("list", "embedding")
        schemas.append(
            ColumnSchema(
                name,
                tags=[*ids.get(name, []), Tags.CONTINUOUS if is_numeric else Tags.CATEGORICAL],
                dtype=np.float32 if is_numeric else np.int64,
                properties={}
                if is_numeric
                else {"domain": {"min": 0, "max": field.cardinality - 1, "name": name}},
                is_list=is_several,
                is_ragged=False if is_several else None,
            )
        )
    return Schema(schemas)


def _towers(task: FittingTask) -> tuple[UserTower, ItemTower]:
    start, (users, items) = TowersStart.of(task), task.tower_fields
    of_users, of_items = (
        merlin_schema({field.name: field for field in fields}, [field.name for field in fields])
        for fields in (users, items)
    )
    return (
        UserTower(users, of_users, start.history, start.base, task.config),
        ItemTower(items, of_items, start.candidates, start.popularity, task.config),
    )


def _dataset(drawn: Iterator[dict[str, Array]]) -> tf.data.Dataset:
    batch = (with_safe_names(columns) for columns in drawn)
    signature = {name: tf.TensorSpec(values.shape, values.dtype) for name, values in next(batch).items()}
    return tf.data.Dataset.from_generator(lambda: batch, output_signature=signature).prefetch(2)


class _WarmUpThenDown(tf.keras.optimizers.schedules.LearningRateSchedule):
    """Rises linearly over the first twentieth of the steps, then falls linearly to zero."""

    def __init__(self, peak: float, steps: int) -> None:
        self.peak, self.steps, self.warm_up = peak, float(steps), max(1.0, steps / 20)

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        done = tf.cast(step, tf.float32)
        return self.peak * tf.minimum((done + 1) / self.warm_up, tf.maximum(1 - done / self.steps, 0.0))

    def get_config(self) -> dict[str, float]:
        return {"peak": self.peak, "steps": self.steps}


class _BestWeights(tf.keras.callbacks.Callback):
    """Measures validation after every epoch, and ends each fit with the weights of the best of all so far; a
    fit stops once `patience` epochs of its own gain nothing."""

    def __init__(self, trained: TwoTower, validate: Validate | None, steps: int, patience: int) -> None:
        super().__init__()
        self.trained, self.validate, self.steps, self.patience = trained, validate, steps, patience
        self.history: list[dict[str, float]] = []
        self.best: list[Array] | None = None
        self.best_at = -1
        self.waited = 0

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        del logs
        self.waited = 0

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        del epoch
        row = {"step": (len(self.history) + 1) * self.steps, "loss": float((logs or {}).get("loss", np.nan))}
        self.history.append(row)
        if self.validate is None:
            return
        row["validation"] = value = self.validate(self.trained)
        if value > max((past["validation"] for past in self.history[:-1]), default=-np.inf):
            self.best, self.best_at, self.waited = self.model.get_weights(), len(self.history) - 1, 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            self.model.stop_training = True

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        del logs
        if self.best is not None:
            self.model.set_weights(self.best)
