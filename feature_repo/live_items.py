"""Materialising leaves alone what was put or taken out while serving: of that, Redis holds the truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pyarrow as pa

from contract import names
from feature_repo.computed import Computed, ids_of
from feature_repo.difference import MISSING, Ids, Stored


def without_live_items(
    computed: Computed, stored: Mapping[str, Stored], put: Ids, gone: Ids
) -> tuple[Computed, dict[str, Stored]]:
    """Takes what was computed, what Redis holds, and the items that were put and taken out; gives both
    without what is not to be touched.

    Of an item that was put, its row of the catalogue counts as neither computed nor stored, and its activity
    is written where it was computed. One that was taken out has no row at all.
    """
    views, remaining = dict(computed.views), dict(stored)
    activity = ids_of(views[names.ITEM_ACTIVITY])
    for view, left_out, untouched in (
        (names.ITEM_CATALOG, np.union1d(put, gone), put),
        (names.ITEM_ACTIVITY, gone, np.setdiff1d(put, activity)),
    ):
        ids = ids_of(views[view])
        views[view] = views[view].filter(pa.array(~np.isin(ids, left_out)))
        of_view = stored[view]
        is_untouched = np.isin(of_view.ids, untouched)
        remaining[view] = Stored(of_view.ids, np.where(is_untouched, MISSING, of_view.seconds))
    return replace(computed, views=views), remaining
