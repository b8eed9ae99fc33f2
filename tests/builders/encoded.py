"""Encodes small data sets without NVTabular, by its codes: 0 padding, 1 null, 2 unknown, then the values."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from contract import names
from contract.columns import Role
from contract.encoders import OOV_CODE, Encoders, Field, Scale, Vocabulary
from training.data.prepared import Prepared, to_numpy

RECENT = (names.USER_RECENT_ITEM_IDS, names.USER_RECENT_POSITIVE_ITEM_IDS)


def encoders_of(prepared: Prepared) -> Encoders:
    """Makes encoders of every profile and catalogue column, from all rows of the two tables."""
    dataset = prepared.dataset
    fields: dict[str, Field] = {}
    vocabularies: dict[str, Vocabulary] = {}
    scales: dict[str, Scale] = {}
    tables = (
        (prepared.users, {names.USER_ID: dataset.users[names.USER_ID], **dataset.user_profile}),
        (prepared.items, {names.ITEM_ID: dataset.items[names.ITEM_ID], **dataset.item_catalog}),
    )
    for frame, columns in tables:
        for name, column in columns.items():
            raw: npt.NDArray[Any] = to_numpy(frame[name], column)
            if column.role is Role.NUMERIC:
                scales[name] = Scale(float(np.nanmean(raw)), float(np.nanstd(raw)))
                fields[name] = Field(name, "numeric")
                continue
            flat = raw.ravel()
            is_text = raw.dtype == object
            known = np.array([v is not None for v in flat]) if is_text else flat != names.NULL_INT
            values = np.unique(flat[known])
            vocabularies[name] = Vocabulary(values, np.arange(len(values)) + OOV_CODE + 1)
            kind: Literal["list", "categorical"] = "list" if column.role is Role.LIST else "categorical"
            length = column.max_length if column.role is Role.LIST else 1
            fields[name] = Field(name, kind, name, len(values) + OOV_CODE + 1, length)
    items = fields[names.ITEM_ID].cardinality
    for name in RECENT:
        fields[name] = Field(name, "list", names.ITEM_ID, items, dataset.activity.recent_items)
    return Encoders(fields, vocabularies, scales)
