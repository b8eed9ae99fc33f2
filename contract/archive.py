"""The slates that batch runs left in files: of users who are gone, none is kept, whoever finds them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from contract import names
from contract.dataset import DatasetError
from contract.ids import IdDtype, number_of


def forget_users(files: Iterable[Path], user_ids: npt.NDArray[np.int64]) -> int:
    """Takes files of slates and users' numbers (U,), writes each that holds rows of theirs anew without them,
    and gives the number of rows that went.

    Raises:
        DatasetError: a file cannot be read, or not be written.
    """
    rows = 0
    for path in files if len(user_ids) else ():
        try:
            rows += _forget(path, user_ids)
        except FileNotFoundError:
            pass  # its run's folder was cleaned up meanwhile
        except (OSError, ValueError) as error:
            raise DatasetError(
                f"{path}: removed users are still in it ({error}); mend that, or delete the file, "
                "and run this again"
            ) from None
    return rows


def _forget(path: Path, user_ids: npt.NDArray[np.int64]) -> int:
    owners = pq.read_table(path, columns=[names.USER_ID])[names.USER_ID]
    dtype: IdDtype = "string" if pa.types.is_string(owners.type) else "int64"
    doomed = set(user_ids.tolist())
    gone = np.array(
        [own is not None and number_of(own, dtype) in doomed for own in owners.to_pylist()], np.bool_
    )
    if not gone.any():
        return 0
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        pq.write_table(pq.read_table(path).filter(pa.array(~gone)), temporary, compression="zstd")
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
    return int(np.count_nonzero(gone))
