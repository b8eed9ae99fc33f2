"""What the gateway and the ensemble agree on: tensors, error codes, Redis keys and codecs.

Standard library and numpy only.

Axes: B batch, K candidates, N slate, R retrieved, E excluded ids, F bytes of the filters, T stages.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache

import numpy as np
import numpy.typing as npt

MODEL_NAME = "recommend"
PAD_ID = -1
NO_CONTEXT = -(2**63)
"""A context value that the caller did not tell; encoded as null."""
NO_DEADLINE = 2**63 - 1
MAX_N = 100
"""N, the widest slate; a request's `n` is at most this."""
EXCLUDE_WIDTHS = (16, 128, 1024)
"""The few widths E, so that requests have equal shapes and batch together."""
FILTER_WIDTHS = (256, 2048)
"""The few widths F."""


class Source(StrEnum):
    """Who made the slate."""

    ENSEMBLE = "ensemble"
    BATCH = "batch"
    POPULAR = "popular"


class Stage(StrEnum):
    """The stages in the order of the chain; the value is the metric label, span and log key."""

    LOOKUP_USER_FEATURES = "lookup_user_features"
    ENCODE_USER = "encode_user"
    RETRIEVE_CANDIDATES = "retrieve_candidates"
    FILTER_CANDIDATES = "filter_candidates"
    LOOKUP_ITEM_FEATURES = "lookup_item_features"
    SCORE_CANDIDATES = "score_candidates"
    ORDER_CANDIDATES = "order_candidates"


class Rule(StrEnum):
    """Why a retrieved item is not a candidate. `removed_by` holds 1 + the position here; 0 means kept."""

    SEEN = "seen"
    UNAVAILABLE = "unavailable"
    EXCLUDED = "excluded"
    BEYOND_K = "beyond_k"


class Degradation(StrEnum):
    """What an answer lacks. Bit i of `degraded` is the i-th of these."""

    UNKNOWN_USER = "unknown_user"
    SHORT = "short"
    FILTER_CANDIDATES = "filter_candidates"
    DISPLAY = "display"
    FEWER_CANDIDATES = "fewer_candidates"  # less than K were considered, to be in time
    SCORE_CANDIDATES = "score_candidates"  # ordered by retrieval alone: the ranker was left out, or failed
    LATE = "late"  # this user's deadline passed on the way; the slate is empty
    PARTIAL_INDEX = "partial_index"  # the vector index does not hold every item, or is not known to


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

SLATE_TENSORS = ("item_ids", "item_scores")
ALWAYS_TENSORS = ("degraded", "stage_us")
"""`degraded` int64 (B,1) bit mask of `Degradation`; `stage_us` int64 (B,T) microseconds per stage."""
EXPLAIN_TENSORS = (
    "retrieved_ids",
    "retrieved_scores",
    "removed_by",
    "candidate_ids",
    "retrieval_scores",
    "ranking_scores",
    "propensities",
)
OUTPUT_TENSORS = (
    Tensor("item_ids", np.int64, MAX_N),
    Tensor("item_scores", np.float32, MAX_N),
    Tensor("degraded", np.int64, 1),
    Tensor("stage_us", np.int64, len(Stage)),
    Tensor("retrieved_ids", np.int64, -1),
    Tensor("retrieved_scores", np.float32, -1),
    Tensor("removed_by", np.int8, -1),
    Tensor("candidate_ids", np.int64, -1),
    Tensor("retrieval_scores", np.float32, -1),
    Tensor("ranking_scores", np.float32, -1),
    Tensor("propensities", np.float32, MAX_N),
)


class ErrorCode(StrEnum):
    """Who is responsible for a failure."""

    BAD_REQUEST = "bad_request"  # the caller: 4xx, outside the service level
    CONTRACT = "contract"  # our bug: 500, never hidden by the fallback
    DEPENDENCY = "dependency"  # Redis, Triton, a model: fallback, else 503


class StageError(Exception):
    """A stage's failure; prints `code|stage|message`, which survives Triton as text."""

    def __init__(self, code: ErrorCode, stage: str, message: str) -> None:
        super().__init__(f"{code}|{stage}|{message}")
        self.code, self.stage, self.message = code, stage, message

    @classmethod
    def parse(cls, text: str) -> StageError | None:
        """Finds `code|stage|message` in a Triton error text; None where there is none."""
        for code in ErrorCode:
            _, found, rest = text.partition(f"{code}|")
            stage, bar, message = rest.partition("|")
            if found and bar:
                return cls(code, stage, message)
        return None


def index_name(bundle: str) -> str:
    """Names the vector index of a bundle."""
    return f"item_vectors:{bundle}"


def item_vector_prefix(bundle: str) -> str:
    """The prefix of the keys that the bundle's index covers: `item_vector:{bundle}:{item_id}`."""
    return f"item_vector:{bundle}:"


def item_vector_key(bundle: str, item_id: int) -> str:
    """The key of an item's hash: its vector, and each column that a request may filter on."""
    return f"{item_vector_prefix(bundle)}{item_id}"


