"""The tensors of a request and of an answer: names, dtypes, widths.

Axes: B batch, K candidates, N slate, R retrieved, E excluded ids, F bytes of the filters, U bytes of the
features of a user, P bytes of the rules, T stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from contract.errors import ErrorCode, StageError
from contract.ids import number_of_text
from contract.names import NULL_INT

MODEL_NAME = "recommend"
PAD_ID = NULL_INT
"""The one int64 that is no id."""
NO_CONTEXT = NULL_INT
"""A context value that the caller did not tell; encoded as null."""
NO_DEADLINE = 2**63 - 1
MAX_N = 100
"""N, the widest slate; a request's `n` is at most this."""
EXCLUDE_WIDTHS = (16, 128, 1024, 4096)
"""The few widths E, so that requests have equal shapes and batch together."""
MAX_EXCLUDED = 1024
"""Items that a caller may exclude; the rest of the widest E is for what earlier pages showed."""
FILTER_WIDTHS = (256, 2048)
"""The few widths F."""
USER_FEATURE_WIDTHS = (1024, 16384)
"""The few widths U."""
RULES_WIDTHS = (512, 8192)
"""The few widths P."""


class StageName(StrEnum):
    """The stages in the order of the chain; the value is the metric label, span and log key."""

    LOOKUP_USER_FEATURES = "lookup_user_features"
    ENCODE_USER = "encode_user"
    RETRIEVE_CANDIDATES = "retrieve_candidates"
    FILTER_CANDIDATES = "filter_candidates"
    LOOKUP_ITEM_FEATURES = "lookup_item_features"
    SCORE_CANDIDATES = "score_candidates"
    ORDER_CANDIDATES = "order_candidates"


@dataclass(frozen=True)
class Tensor:
    """A named tensor; `width` is the second axis, -1 where one of a few."""

    name: str
    dtype: type[np.generic]
    width: int


REQUEST_TENSORS = (
    Tensor("user_id", np.int64, 1),
    Tensor("n", np.int64, 1),
    Tensor("exclude_item_ids", np.int64, -1),
    Tensor("filters", np.uint8, -1),
    Tensor("seed", np.int64, 1),
    Tensor("deadline_us", np.int64, 1),
    Tensor("quality", np.float32, 1),
)
"""What every request sends, beside one int64 (B,1) tensor per context column of the manifest.

`quality` is the share of K candidates to consider, in [0,1]; 0 leaves the ranker out as well.
"""
FULL_QUALITY = 1.0
OPTIONAL_TENSORS = (
    Tensor("like_item_id", np.int64, 1),
    Tensor("user_features", np.uint8, -1),
    Tensor("rules", np.uint8, -1),
)
"""What a request may send as well, for all of its rows: an item, where items like it are wanted, `PAD_ID`
where not; features of the user, by `encode_user_features`, zeros where those that are stored are wanted. A
request that sends either may have `PAD_ID` for its user: nobody."""
OPTIONAL_FILL = {"like_item_id": PAD_ID, "user_features": 0, "rules": 0}
"""What stands for each where it is not sent."""

SLATE_TENSORS = ("item_ids", "item_scores")
ALWAYS_TENSORS = ("degraded", "stage_us", "bundle_id")
"""`degraded` int64 (B,1) bit mask of `Degradation`; `stage_us` int64 (B,T) microseconds per stage;
`bundle_id` int64 (B,1), which bundle answered."""
EXPLAIN_TENSORS = (
    "retrieved_ids",
    "retrieved_scores",
    "removed_by",
    "candidate_ids",
    "retrieval_scores",
    "ranking_scores",
    "propensities",
    "plain_places",
    "moved_by",
)
OUTPUT_TENSORS = (
    Tensor("item_ids", np.int64, MAX_N),
    Tensor("item_scores", np.float32, MAX_N),
    Tensor("degraded", np.int64, 1),
    Tensor("stage_us", np.int64, len(StageName)),
    Tensor("bundle_id", np.int64, 1),
    Tensor("retrieved_ids", np.int64, -1),
    Tensor("retrieved_scores", np.float32, -1),
    Tensor("removed_by", np.int8, -1),
    Tensor("candidate_ids", np.int64, -1),
    Tensor("retrieval_scores", np.float32, -1),
    Tensor("ranking_scores", np.float32, -1),
    Tensor("propensities", np.float32, MAX_N),
    Tensor("plain_places", np.int64, -1),
    Tensor("moved_by", np.int8, -1),
)


def bundle_id(name: str) -> int:
    """Takes a bundle's name, gives what stands for it in the tensor `bundle_id`: 63 bits of its BLAKE2b."""
    return number_of_text(name)


def fit_width(length: int, widths: Sequence[int], field: str) -> int:
    """Takes a length, gives the narrowest of the widths that holds it.

    Raises:
        StageError: `bad_request`, where none does.
    """
    for width in widths:
        if length <= width:
            return width
    message = f"{field} is too long: {length}, at most {widths[-1]}"
    raise StageError(ErrorCode.BAD_REQUEST, "request", message)


def encode_excluded(item_ids: Sequence[int]) -> npt.NDArray[np.int64]:
    """Pads the excluded ids with `PAD_ID` to one of the fixed widths; int64 (1,E)."""
    row = np.full((1, fit_width(len(item_ids), EXCLUDE_WIDTHS, "exclude_item_ids")), PAD_ID, dtype=np.int64)
    row[0, : len(item_ids)] = item_ids
    return row
