"""All Feast objects, built from the data set's `dataset.yaml`. Feast imports this file; nothing else does.

Reads the variables that `feature_store.yaml` names; the prepared data set is `var/data/<data set>`.
"""

from __future__ import annotations

import os
from pathlib import Path

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Array, Bool, FeastType, Float32, Int64, String

from contract import names
from contract.columns import Column, Role
from contract.dataset import DATASET_FILE, Dataset

FEAST_TYPES: dict[str, FeastType] = {"int64": Int64, "float32": Float32, "string": String, "bool": Bool}

var_dir = Path(os.environ["SHORTLIST_VAR_DIR"])
folder = var_dir / "data" / os.environ["SHORTLIST_DATASET"]
dataset = Dataset.load(folder)

user = Entity(name=names.USER, join_keys=[names.USER_ID], value_type=ValueType.INT64, description="A person.")
item = Entity(
    name=names.ITEM, join_keys=[names.ITEM_ID], value_type=ValueType.INT64, description="What is recommended."
)

DESCRIPTIONS = {
    names.USER_PROFILE: "Slow-moving facts about a user.",
    names.USER_ACTIVITY: "A user's recent items, counts and rates, as of the last snapshot.",
    names.ITEM_CATALOG: "What an item is, and whether it may be answered.",
    names.ITEM_ACTIVITY: "An item's counts and rates, as of the last snapshot.",
}


def field(name: str, column: Column) -> Field:
    """Takes a column of `dataset.yaml`, gives the Feast field that stores it."""
    element = FEAST_TYPES[str(column.dtype)]
    dtype = Array(element) if column.role is Role.LIST else element
    return Field(name=name, dtype=dtype, description=column.description)


def view(name: str) -> FeatureView:
    """Builds one of the four views; a row older than its ttl reads as missing."""
    return FeatureView(
        name=name,
        description=DESCRIPTIONS[name],
        entities=[user if name in names.USER_VIEWS else item],
        ttl=dataset.ttl(name),
        schema=[field(n, column) for n, column in dataset.view_columns(name).items()],
        source=FileSource(
            name=name,
            path=str(folder / "features" / f"{name}.parquet"),
            timestamp_field=names.EVENT_TIMESTAMP,
        ),
    )


# A data set may have no profile features at all; Feast would then take every column of the file for one.
views = {name: view(name) for name in names.VIEWS if dataset.view_columns(name)}
user_profile = views.get(names.USER_PROFILE)
user_activity = views[names.USER_ACTIVITY]
item_catalog = views[names.ITEM_CATALOG]
item_activity = views[names.ITEM_ACTIVITY]

user_features = FeatureService(
    name=names.USER_SERVICE, features=[views[n] for n in names.USER_VIEWS if n in views]
)
item_features = FeatureService(
    name=names.ITEM_SERVICE, features=[views[n] for n in names.ITEM_VIEWS if n in views]
)


def bundle_service(bundle: Path) -> FeatureService | None:
    """Names what a bundle reads. None where it is another data set's, or its features are gone."""
    trained_on = Dataset.load(bundle)
    reads = {name: list(trained_on.view_columns(name)) for name in views}
    stored = {name: set(dataset.view_columns(name)) for name in views}
    if trained_on.name != dataset.name or any(not set(reads[name]) <= stored[name] for name in views):
        return None
    return FeatureService(
        name=f"bundle_{bundle.name}",
        features=[views[name][columns] for name, columns in reads.items() if columns],
    )


bundles = sorted((var_dir / "bundles").glob(f"*/{DATASET_FILE}"))
for found in bundles:
    if not found.parent.is_symlink() and (service := bundle_service(found.parent)):
        globals()[service.name] = service  # Feast collects what is named in this module
