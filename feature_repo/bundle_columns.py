"""Columns that a data set has otherwise than a bundle reads them, or no more: what Redis holds of them is
kept for the bundle, until it can no longer be served.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from contract import names
from contract.bundles import CURRENT
from contract.dataset import DATASET_FILE, Dataset, DatasetError
from contract.feast import columns_of, feature_field, head_of, kept_field


@dataclass(frozen=True)
class BundleColumn:
    """One column as a bundle reads it."""

    view: str
    column: str
    head: bytes
    """What its values begin with."""

    @property
    def source(self) -> bytes:
        """The field of the column itself."""
        return feature_field(self.view, self.column)

    @property
    def field(self) -> bytes:
        """The field where it is kept."""
        return kept_field(self.view, self.column, self.head)

    def fits(self, value: bytes | None) -> bool:
        """Whether a value is one of this column, null included."""
        return value is not None and (not value or value.startswith(self.head))

    def __str__(self) -> str:
        return f"{self.view}:{self.head.hex()}:{self.column}"

    @classmethod
    def parse(cls, text: str) -> BundleColumn:
        """Reads what `str` gave."""
        view, head, column = text.split(":", 2)
        return cls(view, column, bytes.fromhex(head))


def columns_to_keep(dataset: Dataset, bundles: Path, names_: Iterable[str]) -> set[BundleColumn]:
    """Takes a data set as it is now, the folder of bundles, and the names of those that can be served, the
    current one besides; gives what they read of it and it has not. A bundle that is not there reads nothing.
    """
    columns: set[BundleColumn] = set()
    for name in {CURRENT, *names_}:
        try:
            trained_on = Dataset.load(bundles / name / DATASET_FILE)
        except DatasetError:
            continue
        if trained_on.name == dataset.name:
            columns |= _reads(trained_on) - _reads(dataset)
    return columns


def _reads(dataset: Dataset) -> set[BundleColumn]:
    return {
        BundleColumn(view, name, head_of(column))
        for view in names.VIEWS
        for name, column in columns_of(dataset, view).items()
    }
