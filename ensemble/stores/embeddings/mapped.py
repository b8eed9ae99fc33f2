"""Rows of embeddings from the bundle's own files: the twin of the levels, and what does without them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from contract.arrays import Floats, Ids, Ints
from contract.encoders import OOV_CODE, Vocabulary
from ensemble.stores.embeddings.tiers import EmbeddingRows


@dataclass(frozen=True, eq=False)
class MappedTable:
    """A table's file, mapped, float32 (codes, W), and the vocabulary that gives an id's code."""

    rows: Floats
    vocabulary: Vocabulary

    @property
    def unknown(self) -> Floats:
        """The row of an unknown id, (W,)."""
        return np.array(self.rows[OOV_CODE])

    @property
    def known(self) -> tuple[Ids, Ints]:
        """The ids that it has rows of (N,), and their codes, the most frequent first."""
        order = np.argsort(self.vocabulary.codes)
        return np.asarray(self.vocabulary.values, dtype=np.int64)[order], self.vocabulary.codes[order]


class MappedEmbeddings:
    """Reads every row from the files, and knows of no updates."""

    version = 0

    def __init__(self, tables: Mapping[str, MappedTable]) -> None:
        """Takes the tables by column."""
        self.tables = dict(tables)

    def read(self, column: str, ids: Ids, version: int) -> EmbeddingRows:
        """Reads rows as they were trained."""
        del version
        table = self.tables[column]
        codes = table.vocabulary.encode(ids, null_code=OOV_CODE)
        return EmbeddingRows(np.asarray(table.rows[codes]), np.zeros(len(ids), dtype=np.bool_))
