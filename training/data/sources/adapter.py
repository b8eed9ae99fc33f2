"""What every adapter gives, and how it reads its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from contract.dataset import DatasetError


@dataclass
class Raw:
    """Three tables as an adapter read them, and the content of their `dataset.yaml`.

    A declared column that no file has is absent from its frame; validation says so.
    """

    declaration: dict[str, Any]
    users: pd.DataFrame
    items: pd.DataFrame
    interactions: pd.DataFrame

    @property
    def frames(self) -> dict[str, pd.DataFrame]:
        """The tables by name."""
        return {"users": self.users, "items": self.items, "interactions": self.interactions}


def read_declaration(name: str) -> dict[str, Any]:
    """Reads the `dataset.yaml` of an adapter, which lies beside it as `<name>.yaml`."""
    declaration: dict[str, Any] = yaml.safe_load(Path(__file__).with_name(f"{name}.yaml").read_text())
    return declaration


def read_table(path: Path) -> pd.DataFrame:
    """Reads a parquet or CSV file.

    Raises:
        DatasetError: it is neither, or is damaged.
    """
    try:
        return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: cannot be read: {error}; download it again") from None
