"""What travels as one tensor is what was put into it, to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from contract.tensors import ANSWER, ANSWER_TENSORS, REQUEST_TENSORS, Tensor, pack, request_layout, unpack

LAYOUTS = st.sampled_from([ANSWER_TENSORS, REQUEST_TENSORS, request_layout(["context_tab", "context_hour"])])
ODD = tuple(Tensor(f"of_{width}", np.float32, width) for width in (1, 2, 3))


@st.composite
def rows(draw: Any) -> tuple[tuple[Tensor, ...], dict[str, np.ndarray]]:
    layout = draw(LAYOUTS | st.just(ODD))
    count = draw(st.integers(0, 4))
    return layout, {t.name: draw(arrays.arrays(t.dtype, (count, t.width))) for t in layout}


@given(rows(), st.data())
def test_unpacked_rows_are_those_that_were_packed(
    made: tuple[tuple[Tensor, ...], dict[str, np.ndarray]], data: Any
) -> None:
    layout, tensors = made
    packed = pack(tensors, layout)
    assert packed.dtype == np.int64
    some = data.draw(st.lists(st.integers(0, len(packed) - 1), max_size=5)) if len(packed) else []
    for travelled, places in ((packed, slice(None)), (packed[some], some), (packed[1:], slice(1, None))):
        found = unpack(np.frombuffer(travelled.tobytes(), np.int64).reshape(travelled.shape), layout)
        assert list(found) == [t.name for t in layout]
        for t in layout:
            assert found[t.name].dtype == t.dtype
            assert found[t.name].shape == (len(travelled), t.width)
            assert found[t.name].tobytes() == tensors[t.name][places].tobytes()


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((2, ANSWER.width - 1), np.int64), ((2, ANSWER.width), np.float64), ((ANSWER.width,), np.int64)],
)
def test_another_width_or_dtype_is_refused(shape: tuple[int, ...], dtype: type) -> None:
    wrong: np.ndarray = np.zeros(shape, dtype)
    with pytest.raises(ValueError, match=rf"expected int64 \(B,{ANSWER.width}\), got"):
        unpack(wrong, ANSWER_TENSORS)


def test_a_tensor_of_another_dtype_is_not_packed() -> None:
    tensors = {t.name: np.zeros((1, t.width), t.dtype) for t in REQUEST_TENSORS}
    with pytest.raises(TypeError):
        pack(tensors | {"n": np.ones((1, 1))}, REQUEST_TENSORS)
