"""The tables of embeddings that lie beside the models, as the stages read them."""

from __future__ import annotations

from collections.abc import Sequence

from contract.arrays import Array
from contract.bundle import TableSpec, Taker
from contract.tensors import PAD_ID
from ensemble.stores.embeddings.tiers import Embeddings

EMBEDDING_VERSION = "embedding_version"
LACKS_EMBEDDINGS = "lacks_embeddings"
CANDIDATES_LACK_EMBEDDINGS = "candidates_lack_embeddings"


class BesideTables:
    """Reads rows of the tables for a model. The first stage takes a version, the newest; every later one
    reads as of it, so that an answer is of one update."""

    def __init__(self, tables: Sequence[TableSpec], embeddings: Embeddings) -> None:
        self.tables = {table.column: table for table in tables}
        self.embeddings = embeddings

    @property
    def version(self) -> int:
        """The newest update."""
        return self.embeddings.version

    def read(self, column: str, ids: Array, version: int) -> tuple[dict[Taker, Array], Array]:
        """Takes ids (...), gives for each model what it takes of their rows, (..., width), and which rows
        could not be read, (...). Padding has the row of an unknown id.

        Raises:
            StageError: `dependency`, the update is too old.
        """
        flat = ids.ravel()
        is_there = flat != PAD_ID
        found = self.embeddings.read(column, flat, version)
        rows = found.rows.reshape(*ids.shape, -1)
        table = self.tables[column]
        parts: dict[Taker, Array] = {model: rows[..., table.part(model)] for model in table.parts}
        return parts, (found.is_lacking & is_there).reshape(ids.shape)
