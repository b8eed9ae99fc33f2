"""Encoders: the fitted workflow as plain numpy lookups. Imported by the ensemble: numpy only, no pickle.

NVTabular's own transform costs tens of milliseconds per call on a few rows; a lookup costs microseconds. The
tables come from running the real workflow once (`training/examples/workflow.py`) and give its result on every
row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from contract.names import NULL_INT
from contract.whole_file import whole_file

PAD_CODE = 0
NULL_CODE = 1
OOV_CODE = 2

Raw = npt.NDArray[Any]
"""A column before encoding: int64 with `NULL_INT`, float with NaN, or strings with None."""

FEW, SMALL = 32, 4096
"""Values up to which a vocabulary of at most so many is asked for one after the other: bisecting arrays costs
more to begin with."""

Encoded = npt.NDArray[np.int64] | npt.NDArray[np.float32]


@dataclass(frozen=True)
class Field:
    """An encoded column.

    A categorical is int64 (rows,), codes below `cardinality`; a numeric is float32 (rows,); a list is int64
    (rows, length), padded with `PAD_CODE` after its last element; an embedding is float32
    (rows, length). `vocabulary` names the column whose codes, and so whose embedding table, it shares:
    `user_recent_item_ids` has that of `item_id`.
    """

    name: str
    kind: Literal["categorical", "numeric", "list", "embedding"]
    vocabulary: str = ""
    cardinality: int = 0
    length: int = 1


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The known values of one or more columns, int64 or str objects, and the code of each.

    Values are sorted, so that integers are found by bisection; `codes` is int64, aligned, each at least 3.
    """

    values: npt.NDArray[np.int64] | npt.NDArray[np.object_]
    codes: npt.NDArray[np.int64]

    @property
    def is_text(self) -> bool:
        """Whether the values are strings."""
        return self.values.dtype == object

    @property
    def cardinality(self) -> int:
        """One more than the greatest code; the rows for padding, null and out-of-vocabulary included."""
        return 1 + max(OOV_CODE, int(self.codes.max(initial=OOV_CODE)))

    @cached_property
    def _code_of(self) -> dict[Any, int]:
        return dict(zip(self.values.tolist(), self.codes.tolist(), strict=True))

    def encode(self, raw: Raw, null_code: int = NULL_CODE) -> npt.NDArray[np.int64]:
        """Gives every element's code, same shape; `null_code` where null, `OOV_CODE` where unknown."""
        if self.is_text:
            known = self._code_of
            of_texts = (null_code if _is_null(v) else known.get(v, OOV_CODE) for v in raw.ravel())
            return np.fromiter(of_texts, dtype=np.int64, count=raw.size).reshape(raw.shape)
        if raw.size <= FEW and len(self.values) <= SMALL:
            small = self._code_of
            codes = [null_code if v == NULL_INT else small.get(v, OOV_CODE) for v in raw.ravel().tolist()]
            return np.array(codes, dtype=np.int64).reshape(raw.shape)
        if not len(self.values):
            return np.where(raw == NULL_INT, null_code, OOV_CODE)
        at = np.minimum(self.values.searchsorted(raw), len(self.values) - 1)
        found = np.where(self.values[at] == raw, self.codes[at], OOV_CODE)
        return np.where(raw == NULL_INT, null_code, found)


@dataclass(frozen=True)
class Scale:
    """How a numeric is normalised: log(1+x) if `is_log`, then mean 0, standard deviation 1; null is 0."""

    mean: float
    std: float
    is_log: bool = False

    def encode(self, raw: Raw) -> npt.NDArray[np.float32]:
        """Gives float32 of the same shape; null, infinite, or without a logarithm is 0, the mean."""
        values = raw.astype(np.float32)
        is_known = np.isfinite(values)
        if raw.dtype.kind == "i":
            is_known &= raw != NULL_INT
        if self.is_log:
            is_known &= values > -1
            values = np.log(np.where(is_known, values, np.float32(0)) + np.float32(1))
        mean = np.float32(self.mean)
        if not is_known.all():
            values = np.where(is_known, values, mean)
        scaled: npt.NDArray[np.float32] = (values - mean) / self._divisor
        return scaled

    @property
    def _divisor(self) -> np.float32:
        return np.float32(self.std if self.std > 0 else 1)


