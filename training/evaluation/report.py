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
    """Averages the reports of several seeds; `_seeds` is the standard deviation between them."""
    first = reports[0].sections
    merged: dict[str, dict[str, dict[str, Any]]] = {}
    for section, models in first.items():
        merged[section] = {}
        for model, row in models.items():
            rows = [
                report.sections[section][model] for report in reports if model in report.sections[section]
            ]
            merged[section][model] = dict(row)
            for name in row:
                values = np.array([other[name] for other in rows if name in other], dtype=np.float64)
                if name.endswith("_interval"):
                    merged[section][model][name] = values.mean(axis=0).tolist()
                    continue
                merged[section][model][name] = float(values.mean())
                if len(values) > 1 and values.std() > 0:
                    merged[section][model][f"{name}_seeds"] = float(values.std(ddof=1))
    return merged
