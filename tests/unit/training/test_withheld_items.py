from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from contract import names
from contract.arrays import Array
from contract.bundle import OrderSpec
from contract.encoders import OOV_CODE, Encoders
from tests.builders.datasets import small_world
from tests.builders.encoded import encoders_of
from training.data.prepared import Prepared
from training.evaluation.new_items import assess_new_items, choose_items
from training.examples.positives import UserHistories, item_columns
from training.slates.new_items import new_items
from training.slates.slates import Learned, Retriever
from training.slates.sources import POPULAR, SourceForm, fit_source

NO_RANKER: Any = None


class KnownFirst:
    """Ranks items with a code of their own before those without."""

    name = "known first"
    user_features = item_features = (names.ITEM_ID,)
    score_range = (0.0, 1.0)

    def encode_users(self, arrays: Mapping[str, Array]) -> Array:
        return np.ones((len(arrays[names.USER_ID]), 1), np.float32)

    def encode_items(self, arrays: Mapping[str, Array]) -> Array:
        has_code: Array = (arrays[names.ITEM_ID] != OOV_CODE).astype(np.float32)
        return has_code[:, None]


def fit(prepared: Prepared, encoders: Encoders) -> Retriever:
    model: Any = KnownFirst()
    return Retriever(model, UserHistories.of(prepared, encoders), item_columns(prepared, encoders))


def test_withheld_items_are_unknown_to_who_ranks_them_as_new(tmp_path: Path) -> None:
    world = small_world(tmp_path)
    encoders, share, remembered = encoders_of(world), 0.2, []

    def remember(prepared: Prepared, forgetful: Encoders) -> Retriever:
        remembered.append((prepared, forgetful))
        return fit(prepared, forgetful)

    known = fit(world, encoders)
    vectors = known.model.encode_items(known.catalogue)
    newest = new_items(np.zeros(len(vectors), np.bool_), vectors).with_share(0.5)
    popular = fit_source(world, SourceForm(POPULAR), world.split.train_until).with_share(0.2)
    learned = Learned(encoders, known, NO_RANKER, {}, OrderSpec(), (popular, newest))
    found = assess_new_items(world, learned, remember, 0, 20, share)
    withheld = choose_items(world, share, 0)
    ids = world.items[names.ITEM_ID].to_numpy(np.int64)
    assert 0.1 < withheld.mean() < 0.3

    (prepared, forgetful), *_ = remembered
    assert prepared.split == world.split
    remaining = world.interactions[~world.interactions[names.ITEM_ID].isin(ids[withheld])]
    assert len(prepared.interactions) == len(remaining)
    assert not prepared.interactions[names.ITEM_ID].isin(ids[withheld]).any()
    codes = forgetful.encode(names.ITEM_ID, ids)
    np.testing.assert_array_equal(codes == OOV_CODE, withheld)
    np.testing.assert_array_equal(codes[~withheld], encoders.encode(names.ITEM_ID, ids)[~withheld])

    # About 95 of 120 items come before the withheld ones, less what a user has seen.
    assert len(found["known first, as new"]["recall@10"]) > 20
    assert found["known first, as new"]["recall@10"].max() == 0
    assert found["known first, as known"]["recall@10"].max() > 0

    # Half of the places are kept for what is new, in the second training alone.
    assert found["all sources, as new"]["recall@10"].mean() > 0
    assert found["all sources, as known"]["recall@10"].mean() > 0
