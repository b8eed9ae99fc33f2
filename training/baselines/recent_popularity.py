"""Recent popularity: the same list for everyone, by counts that fade."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import csr_matrix

from contract import names
from contract.arrays import Bools, Doubles, Floats, Ints
from training.data.prepared import Prepared
from training.examples.split import rows_of
from training.features.activity import event_times

HALF_LIVES = (1.0, 1 / 4, 1 / 16, 1 / 64, 1 / 256)
"""Half-lives that validation chooses from, as shares of the train part's span."""


class RecentPopularity:
    """Scores an item by its interactions, each worth half as much with every half-life of its age."""

    def __init__(self, items: Ints, ages: Doubles, item_count: int, half_life: float) -> None:
        """Takes the interactions' items (N,) and ages (N,), in the unit of `half_life`."""
        counts = np.bincount(items, np.exp2(-ages / half_life), minlength=item_count)
        self.counts: Floats = counts.astype(np.float32)

    @classmethod
    def of(cls, prepared: Prepared, counted: Bools, share: float, instant: datetime) -> RecentPopularity:
        """Counts some of the interactions (N,), by their ages at an instant; the half-life is a share of the
        time that the train part's timed rows span."""
        log, dataset = prepared.interactions, prepared.dataset
        item_ids = prepared.items[names.ITEM_ID].to_numpy(np.int64)
        items = rows_of(item_ids, log[names.ITEM_ID].to_numpy(np.int64))
        times = event_times(dataset, log).astype("int64").to_numpy()
        until = pd.Timestamp(prepared.split.train_until).value
        timed = times[log[dataset.timestamp].notna().to_numpy()]
        half_life = max((until - timed.min(initial=until)) * share, 1.0)
        counted = counted & (items >= 0)
        ages = (pd.Timestamp(instant).value - times[counted]).astype(np.float64)
        return cls(items[counted], ages, len(item_ids), half_life)

    def score(self, history: csr_matrix) -> npt.NDArray[np.float32]:
        """Takes users' histories (B,I), gives float32 (B,I), every row the same."""
        return np.repeat(self.counts[None], history.shape[0], axis=0)
