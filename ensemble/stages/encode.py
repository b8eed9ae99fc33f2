"""Encodes the user: raw columns into codes, codes into the user vector."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from merlin.schema import Schema

from contract.arrays import Array, filled
from contract.bundle import RANKER, USER_TOWER, Inputs
from contract.encoders import OOV_CODE, Encoders
from contract.names import USER_ID
from contract.tensors import PAD_ID
from ensemble.bundle import Tower
from ensemble.stage import Stage, Tensors, tensor
from ensemble.stages.beside import EMBEDDING_VERSION, LACKS_EMBEDDINGS, BesideTables
from ensemble.stages.lookup import encoded, packed_tensors
from ensemble.stores.catalogue import Catalogue

IS_UNKNOWN_ITEM = "is_unknown_item"
FARTHEST = np.float32(1e6)
"""Standard deviations from the mean, the most that a number of a request is taken for: no value that a scale
was fitted on is as far, and a model in which a number overflows gives no score."""


class EncodeUser(Stage):
    """Encodes what is known of user and context for both models, and runs the user tower.

    A value that training never saw has the out-of-vocabulary code, a missing one the null code: an unknown
    user, and nobody, gets the vector that training gave to withheld ids. Where items like another are wanted,
    that item's vector stands in the user's place. A tower that fails, fails the request. Of a column whose
    table lies beside the models, its rows take the place of the codes.
    """

    def __init__(
        self,
        tower: Tower,
        ranked: Inputs,
        encoders: Encoders,
        catalogue: Callable[[], Catalogue],
        tables: BesideTables,
    ) -> None:
        """Takes what the ranker takes of users; nothing, where it is not run. And what gives the catalogue as
        it is now."""
        super().__init__()
        self.tables = tables
        self.tower, self.ranked, self.encoders = tower, ranked, encoders
        self.catalogue = catalogue
        self.columns = tuple(dict.fromkeys((*tower.features, *self.ranked.columns)))
        self.reads = (*self.columns, "like_item_id", "user_features")

    @property
    def writes(self) -> Schema:
        """What the ranker takes of users, packed, `user_vector` (B,D), whether the item is unknown that
        others are to be like, (B,1), as of which update embeddings are read, and whether a row could not be,
        both (B,1)."""
        width = self.catalogue().width
        packed = packed_tensors(self.ranked, "user_")
        return Schema(
            [
                *packed,
                tensor("user_vector", np.float32, width),
                tensor(IS_UNKNOWN_ITEM, np.bool_, 1),
                tensor(EMBEDDING_VERSION, np.int64, 1),
                tensor(LACKS_EMBEDDINGS, np.bool_, 1),
            ]
        )

    def load_artifacts(self, artifact_path: str | None = None) -> None:
        """Loads the user tower."""
        del artifact_path
        self.tower.open()

    def run(  # type: ignore[override]
        self, like_item_id: Array, user_features: Array, **columns: Array
    ) -> Tensors:
        """Encodes each column, then runs the tower on those that it takes."""
        codes: Tensors = {}
        outside = [name for name in columns if name in self.tables.tables]
        for name, raw in columns.items():
            if name in outside:
                continue
            is_several = self.encoders.fields[name].kind in ("list", "embedding")
            codes[name] = self.encoders.encode(name, raw if is_several else raw[:, 0])
        if user_features.any():
            for name in codes:
                if self.encoders.fields[name].kind == "numeric":
                    codes[name] = np.clip(codes[name], -FARTHEST, FARTHEST)
        if USER_ID in codes:
            codes[USER_ID] = np.where(columns[USER_ID][:, 0] == PAD_ID, OOV_CODE, codes[USER_ID])
        is_unknown = np.zeros(like_item_id.shape, dtype=np.bool_)
        version, is_lacking = self.tables.version, np.zeros_like(is_unknown)
        taken = {USER_TOWER: dict(codes), RANKER: dict(codes)}
        for name in outside:
            rows, lacks = self.tables.read(name, columns[name][:, 0], version)
            for model, part in rows.items():
                taken[model][name] = part
            is_lacking[:, 0] |= lacks
        packed: Tensors = {encoded(name): a for name, a in self.ranked.pack(taken[RANKER], "user_").items()}
        vectors = self.tower(taken[USER_TOWER])
        is_like = like_item_id[:, 0] != PAD_ID
        if is_like.any():
            found, is_known = self.catalogue().likeness(like_item_id[:, 0])
            vectors = np.where(is_like[:, None], found, vectors)
            is_unknown[:, 0] = is_like & ~is_known
        embedding_facts = {
            EMBEDDING_VERSION: filled(like_item_id.shape, version),
            LACKS_EMBEDDINGS: is_lacking,
        }
        return packed | embedding_facts | {"user_vector": vectors, IS_UNKNOWN_ITEM: is_unknown}
