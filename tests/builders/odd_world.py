"""A world of two tastes whose columns are called, and hold, what people's columns are called and hold.

Readers of an even id choose items of an even id, the others odd ones. The last items are new: nobody has
chosen them, and their embeddings alone say whose they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tests.builders.datasets import quiet, write_own
from training.config import QualityLevel, TrainingSettings
from training.data.prepared import Prepared
from training.data.sources import catalog

USERS, ITEMS, NEW, ROWS = 60, 40, 6, 1_500
ODD = ("item_page count", "item_año-ß", "item_a/b", "item_1st", "item_x__values", "item_select")
DECLARATION: dict[str, Any] = {
    "name": "odd",
    "users": {
        "user_id": {"role": "id"},
        "user_group by": {"role": "categorical", "dtype": "string"},
        "user_v/ec": {"role": "embedding"},
    },
    "items": {
        "item_id": {"role": "id"},
        "item_name": {"role": "display_name"},
        "item_page count": {"role": "numeric", "is_log": True, "is_filterable": True},
        "item_año-ß": {"role": "categorical", "dtype": "string", "is_filterable": True, "is_affinity": True},
        "item_a/b": {"role": "list", "is_filterable": True, "is_affinity": True},
        "item_1st": {"role": "numeric"},
        "item_x__values": {"role": "list", "dtype": "string"},
        "item_select": {"role": "categorical", "is_filterable": True},
        "item_v ec": {"role": "embedding"},
    },
    "interactions": {
        "user_id": {"role": "id"},
        "item_id": {"role": "id"},
        "timestamp": {"role": "timestamp"},
        "is taken, or not": {"role": "label", "weight": 3},
        "is_late": {"role": "label"},
        "context_group by": {"role": "context"},
    },
}


def odd_tables() -> dict[str, pd.DataFrame]:
    """Makes the three tables; the new items' features are null but for the embedding."""
    rng = np.random.default_rng(5)
    items = np.arange(ITEMS)
    new = items >= ITEMS - NEW
    reader = rng.integers(0, USERS, ROWS)
    item = rng.integers(0, (ITEMS - NEW) // 2, ROWS) * 2
    item = np.where(rng.random(ROWS) < 0.95, item + reader % 2, item + 1 - reader % 2)
    direction = rng.normal(size=(2, 8))
    taste = direction[items % 2] + 0.1 * rng.normal(size=(ITEMS, 8))
    return {
        "users": pd.DataFrame(
            {
                "user_id": range(USERS),
                "user_group by": [None if u % 7 == 0 else f"g{u % 3}" for u in range(USERS)],
                "user_v/ec": [None if u % 5 == 0 else [0.5, float(u % 4)] for u in range(USERS)],
            }
        ),
        "items": pd.DataFrame(
            {
                "item_id": items,
                "item_name": [f"№ {i}" for i in items],
                "item_page count": [None if new[i] or i % 9 == 0 else 10.0 * i for i in items],
                "item_año-ß": ["same"] * ITEMS,
                "item_a/b": [_codes(int(i)) if not new[i] else None for i in items],
                "item_1st": [-1.0] * ITEMS,
                "item_x__values": [
                    [["a", None], [], None, ["b"]][i % 4] if not new[i] else [] for i in items
                ],
                "item_select": pd.array([7 if new[i] else None for i in items], "Int64"),
                "item_v ec": list(taste.astype("float32")),
            }
        ),
        "interactions": pd.DataFrame(
            {
                "user_id": reader,
                "item_id": item,
                "timestamp": pd.date_range("2025-03-01", periods=ROWS, freq="20min", tz="UTC"),
                "is taken, or not": rng.integers(0, 2, ROWS),
                "is_late": pd.array([None] * (ROWS - 50) + [1, 0] * 25, "Int64"),
                "context_group by": rng.integers(0, 2, ROWS),
            }
        ),
    }


def _codes(item: int) -> list[int]:
    return [1, 2, 3][: item % 4] if item % 11 else list(range(3_000))


def write_odd(folder: Path) -> Path:
    """Writes its files."""
    return write_own(folder, odd_tables(), DECLARATION)


def odd_world(folder: Path) -> Prepared:
    """Prepares it in `folder/var`."""
    written = write_odd(folder / "odd")
    return catalog.prepare(str(written), folder, folder / "var", say=quiet)


def quick_settings(var_dir: Path) -> TrainingSettings:
    """Settings with which a small world trains in seconds."""
    settings = TrainingSettings(var_dir=var_dir, quality=QualityLevel.TINY, threads=1).at_quality()
    return settings.model_copy(update={"dlrm": settings.dlrm.model_copy(update={"epochs": 2, "members": 1})})
