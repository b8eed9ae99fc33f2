"""What there is to retrieve: the catalogue and all that lies by its positions, changed as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from contract.arrays import Bools
from contract.bundle import SourceSpec
from contract.rules.attributes import ItemAttributes
from ensemble.bundle import LoadedBundle
from ensemble.sources.eligible import EligibleItems
from ensemble.sources.kinds import sources_of
from ensemble.sources.panel import Panel
from ensemble.sources.source import Source
from ensemble.stores.catalogue import Catalogue, LiveItems
from ensemble.stores.items import ItemTable
from ensemble.stores.vectors import VectorIndex


@dataclass(frozen=True, eq=False)
class Offer:
    """What there is to retrieve, as of one instant; a stage takes it once for a batch, so that all positions
    are of the same catalogue. `is_new` (I + L + 1,) marks the new items; the last is no item."""

    catalogue: Catalogue
    panel: Panel
    eligible: EligibleItems
    is_new: Bools
    attributes_of: Callable[[], ItemAttributes]

    @cached_property
    def attributes(self) -> ItemAttributes:
        """What the items hold in the columns that may be filtered on, with a last row for no item."""
        return self.attributes_of()


class Offers:
    """Holds the newest offer: that of the bundle, until items come or change."""

    def __init__(
        self,
        bundle: LoadedBundle,
        index: VectorIndex,
        items: ItemTable,
        others: Sequence[Source] = (),
        share_of_new: float = 0.0,
    ) -> None:
        """Takes the index of the bundle's vectors, the table of the items, sources beside the bundle's, and
        the share of the candidates that new items have at least.

        Raises:
            BundleError: a source's file is not of the bundle's catalogue.
        """
        self._bundle, self._index, self._items, self._others = bundle, index, items, tuple(others)
        self._specs = with_share_of_new(bundle.manifest.sources, share_of_new)
        self._catalogue = Catalogue(bundle.item_ids, bundle.item_vectors)
        self.current = self._made(self._catalogue, index, bundle.is_new, lambda: bundle.attributes)

    def renew(self, live: LiveItems) -> None:
        """Puts what is known beside the bundle in the place of what was. The table must hold the new items
        already."""
        bundle, catalogue = self._bundle, self._catalogue.grown(live)
        is_new = np.insert(bundle.is_new, len(bundle.item_ids), np.ones(len(live.new_ids), dtype=np.bool_))
        index = self._index.grown(catalogue, live)
        self.current = self._made(
            catalogue, index, is_new, lambda: live.changed(bundle.attributes, catalogue)
        )

    def _made(
        self,
        catalogue: Catalogue,
        index: VectorIndex,
        is_new: Bools,
        attributes: Callable[[], ItemAttributes],
    ) -> Offer:
        bundle = self._bundle
        sources = sources_of(bundle.folder, self._specs, catalogue, index)
        offer: Offer
        eligible = EligibleItems(catalogue.positions, self._items, lambda: offer.attributes)
        unknown = bundle.manifest.order.unknown
        panel = Panel((*sources, *self._others), catalogue, unknown.weighed if unknown else ())
        offer = Offer(catalogue, panel, eligible, is_new, attributes)
        return offer


def with_share_of_new(specs: Sequence[SourceSpec], least: float) -> tuple[SourceSpec, ...]:
    """Gives the source of new items a share of the candidates, at least, and the others what that leaves: a
    share of the places cannot be kept without candidates."""
    own = sum(one.share for one in specs if one.kind == "new")
    if least <= own or all(one.kind != "new" for one in specs):
        return tuple(specs)
    left = (1 - least) / (1 - own)
    shares = [least if one.kind == "new" else one.share * left for one in specs]
    return tuple(one.model_copy(update={"share": share}) for one, share in zip(specs, shares, strict=True))
