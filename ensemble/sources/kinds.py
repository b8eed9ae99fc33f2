"""The sources that a bundle names, by their kinds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from contract.arrays import Array
from contract.bundle import BundleError, SourceSpec
from contract.item_to_item import ItemToItem
from ensemble.sources.item_to_item import ItemToItemSource
from ensemble.sources.nearest import NearestItems
from ensemble.sources.new import NewItems
from ensemble.sources.ranked import RankedItems
from ensemble.sources.source import Source
from ensemble.stores.catalogue import Catalogue
from ensemble.stores.vectors import VectorIndex

Made = Callable[[SourceSpec, Path, Catalogue, VectorIndex], Source]
KINDS: Mapping[str, Made] = {
    "nearest": lambda spec, _, catalogue, index: NearestItems(spec, index, catalogue),
    "item_to_item": lambda spec, path, catalogue, _: ItemToItemSource(
        spec, ItemToItem.load(path), catalogue.bundle_positions
    ),
    "popular": lambda spec, path, catalogue, _: RankedItems(spec, item_scores(path, catalogue)),
    "new": lambda spec, path, catalogue, _: NewItems(spec, item_scores(path, catalogue), catalogue),
}


def sources_of(
    folder: Path, specs: Sequence[SourceSpec], catalogue: Catalogue, index: VectorIndex
) -> tuple[Source, ...]:
    """Makes the sources of the bundle in a folder, in their order.

    Raises:
        BundleError: a table is not one of the bundle's catalogue.
    """
    made = []
    for spec in specs:
        path = folder / str(spec.file)
        try:
            source = KINDS[spec.kind](spec, path, catalogue, index)
            if isinstance(source, ItemToItemSource) and len(source.table.items) != len(catalogue.bundle_ids):
                raise ValueError(f"has {len(source.table.items)} rows, not one per item; train again")
        except (ValueError, EOFError) as error:
            raise BundleError(f"{path}: {error}") from None
        made.append(source)
    return tuple(made)


def item_scores(path: Path, catalogue: Catalogue) -> Array:
    """Reads what a source says of each item, whoever asks, float32 (I + L,); of those that came later, 0.

    Raises:
        ValueError: the file holds something else.
    """
    scores = np.load(path, allow_pickle=False)
    is_one_each = scores.dtype == np.float32 and scores.shape == catalogue.bundle_ids.shape
    if not is_one_each or not np.isfinite(scores).all():
        raise ValueError("must be finite float32, one per item of the catalogue; train again")
    return np.append(scores, np.zeros(len(catalogue.new_ids), dtype=np.float32))
