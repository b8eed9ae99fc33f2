"""Retrieval's model: Merlin's TwoTowerModelV2, trained by bias-corrected in-batch sampled softmax."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import merlin.models.tf as mm
import numpy as np
import numpy.typing as npt
import onnx
import tensorflow as tf
from merlin.models.tf.outputs.base import DotProduct
from merlin.models.tf.transforms.bias import PopularityLogitsCorrection
from merlin.schema import ColumnSchema, Schema, Tags

from contract import names
from contract.arrays import Array, Floats
from contract.bundle import ModelSpec
from contract.encoders import OOV_CODE, Field
from training.examples.positives import RetrievalExamples
from training.examples.safe_names import safe_fields, safe_name, with_safe_names
from training.retrieval.config import TwoTowerConfig
from training.retrieval.convert import to_onnx
from training.retrieval.item_factors import item_factors
from training.retrieval.model import Validate
from training.retrieval.new_items import fair_lift, fit_side_tables, highest_lift, is_probe
from training.retrieval.newcomer import newcomer
from training.retrieval.sampling import (
    batches,
    drawing_chances,
    newcomer_chances,
    sampling_probabilities,
    unknown_columns,
)
from training.retrieval.towers import POPULARITY_BOUND, ItemTower, UserTower


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

    def encode_users(self, arrays: Mapping[str, Array], rows: int = 4096) -> Floats:
        """Takes encoded columns, (U,) or for lists (U,S), gives vectors (U, D + 1)."""
        return _encode(self.user_tower, self.user_features, arrays, rows)

    def encode_items(self, arrays: Mapping[str, Array], rows: int = 4096) -> Floats:
        """Takes encoded columns, (I,) or for lists (I,L), gives vectors (I, D + 1)."""
        return _encode(self.item_tower, self.item_features, arrays, rows)

    def users_to_onnx(self, spec: ModelSpec) -> onnx.ModelProto:
        """Converts the user tower."""
        return to_onnx(self.user_tower, spec)

    def items_to_onnx(self, spec: ModelSpec) -> onnx.ModelProto:
        """Converts the item tower."""
        return to_onnx(self.item_tower, spec)

    @property
    def score_range(self) -> tuple[float, float]:
        """Bounds of the inner product of any user with any item: a cosine, plus the weighted prior."""
        prior = self.item_tower.config.temperature * self.item_tower.prior().numpy()
        low, high = min(float(prior.min()), 0.0), max(float(prior.max()), 0.0)
        return -1.0 + POPULARITY_BOUND * low, 1.0 + POPULARITY_BOUND * high


def _encode(
    tower: Callable[..., tf.Tensor], features: tuple[str, ...], arrays: Mapping[str, Array], rows: int
) -> Floats:
    total = len(arrays[features[0]])
    parts = [
        tower(_tensors({name: arrays[name][at : at + rows] for name in features})).numpy()
        for at in range(0, max(total, 1), rows)
    ]
    vectors: Floats = np.concatenate(parts)
    return vectors


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
    batch_size = max(2, min(config.batch_size, len(examples) // 8))
    steps = max(1, min(config.steps, config.epochs * len(examples) // batch_size))
    user_columns = list(examples.batch(np.arange(1), np.zeros(1, np.bool_)))
    towers = _towers(fields, user_columns, examples, catalogue, config, seed)
    chances = drawing_chances(examples, config)
    newcomers = newcomer_chances(examples, chances)
    blanks = round(config.unknown_user_share * batch_size)
    mixed = chances + (newcomers - chances) * blanks / batch_size
    model = two_tower_model(*towers, sampling_probabilities(fields, examples, catalogue, mixed), config)
    per_epoch = max(1, steps // config.evaluations)
    schedule = _WarmUpThenDown(config.learning_rate, per_epoch * config.evaluations)
    model.compile(optimizer=tf.keras.optimizers.Adam(schedule), metrics=[], run_eagerly=False)
    trained = TwoTower(tuple(user_columns), tuple(catalogue), *towers)
    keeper = _BestWeights(trained, validate, per_epoch, config.patience)

    def train(epochs: int, fresh_share: float) -> None:
        sizes = (batch_size - blanks, blanks)
        drawn = batches(fields, examples, catalogue, (chances, newcomers), sizes, seed, fresh_share)
        model.fit(_dataset(drawn), epochs=epochs, steps_per_epoch=per_epoch, callbacks=[keeper], verbose=0)

    train(config.evaluations, 0.0)
    is_fresh = False
    if config.fresh_share and validate is not None:
        model.optimizer.iterations.assign(per_epoch * max(0, config.evaluations - config.fresh_evaluations))
        before = len(keeper.history)
        train(config.fresh_evaluations, config.fresh_share)
        is_fresh = keeper.best_at >= before
    shares = np.bincount(examples.items, newcomers, examples.item_count).astype(np.float64)
    place_new_items(trained, examples, catalogue, shares)
    place_newcomer(trained, fields, examples, trained.encode_items(catalogue), shares, config)
    if validate is not None and (catalogue[names.ITEM_ID] == OOV_CODE).any():
        lift_new_items(trained, validate, config.new_item_cost)
    fresh_share = config.fresh_share if is_fresh else 0.0
    return TwoTower(tuple(user_columns), tuple(catalogue), *towers, tuple(keeper.history), fresh_share)


def place_newcomer(
    model: TwoTower,
    fields: Mapping[str, Field],
    examples: RetrievalExamples,
    items: Floats,
    shares: npt.NDArray[np.float64],
    config: TwoTowerConfig,
) -> None:
    """Turns the unknown user to where the scores of item vectors (I, D + 1) follow their shares (I,)."""
    blank = unknown_columns(fields, examples.batch(np.arange(1), np.zeros(1, np.bool_)))
    sums = model.user_tower.sums(_tensors(blank)).numpy()[0]
    direction, _ = newcomer(items, shares, config.temperature, sums[:-1], float(sums[-1]))
    model.user_tower.place_newcomer(direction, sums)


def place_new_items(
    model: TwoTower,
    examples: RetrievalExamples,
    catalogue: Mapping[str, Array],
    shares: npt.NDArray[np.float64],
) -> None:
    """Puts items without an id of their own where the features of the known ones, chosen by `shares` (I,) of
    late, say that they stand; those that are to tell how new items fare say nothing."""
    tower = model.item_tower
    chosen = np.bincount(examples.items, minlength=examples.item_count) > 0
    known = (catalogue[names.ITEM_ID] != OOV_CODE) & chosen & ~is_probe(len(chosen))
    if not known.any():
        return
    columns = {name: values[known] for name, values in catalogue.items()}
    vectors = model.encode_items(columns)[:, :-1]
    popularity = tower.popularity.numpy()[columns[names.ITEM_ID]]
    late = shares[known] * np.count_nonzero(examples.is_timed & examples.is_target)
    sure = (np.log1p(late) + 0.05).astype(np.float32)  # an item that nobody chose of late has learned little
    side = [field for field in tower.fields if field.name in tower.side]
    base, tables, left = fit_side_tables(side, with_safe_names(columns), vectors, popularity, sure)
    tower.place_new_items(base, tables)
    spread = float(np.log1p(late).std()) / max(float(popularity.std()), 1e-6)
    tower.lift.assign(fair_lift(left, spread))


def lift_new_items(model: TwoTower, validate: Validate, cost: float) -> None:
    """Makes new items less popular where validation loses more than a share of `cost` by them."""

    def value(lift: float) -> float:
        model.item_tower.lift.assign(lift)
        return validate(model)

    model.item_tower.lift.assign(highest_lift(value, float(model.item_tower.lift.numpy()), cost))


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


def _towers(
    fields: Mapping[str, Field],
    user_columns: list[str],
    examples: RetrievalExamples,
    catalogue: Mapping[str, Array],
    config: TwoTowerConfig,
    seed: int,
) -> tuple[UserTower, ItemTower]:
    codes, cardinality = catalogue[names.ITEM_ID], fields[names.ITEM_ID].cardinality
    tables = []
    matrix = examples.matrix()
    ridge = min(config.ridge, matrix.shape[0] / 10)
    factors = item_factors(matrix, config.width, ridge, config.start_items, seed)
    rng = np.random.default_rng(seed)
    for rows in factors:
        table = rng.normal(0, 0.1 / np.sqrt(config.width), (cardinality, config.width)).astype(np.float32)
        table[codes] = rows
        tables.append(table)
    chosen_of_late = newcomer_chances(examples, drawing_chances(examples, config))
    shares = np.bincount(codes[examples.items], chosen_of_late, cardinality)
    counts = shares * np.count_nonzero(examples.is_timed & examples.is_target)
    popularity = np.log1p(counts).astype(np.float32)
    mean, spread = popularity[codes].mean(), popularity[codes].std()
    popularity = (popularity - mean) / (spread if spread > 0 else 1.0)
    known = [
        safe_fields({name: fields[name] for name in columns}) for columns in (user_columns, list(catalogue))
    ]
    schemas = [merlin_schema(some, list(some)) for some in known]
    chosen = [[*some.values()] for some in known]
    return (
        UserTower(
            chosen[0], schemas[0], tables[0], popular_direction(tables[1][codes], popularity[codes]), config
        ),
        ItemTower(chosen[1], schemas[1], tables[1], popularity, config),
    )


def popular_direction(vectors: Floats, popularity: Floats) -> Floats:
    """Takes items' vectors (I,D) and popularity (I,), gives the unit vector (D,) whose products follow it.

    Ridge regression; a user without a history starts there.
    """
    gram = vectors.T @ vectors
    gram[np.diag_indices_from(gram)] += max(1e-6, 0.01 * float(np.trace(gram)))
    direction = np.linalg.solve(gram, vectors.T @ popularity)
    unit: Floats = (direction / max(float(np.linalg.norm(direction)), 1e-6)).astype(np.float32)
    return unit


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
