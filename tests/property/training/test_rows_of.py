"""Rows of ids are the same, however close the ids lie and wherever they begin."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from contract.arrays import Ints
from training.examples.split import rows_of

LEAST, MOST = np.iinfo(np.int64).min, np.iinfo(np.int64).max
START = st.sampled_from([LEAST, LEAST + 1, -3, 0, 7, MOST - 40])


@given(
    START,
    st.lists(st.integers(0, 40), unique=True, max_size=12),
    arrays.arrays(np.int64, st.tuples(st.integers(0, 4), st.integers(0, 9)), elements=st.integers(-50, 50)),
    st.sampled_from([1, 10**9]),
)
def test_every_wanted_id_is_found_where_it_is(start: int, gaps: list[int], near: Ints, apart: int) -> None:
    ids = np.array(sorted(start + gap for gap in gaps), dtype=np.int64) // apart
    ids = np.unique(ids)
    wanted = np.where(near < -45, LEAST, near + start // apart)
    row = {int(value): at for at, value in enumerate(ids)}
    assert rows_of(ids, wanted).tolist() == [[row.get(int(v), -1) for v in line] for line in wanted]