TAG_SEPARATOR = ","
"""Stands between the values of a column that is a list."""


def tag(value: object) -> str:
    """Writes a value as a tag: hex, so that no value needs escaping, whatever it holds."""
    return str(value).encode().hex()


def tags(values: Sequence[object]) -> str:
    """Writes the values that an item holds in a column."""
    return TAG_SEPARATOR.join(tag(value) for value in values)


def passes(held: bytes | None, dtype: str, allowed: Sequence[int | float | str]) -> bool:
    """Whether an item whose hash holds this in a column of this dtype has one of the allowed values.

    Raises:
        ValueError: a float32 column holds no number.
    """
    if held is None:
        return False
    if dtype == "float32":
        return np.float32(held) in {np.float32(value) for value in allowed}
    return not {tag(value).encode() for value in allowed}.isdisjoint(held.split(TAG_SEPARATOR.encode()))


def item_card_key(bundle: str, item_id: int) -> str:
    """The key of an item's display fields."""
    return f"item_card:{bundle}:{item_id}"


def item_card_prefix(bundle: str) -> str:
    """The prefix of the keys of a bundle's cards."""
    return f"item_card:{bundle}:"


def bundles_key(dataset: str) -> str:
    """The key of the bundles of a data set that are indexed: a sorted set, by the time they were."""
    return f"bundles:{dataset}"


def index_search_key(bundle: str) -> str:
    """The key of how the bundle's index is searched, as JSON: `beyond` and what it was measured on."""
    return f"index_search:{bundle}"


def batch_key(dataset: str) -> str:
    """The key of the pointer to the published batch run: a `Published`, switched as one."""
    return f"batch:{dataset}"


def slate_key(run: str, user_id: int) -> str:
    """The key of the slate that a batch run stored for a user: a `StoredSlate`."""
    return f"slate:{run}:{user_id}"


def slate_prefix(run: str) -> str:
    """The prefix of the keys of a run's slates."""
    return f"slate:{run}:"


def run_began_s(run: str) -> float | None:
    """When a batch run began, Unix time in seconds, as its id says; None for an id that does not."""
    try:
        return datetime.strptime(run[:15], "%Y%m%d-%H%M%S").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def changed_users_key(dataset: str) -> str:
    """The key of the users who changed since they were last computed: a sorted set, by Unix time, seconds.

    Whatever changes what is known of a user adds the id; a published batch run takes away what it covers.
    """
    return f"changed_users:{dataset}"


def feature_key(entity: str, value: int, dataset: str) -> bytes:
    """The key of the feature store's row of `user_id` or `item_id`: Feast's entity key of version 3."""
    return _feature_head(entity) + struct.pack("<q", value) + dataset.encode()


@lru_cache
def _feature_head(entity: str) -> bytes:
    name = entity.encode()
    return struct.pack("<III", 1, 2, len(name)) + name + struct.pack("<II", 4, 8)  # 2: string, 4: int64


AVAILABILITY_FIELD = b"\xee\x08\x1a\xaa"
"""The field of an item's row that holds whether it is available: Feast's hash of view and feature."""
UNAVAILABLE = b"\x38\x00"
"""That field's value, a Feast Value, where the item is not available; any other, and none, mean it is."""


def seen_key(user_id: int) -> str:
    """The key of the items that a user has seen: the only definition of seen."""
    return f"seen:{user_id}"


def encode_seen(item_ids: npt.ArrayLike) -> bytes:
    """Packs item ids, newest first, as little-endian int64."""
    return np.asarray(item_ids, dtype="<i8").tobytes()


def decode_seen(value: bytes | None) -> npt.NDArray[np.int64]:
    """Unpacks `encode_seen`; no key means nothing seen.

    Raises:
        ValueError: the length is no multiple of 8 bytes.
    """
    return np.frombuffer(value or b"", dtype="<i8").astype(np.int64, copy=False)


def encode_card(fields: Mapping[str, str | None]) -> bytes:
    """Packs an item's display fields as compact JSON."""
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()


def decode_card(value: bytes) -> dict[str, str | None]:
    """Unpacks `encode_card`."""
    card: dict[str, str | None] = json.loads(value)
    return card


Filters = dict[str, list[int | float | str]]


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


def encode_filters(filters: Mapping[str, Sequence[int | float | str]]) -> npt.NDArray[np.uint8]:
    """Packs filters, column -> allowed values, as JSON bytes padded with zeros; uint8 (1,F)."""
    data = json.dumps(dict(filters), separators=(",", ":")).encode() if filters else b""
    row = np.zeros((1, fit_width(len(data), FILTER_WIDTHS, "filters")), dtype=np.uint8)
    row[0, : len(data)] = np.frombuffer(data, dtype=np.uint8)
    return row


