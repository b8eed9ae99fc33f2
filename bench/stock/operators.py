"""What the notebook's graph lacks for our ranker, and nothing more. Imported inside Triton."""

from __future__ import annotations

from pathlib import Path
from shutil import copy2
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from merlin.core.protocols import Transformable
from merlin.dag import BaseOperator, ColumnSelector, DataFormats
from merlin.schema import ColumnSchema, Schema

from contract import affinity, names
from contract.dataset import DATASET_FILE, Dataset
from contract.encoders import NULL_CODE, OOV_CODE, Encoders, Scale
from training.data.prepared import dataset_yaml, to_numpy

ITEMS_FILE = "items_by_code.npz"


class AppendRankerInputs(BaseOperator):
    """Appends the ranker's inputs that no stock operator makes: user-item features, and the context as null.

    It looks the items' raw columns up by their Categorify codes, so that it needs no further parent: this
    executor would run all ancestors of a further parent once more.
    """

    def __init__(self, folder: Path, scales: dict[str, Scale], context: tuple[str, ...]) -> None:
        """Takes a folder with `ITEMS_FILE` and `dataset.yaml`, the features' scales, the context columns."""
        super().__init__()
        self.folder, self.scales, self.context = folder, scales, context

    def save_artifacts(self, artifact_path: str) -> None:
        """Copies the two files beside the pickled graph."""
        for name in (ITEMS_FILE, DATASET_FILE):
            copy2(self.folder / name, Path(artifact_path) / name)

    def load_artifacts(self, artifact_path: str) -> None:
        """Opens them; without a path, where they were made."""
        folder = Path(artifact_path) if artifact_path else self.folder
        self.dataset = Dataset.load(folder / DATASET_FILE)
        with np.load(folder / ITEMS_FILE) as file:
            self.items = dict(file)

    def compute_output_schema(
        self, input_schema: Schema, col_selector: ColumnSelector, prev_output_schema: Schema | None = None
    ) -> Schema:
        """Adds the columns to the parent's."""
        schema = super().compute_output_schema(input_schema, col_selector, prev_output_schema)
        for name in self.scales:
            schema[name] = ColumnSchema(name, dtype=np.float32, dims=(None,))
        for name in self.context:
            schema[name] = ColumnSchema(name, dtype=np.int64, dims=(None,))
        return schema

    def transform(self, col_selector: ColumnSelector, transformable: Transformable) -> Transformable:  # noqa: ARG002
        """Takes K unrolled rows of one user, gives them with the columns appended."""
        columns = {name: column.values for name, column in transformable.items()}
        candidates = columns[names.ITEM_ID].reshape(1, -1)
        recents = {
            name: {c: table[columns[name][:1]] for c, table in self.items.items()} for name in affinity.LISTS
        }
        made = affinity.user_item_features(
            self.dataset, recents, {c: table[candidates] for c, table in self.items.items()}
        )
        columns |= {name: scale.encode(made[name][0]) for name, scale in self.scales.items()}
        columns |= {name: np.full(candidates.size, NULL_CODE, dtype=np.int64) for name in self.context}
        return type(transformable)(columns)

    @property
    def supported_formats(self) -> DataFormats:
        """Named arrays only."""
        return DataFormats.NUMPY_TENSOR_TABLE


def items_by_code(
    dataset: Dataset, encoders: Encoders, items: pd.DataFrame, folder: Path
) -> npt.NDArray[np.int64]:
    """Writes the operator's two files: the item columns that are compared, one row per Categorify code.

    Strings become numbers, as only equality counts. Gives the item ids by code, null where a code is no item:
    all items that training did not see have one code, so the stock ensemble cannot tell which they are.
    """
    field = encoders.fields[names.ITEM_ID]
    codes = encoders.encode(names.ITEM_ID, items[names.ITEM_ID].to_numpy(np.int64))
    tables: dict[str, Any] = {}
    for name in affinity.affinity_columns(dataset):
        values = to_numpy(items[name], dataset.items[name])
        if values.dtype == object:
            numbers = pd.factorize(values.ravel())[0].astype(np.int64).reshape(values.shape)
            values = np.where(numbers < 0, names.NULL_INT, numbers)
        tables[name] = np.full((field.cardinality, *values.shape[1:]), names.NULL_INT, dtype=np.int64)
        tables[name][codes] = values
        tables[name][: OOV_CODE + 1] = names.NULL_INT
    np.savez(folder / ITEMS_FILE, **tables)
    (folder / DATASET_FILE).write_text(dataset_yaml(dataset))
    item_ids: npt.NDArray[np.int64] = tables[names.ITEM_ID]
    return item_ids
