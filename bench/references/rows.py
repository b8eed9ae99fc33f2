"""Rows of users and items as the bundle's models take them, encoded beforehand, for the two stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from contract import affinity, names
from contract.arrays import Array
from contract.bundle import Inputs, Manifest
from contract.columns import Columns
from contract.dataset import Dataset
from contract.encoders import Encoders
from training.data.prepared import to_numpy

USER_COLUMNS, ITEM_COLUMNS = 12, 4
"""Columns of users, and of items beside their id, in the published design: one field and one tensor each."""


@dataclass(frozen=True)
class Tensor:
    """A named tensor of one row per user or candidate: (rows, width), or (rows,) where the width is 0."""

    name: str
    dtype: type[np.generic]
    width: int = 0


@dataclass(frozen=True)
class Pack:
    """Columns that stand beside each other in one field and one tensor; a list stands alone, by its name."""

    tensor: Tensor
    columns: tuple[str, ...]

    def of(self, columns: Mapping[str, Array]) -> Array:
        """Takes encoded columns, (rows,) or for a list (rows, S); gives the tensor."""
        if self.columns == (self.tensor.name,):
            return columns[self.tensor.name].astype(self.tensor.dtype)
        return np.stack([columns[name] for name in self.columns], axis=1).astype(self.tensor.dtype)


def user_packs(manifest: Manifest) -> tuple[Pack, ...]:
    """Packs what both models read of users."""
    tower, ranked = manifest.user_tower, manifest.ranker.user
    read = Inputs(
        categorical=tuple(dict.fromkeys((*tower.categorical, *ranked.categorical))),
        numeric=tuple(dict.fromkeys((*tower.numeric, *ranked.numeric))),
        lists={**tower.lists, **ranked.lists},
    )
    return _packs(read.without(manifest.context), "user", USER_COLUMNS)


def item_packs(manifest: Manifest, dataset: Dataset) -> tuple[Pack, ...]:
    """Packs what the ranker reads of items; the user-item features are made."""
    made = affinity.user_item_feature_names(dataset)
    return _packs(manifest.ranker.candidate.without(made), "item", ITEM_COLUMNS)


def _packs(inputs: Inputs, side: str, most: int) -> tuple[Pack, ...]:
    """Gives `most` packs, if the lists and the numerics leave room for one of categoricals."""
    packs = [Pack(Tensor(name, np.int64, length), (name,)) for name, length in inputs.lists.items()]
    if inputs.numeric:
        packs.append(Pack(Tensor(f"{side}_numeric", np.float32, len(inputs.numeric)), inputs.numeric))
    parts = np.array_split(np.array(inputs.categorical, dtype=object), max(1, most - len(packs)))
    for at, part in enumerate(part for part in parts if len(part)):
        packs.append(Pack(Tensor(f"{side}_categorical_{at}", np.int64, len(part)), tuple(part)))
    return tuple(packs)


@dataclass(frozen=True)
class Rows:
    """Ids and, per tensor, one row per id."""

    ids: npt.NDArray[np.int64]
    tensors: dict[str, Array]


def user_rows(features: Path, dataset: Dataset, encoders: Encoders, packs: Sequence[Pack]) -> Rows:
    """Reads the users' newest rows from our Feast project's sources; the recent items raw as well."""
    columns = {**dataset.user_profile, **dataset.user_activity}
    ids, raw = _newest(features, names.USER_VIEWS, names.USER_ID, columns)
    raw[names.USER_ID] = ids
    return Rows(ids, _packed(encoders, raw, packs) | {raw_name(name): raw[name] for name in affinity.LISTS})


def item_rows(features: Path, dataset: Dataset, encoders: Encoders, packs: Sequence[Pack]) -> Rows:
    """Reads the items' newest rows likewise."""
    columns = {**dataset.item_catalog, **dataset.item_activity}
    ids, raw = _newest(features, names.ITEM_VIEWS, names.ITEM_ID, columns)
    raw[names.ITEM_ID] = ids
    return Rows(ids, _packed(encoders, raw, packs))


def _packed(encoders: Encoders, raw: Mapping[str, Array], packs: Sequence[Pack]) -> dict[str, Array]:
    columns = {name: encoders.encode(name, raw[name]) for pack in packs for name in pack.columns}
    return {pack.tensor.name: pack.of(columns) for pack in packs}


def raw_name(column: str) -> str:
    """Names a column before encoding, beside its codes."""
    return f"{column}_raw"


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
