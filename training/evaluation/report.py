"""Measures a trained chain on the test part, beside the baselines on the same split.

Features are as of the start of the test part and not updated in it; users without news to find are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from contract.arrays import Doubles
from training.metrics.lists import bootstrap


@dataclass
class Report:
    """Metrics by section, model and name; where asked for, with 95 % intervals over users."""

    is_full: bool
    sections: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    def add(self, section: str, model: str, values: Mapping[str, float | Doubles]) -> None:
        """Adds a model's metrics: numbers, or values per user, whose mean counts; not what nobody has."""
        row = self.sections.setdefault(section, {}).setdefault(model, {})
        for name, value in values.items():
            if not np.isfinite(value).any():
                continue
            if isinstance(value, np.ndarray):
                row[name] = float(np.nanmean(value))
                if self.is_full:
                    row[f"{name}_interval"] = list(bootstrap(value))
            else:
                row[name] = float(value)


def over_seeds(reports: Sequence[Report]) -> dict[str, dict[str, dict[str, Any]]]:
    """Averages the reports of several seeds, each figure over those that have it: one seed may give new items
    a share, say, and another none; `_seeds` is the standard deviation between them."""
    values: dict[tuple[str, str, str], list[Any]] = {}
    for report in reports:
        for section, models in report.sections.items():
            for model, row in models.items():
                for name, value in row.items():
                    values.setdefault((section, model, name), []).append(value)
    merged: dict[str, dict[str, dict[str, Any]]] = {}
    for (section, model, name), of_seeds in values.items():
        row = merged.setdefault(section, {}).setdefault(model, {})
        row[name] = np.mean(of_seeds, axis=0).tolist()
        if not name.endswith("_interval") and np.std(of_seeds) > 0:
            row[f"{name}_seeds"] = float(np.std(of_seeds, ddof=1))
    return merged