@dataclass(frozen=True)
class Centre:
    """How an embedding is normalised: its mean is taken off, then its lengths are 1 on average."""

    mean: tuple[float, ...]
    length: float

    @classmethod
    def of(cls, vectors: Raw) -> Centre:
        """Takes vectors (rows, length), those of nulls NaN throughout."""
        known = vectors[np.isfinite(vectors).all(axis=1)].astype(np.float64)
        mean = known.mean(axis=0) if len(known) else np.zeros(vectors.shape[1])
        lengths = np.linalg.norm(known - mean, axis=1)
        return cls(tuple(mean.tolist()), float(lengths.mean()) if lengths.any() else 1.0)

    def encode(self, raw: Raw) -> npt.NDArray[np.float32]:
        """Takes (rows, any length), gives float32 (rows, length): zeros, the mean, for what is null, not
        finite, or shorter than it was in training."""
        width = len(self.mean)
        if raw.shape[1] < width:
            return np.zeros((len(raw), width), dtype=np.float32)
        values = raw[:, :width].astype(np.float64)
        is_known = np.isfinite(values).all(axis=1, keepdims=True)
        scaled = (np.where(is_known, values, self.mean) - np.asarray(self.mean)) / self.length
        encoded: npt.NDArray[np.float32] = scaled.astype(np.float32)
        return encoded


class Encoders:
    """Encodes every column of a data set as its models expect."""

    def __init__(
        self,
        fields: Mapping[str, Field],
        vocabularies: Mapping[str, Vocabulary],
        scales: Mapping[str, Scale],
        centres: Mapping[str, Centre] | None = None,
    ) -> None:
        """Takes the fields, the vocabularies that they name, a scale for each numeric, and a centre for each
        embedding."""
        self.fields = dict(fields)
        self.vocabularies = dict(vocabularies)
        self.scales = dict(scales)
        self.centres = dict(centres or {})

    def encode(self, name: str, raw: Raw) -> Encoded:
        """Encodes one column: scalars of any shape, lists and embeddings (rows, S), with null at the end.

        A list comes back as (rows, `Field.length`): cut or padded with `PAD_CODE` to that length.

        Raises:
            KeyError: the column has no encoder.
        """
        field = self.fields[name]
        if field.kind == "numeric":
            return self.scales[name].encode(raw)
        if field.kind == "embedding":
            return self.centres[name].encode(raw)
        vocabulary = self.vocabularies[field.vocabulary]
        if field.kind == "categorical":
            return vocabulary.encode(raw)
        codes = vocabulary.encode(raw[:, : field.length], null_code=PAD_CODE)
        missing = field.length - codes.shape[1]
        return np.pad(codes, ((0, 0), (0, missing)), constant_values=PAD_CODE) if missing else codes

    def encode_all(self, raw: Mapping[str, Raw]) -> dict[str, Encoded]:
        """Encodes those columns that have an encoder, leaves the others out."""
        return {name: self.encode(name, column) for name, column in raw.items() if name in self.fields}

    def save(self, path: Path) -> None:
        """Writes one `.npz` without pickle: to a temporary name, then renamed."""
        arrays: dict[str, npt.NDArray[np.generic]] = {
            "header": _to_bytes(
                json.dumps(
                    {
                        "fields": [asdict(field) for field in self.fields.values()],
                        "scales": {name: asdict(scale) for name, scale in self.scales.items()},
                        "centres": {name: asdict(centre) for name, centre in self.centres.items()},
                        "vocabularies": {name: v.is_text for name, v in self.vocabularies.items()},
                    }
                )
            )
        }
        for position, vocabulary in enumerate(self.vocabularies.values()):
            arrays[f"codes_{position}"] = vocabulary.codes
            if vocabulary.is_text:
                texts = [str(v).encode("utf-8", "surrogatepass") for v in vocabulary.values]
                arrays[f"values_{position}"] = np.frombuffer(b"".join(texts), dtype=np.uint8)
                arrays[f"ends_{position}"] = np.cumsum([len(t) for t in texts], dtype=np.int64)
            else:
                arrays[f"values_{position}"] = vocabulary.values
        with whole_file(path) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> Encoders:
        """Reads what `save` wrote.

        Raises:
            ValueError: the file is no encoders file, or holds a pickle, which is never read.
        """
        with np.load(path, allow_pickle=False) as file:
            header = json.loads(file["header"].tobytes())
            vocabularies = {}
            for position, (name, is_text) in enumerate(header["vocabularies"].items()):
                values = file[f"values_{position}"]
                if is_text:
                    values = _split(values.tobytes(), file[f"ends_{position}"])
                vocabularies[name] = Vocabulary(values, file[f"codes_{position}"])
        fields = {field["name"]: Field(**field) for field in header["fields"]}
        scales = {name: Scale(**scale) for name, scale in header["scales"].items()}
        centres = {
            name: Centre(tuple(centre["mean"]), centre["length"])
            for name, centre in header.get("centres", {}).items()
        }
        return cls(fields, vocabularies, scales, centres)


def _is_null(value: object) -> bool:
    return value is None or value != value


def _to_bytes(text: str) -> npt.NDArray[np.uint8]:
    return np.frombuffer(text.encode(), dtype=np.uint8)


def _split(data: bytes, ends: npt.NDArray[np.int64]) -> npt.NDArray[np.object_]:
    values = np.empty(len(ends), dtype=object)
    start = 0
    for position, end in enumerate(ends.tolist()):
        values[position] = data[start:end].decode("utf-8", "surrogatepass")
        start = end
    return values
