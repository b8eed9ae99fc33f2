"""A processor on which numpy multiplies wrongly is refused, with the remedy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from contract import arithmetic
from contract.arithmetic import ArithmeticFault, check_matmul
from ensemble.bundle import LoadedBundle


def test_this_machine_multiplies_right() -> None:
    check_matmul()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_wrong_product_is_refused_with_the_remedy(dtype: type[np.floating]) -> None:
    left, right = np.ones((4, 3), dtype), np.ones((3, 5), dtype)
    product = left @ right
    product[2, 3] *= 1.001
    with pytest.raises(ArithmeticFault, match="set OPENBLAS_CORETYPE=Haswell"):
        arithmetic._compare(product, left, right)


def test_no_bundle_is_opened_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(np, "einsum", lambda *_, **__: np.zeros(1))
    with pytest.raises(ArithmeticFault):
        LoadedBundle.open(tmp_path)
