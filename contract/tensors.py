"""The tensors of a request and of an answer: names, dtypes, widths; and how they travel.

Axes: B batch, K candidates, N slate, R retrieved, E excluded ids, F bytes of the filters, U bytes of the
features of a user, P bytes of the rules, T stages, W eight-byte words.

Triton takes some 5 microseconds for each tensor of each call. So what every call sends travels as one tensor,
`request`, what every call gets as another, `answer`: int64 (B,W), the named tensors side by side in the order
of their tuple, two float32 to a word. The rest travels under its own name where a call has need of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from contract.arrays import Array
from contract.errors import ErrorCode, StageError
from contract.ids import number_of_text
from contract.names import NULL_INT, USER_ID

CHAIN = "recommend"
"""How an error names the whole chain. Triton's models bear the names of their bundles."""
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

    @property
    def words(self) -> int:
        """How many words of a packed row it takes."""
        return self.width if self.dtype is np.int64 else -(-self.width // 2)


REQUEST_TENSORS = (
    Tensor(USER_ID, np.int64, 1),
    Tensor("n", np.int64, 1),
    Tensor("seed", np.int64, 1),
    Tensor("deadline_us", np.int64, 1),
    Tensor("quality", np.float32, 1),
    Tensor("like_item_id", np.int64, 1),
)
"""What every request sends, and after it one int64 (B,1) tensor per context column of the manifest.

`quality` is the share of K candidates to consider, in [0,1]; 0 leaves the ranker out as well. `like_item_id`
is an item, where items like it are wanted, `PAD_ID` where not.
"""
FULL_QUALITY = 1.0
OPTIONAL_TENSORS = (
    Tensor("exclude_item_ids", np.int64, -1),
    Tensor("filters", np.uint8, -1),
    Tensor("user_features", np.uint8, -1),
    Tensor("rules", np.uint8, -1),
)
"""What a request sends, for all of its rows, where one needs it: items by `encode_excluded`; filters by
`encode_filters`; features of the user by `encode_user_features`, zeros where the stored ones are wanted;
rules by `encode_rules`. A row with such features, or with `like_item_id`, may have `PAD_ID` for its user:
nobody."""
OPTIONAL_FILL = {"exclude_item_ids": PAD_ID, "filters": 0, "user_features": 0, "rules": 0}
"""What stands for each where it is not sent, and pads it where requests of different widths come together."""

ANSWER_TENSORS = (
    Tensor("degraded", np.int64, 1),
    Tensor("bundle_id", np.int64, 1),
    Tensor("stage_us", np.int64, len(StageName)),
    Tensor("item_ids", np.int64, MAX_N),
    Tensor("item_scores", np.float32, MAX_N),
    Tensor("propensities", np.float32, MAX_N),
)
"""What every answer holds. `degraded` is a bit mask of `Degradation`; `stage_us` microseconds per stage;
`bundle_id` says which bundle answered."""
EXPLAIN_TENSORS = (
    Tensor("retrieved_ids", np.int64, -1),
    Tensor("retrieved_scores", np.float32, -1),
    Tensor("source_item_ids", np.int64, -1),
    Tensor("source_scores", np.float32, -1),
    Tensor("removed_by", np.int8, -1),
    Tensor("candidate_ids", np.int64, -1),
    Tensor("retrieval_scores", np.float32, -1),
    Tensor("ranking_scores", np.float32, -1),
    Tensor("plain_places", np.int64, -1),
    Tensor("moved_by", np.int8, -1),
)
"""What an answer holds as well where the call asks for it. `source_item_ids` are what each source gave, best
first, the manifest's first source first; `source_scores` what each says of each retrieved item: both
(B, sources x R)."""

REQUEST = "request"
ANSWER = Tensor("answer", np.int64, sum(t.words for t in ANSWER_TENSORS))


def request_layout(context: Sequence[str]) -> tuple[Tensor, ...]:
    """Takes the manifest's context columns, gives what stands in `request`, in its order."""
    return (*REQUEST_TENSORS, *(Tensor(name, np.int64, 1) for name in context))


def pack(tensors: Mapping[str, Array], layout: Sequence[Tensor]) -> npt.NDArray[np.int64]:
    """Takes named tensors (B, width), gives those of the layout as one, int64 (B,W).

    Raises:
        TypeError: one is not of its dtype.
    """
    words = [_words(tensors[t.name], t) for t in layout]
    return np.concatenate(words, axis=1, dtype=np.int64, casting="no")


def unpack(packed: Array, layout: Sequence[Tensor]) -> dict[str, Array]:
    """Takes what `pack` gave for the same layout, gives the named tensors: views of it.

    Raises:
        ValueError: it has another width or dtype.
    """
    words = sum(t.words for t in layout)
    if packed.dtype != np.int64 or packed.shape[1:] != (words,):
        raise ValueError(f"expected int64 (B,{words}), got {packed.dtype} {packed.shape}")
    tensors, start = {}, 0
    for t in layout:
        end = start + t.words
        tensors[t.name] = packed[:, start:end].view(t.dtype)[:, : t.width]
        start = end
    return tensors


def _words(array: Array, t: Tensor) -> Array:
    if t.dtype is np.int64:
        return array
    halves = np.zeros((len(array), 2 * t.words), dtype=t.dtype)
    halves[:, : t.width] = array
    return halves.view(np.int64)


def request_tensor(context: Sequence[str]) -> Tensor:
    """Describes `request`."""
    return Tensor(REQUEST, np.int64, sum(t.words for t in request_layout(context)))


def plain_request(user_ids: npt.NDArray[np.int64], n: int, context: Sequence[str]) -> dict[str, Array]:
    """Asks for the slates of users (B,), and for nothing special: what every request sends, by name."""
    values = {"n": n, "seed": 0, "deadline_us": NO_DEADLINE, "quality": FULL_QUALITY, "like_item_id": PAD_ID}
    layout = request_layout(context)
    rows = {t.name: np.full((len(user_ids), 1), values.get(t.name, NO_CONTEXT), t.dtype) for t in layout}
    return rows | {USER_ID: user_ids[:, None]}


def pack_request(tensors: Mapping[str, Array], context: Sequence[str]) -> dict[str, Array]:
    """Takes the tensors of a request by name, gives those that travel."""
    optional = {t.name: tensors[t.name] for t in OPTIONAL_TENSORS if t.name in tensors}
    return {REQUEST: pack(tensors, request_layout(context)), **optional}


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
