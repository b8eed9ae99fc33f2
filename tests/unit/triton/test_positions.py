"""Items are found by their ids, whether those lie close together or far apart."""

from __future__ import annotations

import numpy as np
import pytest

from contract.item_to_item import UNKNOWN
from contract.tensors import PAD_ID
from ensemble.stores.positions import Positions


@pytest.mark.parametrize("ids", [[5], [-3, -2, 0, 9], [-(2**62), 7, 2**62], [2**63 - 2, 2**63 - 1], []])
def test_every_id_has_its_position_and_no_other_has_one(ids: list[int]) -> None:
    positions = Positions(np.array(ids, dtype=np.int64))
    asked = np.array([*ids, PAD_ID, 2**63 - 1, 6, -4, 10, 1], dtype=np.int64)
    expected = [ids.index(one) if one in ids else UNKNOWN for one in asked.tolist()]
    assert positions.of(asked).tolist() == expected
    assert positions.of(asked[None, ::2]).tolist() == [expected[::2]]
