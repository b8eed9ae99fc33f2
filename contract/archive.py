"""Files of rows that are users': of users who are gone, none is kept, whoever finds them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from contract import names
from contract.dataset import DatasetError
from contract.ids import OwnId, number_of
from contract.whole_file import whole_file


def forget_users(files: Iterable[Path], user_ids: npt.NDArray[np.int64]) -> int:
    """Takes files of slates and users' numbers (U,), writes each that holds rows of theirs anew without them,
    and gives the number of rows that went.

    Raises:
        DatasetError: a file cannot be read, or not be written.
    """
    doomed = set(user_ids.tolist())

    def is_gone(own: OwnId | None) -> bool:
        return own is not None and number_of_any(own) in doomed

    return forget_rows(files if doomed else (), [names.USER_ID], is_gone)


def forget_rows(files: Iterable[Path], columns: Sequence[str], is_gone: Callable[..., bool]) -> int:
    """Writes each Parquet file anew that holds rows which are gone, as their values in some columns tell,
    without them; gives the number of rows that went.

    Raises:
        DatasetError: a file cannot be read, or not be written.
    """
    rows = 0
    for path in files:
        try:
            rows += _forget(path, columns, is_gone)
        except FileNotFoundError:
            pass  # its run's folder was cleaned up, or its hour merged: whoever comes next finds it there
        except (OSError, ValueError) as error:
            raise DatasetError(
                f"{path}: removed users are still in it ({error}); mend that, or delete the file, "
                "and run this again"
            ) from None
    return rows


def number_of_any(own: OwnId) -> int:
    """Gives the number of a user's id as a row has it: a text's, or the integer itself, nobody's included."""
    return number_of(own, "string") if isinstance(own, str) else own


def _forget(path: Path, columns: Sequence[str], is_gone: Callable[..., bool]) -> int:
    table = pq.read_table(path, columns=[*columns], partitioning=None)
    values = zip(*(table[name].to_pylist() for name in columns), strict=True)
    gone = np.array([is_gone(*row) for row in values], dtype=np.bool_)
    if not gone.any():
        return 0
    with whole_file(path) as file:
        remaining = pq.read_table(path, partitioning=None).filter(pa.array(~gone))
        pq.write_table(remaining, file, compression="zstd")
    return int(np.count_nonzero(gone))
