"""Rows of users and items as the models take them, encoded beforehand, for the references' stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import tensorflow as tf

from contract import affinity, names
from contract.columns import Columns
from contract.dataset import Dataset
from contract.encoders import Encoders
from training.data.prepared import to_numpy

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Tensor:
    """A named tensor of one row per user or candidate; `length` is 0 for a scalar, else that of the list."""

    name: str
    dtype: type[np.generic]
    length: int = 0


@dataclass(frozen=True)
class Inputs:
    """What the two SavedModels read, by where it comes from."""

    tower: tuple[Tensor, ...]
    vector: Tensor
    ranker: tuple[Tensor, ...]
    score: str
    user: tuple[Tensor, ...]
    item: tuple[Tensor, ...]
    made: tuple[str, ...]
    context: tuple[str, ...]

    @classmethod
    def read(cls, saved_models: Path, dataset: Dataset) -> Inputs:
        """Asks the SavedModels themselves; `made` are the user-item features."""
        tower, (vector,) = _signature(saved_models / "user_tower")
        ranker, (score,) = _signature(saved_models / "ranker")
        of_items = {names.ITEM_ID, *dataset.item_catalog, *dataset.item_activity}
        made = set(affinity.user_item_feature_names(dataset))
        item = tuple(t for t in ranker if t.name in of_items)
        kept = {t.name: t for t in (*tower, *ranker)}
        other = of_items | made | set(dataset.context)
        return cls(
            tower=tower,
            vector=vector,
            ranker=ranker,
            score=score.name,
            user=tuple(t for name, t in kept.items() if name not in other),
            item=item,
            made=tuple(t.name for t in ranker if t.name in made),
            context=tuple(t.name for t in ranker if t.name in dataset.context),
        )


def _signature(folder: Path) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    signature = tf.saved_model.load(str(folder)).signatures["serving_default"]
    _, inputs = signature.structured_input_signature
    return _tensors(inputs), _tensors(signature.structured_outputs)


def _tensors(specs: Mapping[str, tf.TensorSpec]) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(name, spec.dtype.as_numpy_dtype, spec.shape[1] if len(spec.shape) > 1 else 0)
        for name, spec in sorted(specs.items())
    )


@dataclass(frozen=True)
class Rows:
    """Ids and, per column, one value or list per id."""

    ids: npt.NDArray[np.int64]
    columns: dict[str, Array]


def user_rows(features: Path, dataset: Dataset, encoders: Encoders, inputs: Inputs) -> Rows:
    """Reads the users' newest rows from our Feast project's sources; the recent items raw as well."""
    columns = {**dataset.user_profile, **dataset.user_activity}
    ids, raw = _newest(features, names.USER_VIEWS, names.USER_ID, columns)
    raw[names.USER_ID] = ids
    encoded = {t.name: encoders.encode(t.name, raw[t.name]) for t in inputs.user}
    return Rows(ids, encoded | {raw_name(name): raw[name] for name in affinity.LISTS})


def item_rows(features: Path, dataset: Dataset, encoders: Encoders, inputs: Inputs) -> Rows:
    """Reads the items' newest rows likewise."""
    columns = {**dataset.item_catalog, **dataset.item_activity}
    ids, raw = _newest(features, names.ITEM_VIEWS, names.ITEM_ID, columns)
    raw[names.ITEM_ID] = ids
    return Rows(ids, {t.name: encoders.encode(t.name, raw[t.name]) for t in inputs.item})


def raw_name(column: str) -> str:
    """Names a column before encoding, beside its codes."""
    return f"{column}_raw"


def raw_tensors(dataset: Dataset) -> tuple[Tensor, ...]:
    """The users' recent items, raw, as the user-item features need them."""
    lengths = {name: column.max_length for name, column in dataset.user_activity.items()}
    return tuple(Tensor(raw_name(name), np.int64, lengths[name]) for name in affinity.LISTS)


def save_compared(features: Path, dataset: Dataset, path: Path) -> None:
    """Writes the item columns that the user-item features compare, one row per item, sorted by id.

    The last row is null: that of an item which is not there.
    """
    names_of = affinity.affinity_columns(dataset)
    columns = {n: dataset.item_catalog[n] for n in names_of if n != names.ITEM_ID}
    ids, raw = _newest(features, names.ITEM_VIEWS, names.ITEM_ID, columns)
    order = np.argsort(ids)
    tables: dict[str, Array] = {names.ITEM_ID: np.append(ids[order], names.NULL_INT)}
    for name in columns:
        values = raw[name]
        if values.dtype == object:  # only equality counts
            numbers = pd.factorize(values.ravel())[0].astype(np.int64).reshape(values.shape)
            values = np.where(numbers < 0, names.NULL_INT, numbers)
        null = np.full((1, *values.shape[1:]), names.NULL_INT, dtype=np.int64)
        tables[name] = np.concatenate([values[order], null])
    np.savez(path, **tables)  # type: ignore[arg-type]


def _newest(
    features: Path, views: Sequence[str], key: str, columns: Columns
) -> tuple[npt.NDArray[np.int64], dict[str, Array]]:
    joined = pd.DataFrame({key: pd.Series(dtype="int64")})
    for view in views:
        frame = pd.read_parquet(features / f"{view}.parquet").sort_values(names.EVENT_TIMESTAMP)
        frame = frame.drop_duplicates(key, keep="last").drop(columns=names.EVENT_TIMESTAMP)
        joined = joined.merge(frame, on=key, how="outer")
    raw = {name: to_numpy(joined[name], column) for name, column in columns.items()}
    return joined[key].to_numpy(np.int64), raw