def decode_filters(row: npt.NDArray[np.uint8]) -> Filters:
    """Unpacks one row (F,) of `encode_filters`.

    Raises:
        StageError: `bad_request`, where it is not a mapping of lists.
    """
    data = row.tobytes().rstrip(b"\0")
    if not data:
        return {}
    try:
        filters: Filters = json.loads(data)
        if isinstance(filters, dict) and all(isinstance(v, list) for v in filters.values()):
            return filters
    except (json.JSONDecodeError, UnicodeDecodeError):
        pass
    raise StageError(ErrorCode.BAD_REQUEST, "request", "filters must map a column to a list of values")


def encode_excluded(item_ids: Sequence[int]) -> npt.NDArray[np.int64]:
    """Pads the excluded ids with `PAD_ID` to one of the fixed widths; int64 (1,E)."""
    row = np.full((1, fit_width(len(item_ids), EXCLUDE_WIDTHS, "exclude_item_ids")), PAD_ID, dtype=np.int64)
    row[0, : len(item_ids)] = item_ids
    return row


def degradations(mask: int) -> list[Degradation]:
    """Lists what the bit mask `degraded` says."""
    return [flag for bit, flag in enumerate(Degradation) if mask >> bit & 1]


def degradation_mask(flags: Iterable[Degradation]) -> int:
    """Packs flags into the bit mask `degraded`."""
    order = list(Degradation)
    return sum(1 << order.index(flag) for flag in set(flags))


@dataclass(frozen=True)
class Published:
    """Which batch run is read: `lineage`, newest first, is that run, the parent whose slates it renews in
    part, its parent and so on. `former` is the lineage before the last switch, kept for a rollback."""

    lineage: tuple[str, ...]
    former: tuple[str, ...] = ()

    def encode(self) -> bytes:
        """Packs it as JSON."""
        return json.dumps({"lineage": self.lineage, "former": self.former}).encode()

    @classmethod
    def decode(cls, value: bytes | None) -> Published:
        """Unpacks `encode`; no key means that nothing is published.

        Raises:
            ValueError: it is something else.
        """
        if value is None:
            return cls(())
        try:
            fields = json.loads(value)
            lineage, former = fields["lineage"], fields["former"]
            if not (isinstance(lineage, list) and isinstance(former, list)):
                raise TypeError("a lineage is a list of runs")
            "".join([*lineage, *former]).encode()  # they become keys
            return cls(tuple(lineage), tuple(former))
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"no pointer to a batch run: {error!r}") from None


@dataclass(frozen=True, eq=False)
class StoredSlate:
    """A slate that a batch run made: `item_ids` int64 (N,) and `item_scores` float32 (N,), best first;
    `degraded` the bit mask; `made_at_ms` Unix time in milliseconds."""

    item_ids: npt.NDArray[np.int64]
    item_scores: npt.NDArray[np.float32]
    degraded: int
    bundle: str
    run: str
    made_at_ms: int

    HEAD = struct.Struct("<BBHHBBq")
    """Version, bytes of an id, N, degraded, length of the bundle's name, of the run's, time of making."""
    VERSION = 1

    def encode(self) -> bytes:
        """Packs it: the head (16 bytes), both names, then N ids and N scores, all little-endian.

        An id takes 4 bytes where all of them fit, else 8; so a slate of 50 takes 416 bytes and its names.
        """
        ids, bundle, run = np.asarray(self.item_ids), self.bundle.encode(), self.run.encode()
        width = 4 if not len(ids) or 0 <= ids.min() <= ids.max() < 2**32 else 8
        head = (self.VERSION, width, len(ids), self.degraded, len(bundle), len(run), self.made_at_ms)
        packed = ids.astype(f"<{'u' if width == 4 else 'i'}{width}").tobytes()
        scores = np.asarray(self.item_scores, dtype="<f4").tobytes()
        return b"".join((self.HEAD.pack(*head), bundle, run, packed, scores))

    @classmethod
    def decode(cls, value: bytes) -> StoredSlate:
        """Unpacks `encode`.

        Raises:
            ValueError: it is cut short, or of another version.
        """
        try:
            version, width, n, degraded, of_bundle, of_run, made_at_ms = cls.HEAD.unpack_from(value)
            if version != cls.VERSION or width not in (4, 8):
                raise ValueError(f"a stored slate of version {version}, this reads {cls.VERSION}")
            run, ids = cls.HEAD.size + of_bundle, cls.HEAD.size + of_bundle + of_run
            if len(value) != ids + n * (width + 4):
                raise ValueError(
                    f"a stored slate of {len(value)} bytes, its head says {ids + n * (width + 4)}"
                )
            return cls(
                np.frombuffer(value, f"<{'u' if width == 4 else 'i'}{width}", n, ids).astype(np.int64),
                np.frombuffer(value, "<f4", n, ids + n * width).astype(np.float32),
                degraded,
                value[cls.HEAD.size : run].decode(),
                value[run:ids].decode(),
                made_at_ms,
            )
        except struct.error as error:
            raise ValueError(f"no stored slate: {error}") from None
