"""What is fitted once the towers are trained: where unknown users and new items stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from contract import names
from contract.arrays import Array, Doubles, Floats
from contract.encoders import OOV_CODE, Field
from training.examples.positives import RetrievalExamples
from training.examples.safe_names import with_safe_names
from training.retrieval.model import RetrievalModel, Validate
from training.retrieval.new_items import fair_lift, fit_side_tables, highest_lift, is_probe
from training.retrieval.newcomer import newcomer
from training.retrieval.sampling import drawing_chances, newcomer_chances, unknown_columns
from training.retrieval.task import FittingTask


class PlaceableTowers(RetrievalModel, Protocol):
    """Trained towers that take what is fitted after the training."""

    @property
    def item_popularity(self) -> Floats:
        """How popular every item code is, (item codes,)."""

    @property
    def side_fields(self) -> Sequence[Field]:
        """What the item tower reads beside the id, by safe name."""

    @property
    def new_item_lift(self) -> float:
        """How much more popular than their features say new items are taken to be."""

    def lift_new_items(self, lift: float) -> None:
        """Sets it."""

    def place_new_items(self, base: Floats, tables: Mapping[str, Floats]) -> None:
        """Puts new items at `base` (D + 1,) and what `tables` (rows, D + 1), by safe name, add."""

    def user_sums(self, arrays: Mapping[str, Array]) -> Floats:
        """Takes encoded columns (U,), lists (U,S), gives what vectors are made of, (U, D + 1): a direction of
        any length and the logit of the gate."""

    def place_newcomer(self, direction: Floats, sums: Floats) -> None:
        """Moves users without history as the unknown one, now at `sums` (D + 1,), moves to a direction."""


def place_unknown(model: PlaceableTowers, task: FittingTask, validate: Validate | None) -> None:
    """Places new items, then the unknown user; with `validate`, new items no higher than it bears."""
    examples, catalogue, config = task.examples, task.catalogue, task.config
    newcomers = newcomer_chances(examples, drawing_chances(examples, config))
    shares = np.bincount(examples.items, newcomers, examples.item_count).astype(np.float64)
    place_new_items(model, examples, catalogue, shares)
    place_newcomer(model, task, model.encode_items(catalogue), shares)
    if validate is not None and (catalogue[names.ITEM_ID] == OOV_CODE).any():
        lift_new_items(model, validate, config.new_item_cost)


def place_newcomer(model: PlaceableTowers, task: FittingTask, items: Floats, shares: Doubles) -> None:
    """Turns the unknown user to where the scores of item vectors (I, D + 1) follow their shares (I,)."""
    blank = unknown_columns(task.fields, task.examples.batch(np.arange(1), np.zeros(1, np.bool_)))
    sums = model.user_sums(blank)[0]
    direction, _ = newcomer(items, shares, task.config.temperature, sums[:-1], float(sums[-1]))
    model.place_newcomer(direction, sums)


def place_new_items(
    model: PlaceableTowers, examples: RetrievalExamples, catalogue: Mapping[str, Array], shares: Doubles
) -> None:
    """Puts items without an id of their own where the features of the known ones, chosen by `shares` (I,) of
    late, say that they stand; those that are to tell how new items fare say nothing."""
    chosen = np.bincount(examples.items, minlength=examples.item_count) > 0
    known = (catalogue[names.ITEM_ID] != OOV_CODE) & chosen & ~is_probe(len(chosen))
    if not known.any():
        return
    columns = {name: values[known] for name, values in catalogue.items()}
    vectors = model.encode_items(columns)[:, :-1]
    popularity = model.item_popularity[columns[names.ITEM_ID]]
    late = shares[known] * np.count_nonzero(examples.is_timed & examples.is_target)
    sure = (np.log1p(late) + 0.05).astype(np.float32)  # an item that nobody chose of late has learned little
    base, tables, left = fit_side_tables(
        model.side_fields, with_safe_names(columns), vectors, popularity, sure
    )
    model.place_new_items(base, tables)
    spread = float(np.log1p(late).std()) / max(float(popularity.std()), 1e-6)
    model.lift_new_items(fair_lift(left, spread))


def lift_new_items(model: PlaceableTowers, validate: Validate, cost: float) -> None:
    """Makes new items less popular where validation loses more than a share of `cost` by them."""

    def value(lift: float) -> float:
        model.lift_new_items(lift)
        return validate(model)

    model.lift_new_items(highest_lift(value, model.new_item_lift, cost))
