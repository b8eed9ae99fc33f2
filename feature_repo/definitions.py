"""All Feast objects, built from the data set's `dataset.yaml`.

Feast's own commands import this file and collect what is named in it, for the data set that the variables of
`feature_store.yaml` name; `python -m feature_repo` calls `feast_objects`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

from feast import Entity, FeatureService, FeatureView, Field, FileSource, PushSource, ValueType
from feast.types import Array, Bool, FeastType, Float32, Int64, String

from contract import names
from contract.bundles import bundles_folder
from contract.columns import Column
from contract.dataset import DATASET_FILE, Dataset
from contract.features import FOLDER, view_file
from feature_repo.computed import ACTIVITY

FEAST_TYPES: dict[str, FeastType] = {"int64": Int64, "float32": Float32, "string": String, "bool": Bool}
DESCRIPTIONS = {
    names.USER_PROFILE: "Slow-moving facts about a user.",
    names.USER_ACTIVITY: "A user's recent items, counts and rates, as of the last event.",
    names.ITEM_CATALOG: "What an item is, and whether it may be answered.",
    names.ITEM_ACTIVITY: "An item's counts and rates, as of the last event.",
}
FeastObject: TypeAlias = Entity | FeatureView | FeatureService


def live_source(view: str) -> str:
    """Names the push source of a view of activity."""
    return f"{view}_live"


def feast_objects(var_dir: Path, name: str) -> list[FeastObject]:
    """Builds the entities, views and services of the data set that is prepared in `var_dir/data/name`.

    Raises:
        DatasetError: its `dataset.yaml` is missing or wrong.
    """
    folder = var_dir / "data" / name
    dataset = Dataset.load(folder)
    user = Entity(
        name=names.USER, join_keys=[names.USER_ID], value_type=ValueType.INT64, description="A person."
    )
    item = Entity(
        name=names.ITEM,
        join_keys=[names.ITEM_ID],
        value_type=ValueType.INT64,
        description="What is recommended.",
    )
    # A data set may have no profile features at all; Feast would then take every column of the file for one.
    views = {
        view: _view(view, user if view in names.USER_VIEWS else item, dataset, folder / FOLDER)
        for view in names.VIEWS
        if dataset.view_columns(view)
    }
    services = [
        FeatureService(name=service, features=[views[view] for view in of if view in views])
        for service, of in ((names.USER_SERVICE, names.USER_VIEWS), (names.ITEM_SERVICE, names.ITEM_VIEWS))
    ]
    bundles = sorted(bundles_folder(var_dir).glob(f"*/{DATASET_FILE}"))
    for bundle in (found.parent for found in bundles if not found.parent.is_symlink()):
        if service := _bundle_service(bundle, dataset, views):
            services.append(service)
    return [user, item, *views.values(), *services]


def _view(name: str, entity: Entity, dataset: Dataset, folder: Path) -> FeatureView:
    """Builds one of the four views; a row older than its ttl reads as missing. Those of activity are pushed
    to as things happen; their files are what joins and materialising read."""
    stored = FileSource(name=name, path=str(folder / view_file(name)), timestamp_field=names.EVENT_TIMESTAMP)
    return FeatureView(
        name=name,
        description=DESCRIPTIONS[name],
        entities=[entity],
        ttl=dataset.ttl(name),
        schema=[_field(feature, column) for feature, column in dataset.view_columns(name).items()],
        source=_pushed(stored) if name in ACTIVITY else stored,
    )


def _pushed(stored: FileSource) -> PushSource:
    return PushSource(
        name=live_source(stored.name),
        batch_source=stored,
        description="Each event as it happens; `python -m live consume` writes what Feast would of a push.",
    )


def _field(name: str, column: Column) -> Field:
    element = FEAST_TYPES[str(column.dtype)]
    dtype = Array(element) if column.is_several else element
    return Field(name=name, dtype=dtype, description=column.description)


def _bundle_service(bundle: Path, dataset: Dataset, views: dict[str, FeatureView]) -> FeatureService | None:
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


if "SHORTLIST_DATASET" in os.environ:
    for made in feast_objects(Path(os.environ["SHORTLIST_VAR_DIR"]), os.environ["SHORTLIST_DATASET"]):
        globals()[f"{type(made).__name__}_{made.name}"] = made
