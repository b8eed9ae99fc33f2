"""What an answer is: who made it, what it lacks, and how a stored one is packed."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt


class SlateSource(StrEnum):
    """Who made the slate."""

    ENSEMBLE = "ensemble"
    BATCH = "batch"
    POPULAR = "popular"


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
    UNKNOWN_ITEM = "unknown_item"  # the bundle has no vector of the item: what most people like, instead
    USER_FEATURES = "user_features"  # the request's features lack some that the models take
    FEATURES = "features"  # columns that the bundle reads are missing in the store, or of another type
    CAPS = "caps"  # a cap of the rules is broken: too few candidates keep it
    SOURCES = "sources"  # a source of candidates failed, and the others answered
    EMBEDDINGS = "embeddings"  # rows of tables beside the models could not be read


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

    @property
    def readable(self) -> set[str]:
        """The runs that are read, or may be rolled back to."""
        return {*self.lineage, *self.former}

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
