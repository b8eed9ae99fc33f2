"""Whether this machine multiplies matrices right: numpy 1.23's OpenBLAS does not on some processors."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[Any]


class ArithmeticFault(RuntimeError):
    """Says that products of matrices are wrong here, and which setting mends it."""


def check_matmul() -> None:
    """Compares a few products of matrices with sums that no BLAS makes; milliseconds.

    On processors with AVX512 for bfloat16 (Cooper Lake, Sapphire Rapids), the OpenBLAS that numpy 1.23 brings
    picks kernels that give other numbers (github.com/numpy/numpy/issues/24903), without an error.

    Raises:
        ArithmeticFault: one differs by more than rounding.
    """
    rng = np.random.default_rng(0)
    for rows, inner, columns in ((625, 5, 625), (16, 128, 64)):
        for dtype in ("float32", "float64"):
            left: Matrix = rng.random((rows, inner)).astype(dtype)
            right: Matrix = rng.random((inner, columns)).astype(dtype)
            _compare(left @ right, left, right)
            _compare((right.T @ left.T).T, left, right)


def expect_equal(made: Matrix, expected: Matrix, what: str, *, within: float = 1e-4) -> None:
    """Takes what a library computed and the same by sums that no BLAS makes; they must agree.

    Raises:
        ArithmeticFault: some value differs by more than `within` of itself.
    """
    if not np.allclose(made, expected, rtol=within):
        raise ArithmeticFault(
            f"{what} wrongly on this processor; set OPENBLAS_CORETYPE=Haswell, which picks other kernels of "
            "OpenBLAS, and start again"
        )


def _compare(product: Matrix, left: Matrix, right: Matrix) -> None:
    expected = np.einsum("ik,kj->ij", left, right, optimize=False)
    expect_equal(product, expected, "numpy multiplies matrices")
