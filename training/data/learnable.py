"""Whether there is anything to learn in a data set whose tables are as they should be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd

from contract import names
from contract.dataset import ANY, Dataset
from training.data.prepared import default_split

LEAST_ROWS = 3
"""Interactions that are split: one each to train, to validate and to test."""


def unlearnable(
    log: pd.DataFrame, items: pd.DataFrame, dataset: Dataset, files: Mapping[str, str]
) -> Iterator[str]:
    """Says what the train part lacks: both models need the choice of an item that is known, and a target that
    is 1. Takes tables without another problem, and what the user calls their files."""
    file = files["interactions"]
    if len(log) < LEAST_ROWS:
        yield (
            f"{file}: column {names.ITEM_ID}: {len(log)} rows, at least {LEAST_ROWS} are needed, one each to "
            "train, to validate and to test; bring more"
        )
        return
    at = log[dataset.timestamp]
    end = (dataset.split or default_split(at)).train_until
    in_train = at.isna() | (at < end)
    where = f"the train part, {int(in_train.sum())} rows before {end:%Y-%m-%d %H:%M} UTC"
    is_known = log[names.ITEM_ID].isin(items[names.ITEM_ID])
    wanted = {dataset.target: pd.Series(True, log.index)}
    if dataset.retrieval_positives not in ("", ANY):
        wanted[dataset.retrieval_positives] = is_known
    elif not (in_train & is_known).any():
        yield f"{file}: column {names.ITEM_ID} names no item of {files['items']} in {where}; add their rows"
    for label, counted in wanted.items():
        positive = (log[label] == 1).fillna(False).astype(bool) & counted
        if not (positive & in_train).any():
            yield (
                f"{file}: column {label} is 1 nowhere in {where}, and in {int(positive.sum())} later rows: "
                f"nothing to learn; {_remedy(at, at[positive].min())}"
            )


def _remedy(at: pd.Series, first: pd.Timestamp) -> str:
    """Proposes a split whose train part has the instant `first`, where rows are left for the others."""
    later = at[at > first].drop_duplicates().sort_values(ignore_index=True)
    if pd.isna(first) or len(later) < LEAST_ROWS - 1:
        return "name another label, or bring more rows"
    train = min(int(0.8 * len(later)), len(later) - 2)
    validate = max(train + 1, int(0.9 * len(later)))
    ends = (later[train], later[validate], later.iloc[-1] + pd.Timedelta(seconds=1))
    keys = ("train_until", "validate_until", "test_until")
    instants = ", ".join(f"{key}: '{end.isoformat()}'" for key, end in zip(keys, ends, strict=True))
    return f"name another label, or add `split: {{{instants}}}`"
