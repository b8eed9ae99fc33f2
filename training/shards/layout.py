"""What a folder of shards holds. Its header is written last: without it there are no shards.

header.json      what is below, the lanes, the counts of rows and users
encoders.npz     the encoders, and so the fields, of all columns
catalogue-N.bin  the items' encoded columns, an array each
facts-N.bin      `ExampleFacts`, an array each
rows/            blocks of rows, a sample each, in MDS, the format of mosaicml-streaming
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from pydantic import BaseModel, ConfigDict, PositiveInt

from contract.arrays import Array
from contract.encoders import Field

HEADER_FILE, ENCODERS_FILE, ROWS = "header.json", "encoders.npz", "rows"
HASH = "xxh64"
"""Of every file of rows, by which a reader tells that it is damaged."""
ROW = "row"
"""A block's column that says which examples its rows are: places among the facts."""
FACTS_OF = ("users", "items", "is_timed", "is_target", "age_days", "weights")
_JUST_BEFORE = "just before: "


class ShardError(Exception):
    """Says in one line what is wrong with shards, or with where they are to lie, and what to do."""


class ArrayFile(BaseModel):
    """An array in a file of its own, its elements and nothing else."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    name: str
    dtype: str
    shape: tuple[int, ...]


class ShardsHeader(BaseModel):
    """What a folder of shards says of itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: str
    rows: PositiveInt
    users: PositiveInt
    span_days: float
    """Of the timed examples, as `ExampleFacts.span_days`."""
    lanes: PositiveInt
    """The blocks, a multiple of it, are read side by side in so many lanes; a rank reads whole lanes."""
    catalogue: tuple[ArrayFile, ...]
    facts: tuple[ArrayFile, ...]

    def check_ranks(self, ranks: int) -> None:
        """Looks whether so many ranks can read the lanes.

        Raises:
            ShardError: they do not divide them.
        """
        if self.lanes % ranks:
            fitting = ", ".join(str(n) for n in range(1, self.lanes + 1) if not self.lanes % n)
            raise ShardError(
                f"{ranks} ranks do not fit shards of {self.lanes} lanes: take {fitting}, or write them with "
                f"SHORTLIST_SHARD_LANES={math.lcm(self.lanes, ranks)}"
            )


def just_before(name: str) -> str:
    """Names the column of a block that holds a list as of just before the example."""
    return _JUST_BEFORE + name


def is_just_before(name: str) -> bool:
    """Whether a column of a block is such a list."""
    return name.startswith(_JUST_BEFORE)


def narrow(columns: Mapping[str, Array], fields: Mapping[str, Field]) -> dict[str, Array]:
    """Gives codes the smallest unsigned integers that hold all of their column; the rest stays."""
    narrowed = {}
    for name, values in columns.items():
        field = fields[name.removeprefix(_JUST_BEFORE)]
        narrowed[name] = values.astype(np.min_scalar_type(field.cardinality)) if field.cardinality else values
    return narrowed


def widen(values: Array) -> Array:
    """Gives codes back as int64; the rest stays."""
    return values.astype(np.int64) if values.dtype.kind == "u" else values
