"""The manifest of a bundle, and how a bundle is opened and verified.

Imported by the ensemble: no Merlin, no TensorFlow.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from contract.arrays import Array
from contract.dataset import DATASET_FILE, Dataset
from contract.ids import IdDtype, OwnId, number_of

MANIFEST_FILE = "manifest.json"
USER_TOWER_FILE = "user_tower.onnx"
ITEM_TOWER_FILE = "item_tower.onnx"
RANKER_FILE = "ranker.onnx"
ENCODERS_FILE = "encoders.npz"
ITEM_IDS_FILE = "item_ids.npy"
ITEM_VECTORS_FILE = "item_vectors.npy"
USER_VECTORS_FILE = "user_vectors.npy"
ITEM_TABLE_FILE = "items.parquet"
POPULAR_FILE = "popular.json"
METRICS_FILE = "metrics.json"
CARD_FILE = "dataset_card.md"
FORMAT: Literal[2] = 2
"""Of the manifest; raised with each change that makes older bundles unreadable."""

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
"""A file of the bundle's own folder: no path, so that none leads out of it."""


class BundleError(ValueError):
    """Says which file of a bundle is missing, changed or unreadable, and what to do."""


class Inputs(BaseModel):
    """Encoded columns as a model takes them: packed by kind, in this order, lists with their length.

    That is `categorical` int64 (rows, len(categorical)), `numeric` float32 (rows, len(numeric)), and named
    as it one int64 (rows, length) per list and one float32 (rows, length) per embedding; an input without
    columns is left out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    categorical: tuple[str, ...] = ()
    numeric: tuple[str, ...] = ()
    lists: dict[str, int] = {}
    embeddings: dict[str, int] = {}

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that is taken."""
        return (*self.categorical, *self.numeric, *self.lists, *self.embeddings)

    def pack(self, columns: Mapping[str, Array], prefix: str = "") -> dict[str, Array]:
        """Takes encoded columns, gives the model's inputs; `prefix` comes before the packed ones' names.

        Columns are (rows,) or for lists (rows, S); the ranker's candidates (B,K), lists (B,K,L).
        """
        inputs = {name: np.ascontiguousarray(columns[name], dtype=np.int64) for name in self.lists}
        inputs |= {name: np.ascontiguousarray(columns[name], dtype=np.float32) for name in self.embeddings}
        if self.categorical:
            inputs[f"{prefix}categorical"] = _beside([columns[name] for name in self.categorical], np.int64)
        if self.numeric:
            inputs[f"{prefix}numeric"] = _beside([columns[name] for name in self.numeric], np.float32)
        return inputs

    def unpack(self, packed: Mapping[str, Array], prefix: str = "") -> dict[str, Array]:
        """Takes what `pack` gave, gives the columns."""
        columns = {name: packed[name] for name in (*self.lists, *self.embeddings)}
        for kind, names in (("categorical", self.categorical), ("numeric", self.numeric)):
            columns |= {name: packed[f"{prefix}{kind}"][..., at] for at, name in enumerate(names)}
        return columns

    def without(self, names: Collection[str]) -> Inputs:
        """Leaves columns out."""
        return Inputs(
            categorical=tuple(name for name in self.categorical if name not in names),
            numeric=tuple(name for name in self.numeric if name not in names),
            lists={name: length for name, length in self.lists.items() if name not in names},
            embeddings={name: length for name, length in self.embeddings.items() if name not in names},
        )

    def packed(self, prefix: str = "") -> tuple[str, ...]:
        """Names what `pack` gives."""
        kinds = (("categorical", self.categorical), ("numeric", self.numeric))
        return (*self.lists, *self.embeddings, *(f"{prefix}{kind}" for kind, columns in kinds if columns))


def _beside(columns: Sequence[Array], dtype: type[np.generic]) -> Array:
    """Puts columns beside each other, as a last axis; numpy's own `stack` takes three times as long."""
    packed = np.empty((*columns[0].shape, len(columns)), dtype=dtype)
    for at, column in enumerate(columns):
        packed[..., at] = column
    return packed


class ModelSpec(Inputs):
    """One ONNX model: its file, what it takes per row, and the name of its only output."""

    file: str
    output: str


class RankerSpec(BaseModel):
    """The ranker's ONNX model: what it takes of users, (B, ...), and of their candidates, (B, K, ...).

    The packed inputs are called `user_categorical`, `candidate_numeric` and so on. It gives `output`, (B, K).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    output: str
    user: Inputs
    candidate: Inputs

    @property
    def sides(self) -> tuple[Inputs, Inputs]:
        """What is taken of users, and of candidates."""
        return self.user, self.candidate

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that is taken."""
        return (*self.user.columns, *self.candidate.columns)


Taker = Literal["user_tower", "ranker"]
USER_TOWER: Taker = "user_tower"
RANKER: Taker = "ranker"


class TableSpec(BaseModel):
    """A table of embeddings that lies beside the models: their graphs take its rows as inputs, by the name of
    the `column` whose values it is of.

    `file` is a `.npy`, float32 (codes, W), by the column's code; the row of an unknown value has `OOV_CODE`.
    A row has beside each other what each of the models in `parts` takes, of so many floats.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    column: str = Field(pattern=r"^(user|item)_id$")
    file: FileName
    parts: dict[Taker, int] = Field(min_length=1)

    @property
    def width(self) -> int:
        """W."""
        return sum(self.parts.values())

    def part(self, model: Taker) -> slice:
        """Says which of a row's floats a model takes, one that does."""
        start = sum(list(self.parts.values())[: list(self.parts).index(model)])
        return slice(start, start + self.parts[model])


class IndexSpec(BaseModel):
    """How the vector index of this bundle is built. Scores are inner products."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["FLAT", "HNSW"]
    m: int = 16
    ef_construction: int = 200
    ef_runtime: int = 200


class SourceSpec(BaseModel):
    """One source of candidates. What it says of each item of the catalogue is its score; 0 is nothing.

    `nearest`: the inner product with the user's vector, of the index. `item_to_item`: what the table in
    `file` says of the items of the user's list `history`, newest first: the sum of their neighbours' weights,
    the item at rank r counting `decay` ** r, normalised. A table that is `of_items` is asked for the items
    like another as well; one without a `history`, for those alone. `popular`: the same for everyone, a
    float32 (I,) in the `.npy` of `file`, aligned with the catalogue; an item of 0 is not given. `new`: of the
    items that are not 0 in such a file, the inner product with the user's vector.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    kind: Literal["nearest", "item_to_item", "popular", "new"]
    share: float = Field(ge=0, le=1, description="Of the K candidates, how many are the best of this one.")
    file: FileName | None = None
    history: Literal["user_recent_item_ids", "user_recent_positive_item_ids"] | None = None
    of_items: bool = Field(False, description="Whether it is asked for the items like another as well.")
    newest: int | None = Field(None, ge=1, description="Of the history, so many items; None: all.")
    decay: float = Field(1.0, gt=0, le=1)
    normalisation: Literal["none", "weights", "deviation"] = Field(
        "none",
        description="What a user's scores are divided by: nothing, the sum of the history's decays, or their "
        "standard deviation over the catalogue.",
    )

    @property
    def is_for_users(self) -> bool:
        """Whether it is asked for a user's candidates."""
        return self.kind != "item_to_item" or self.history is not None

    @property
    def is_for_items(self) -> bool:
        """Whether it is asked for the items like another."""
        return self.kind == "nearest" or self.of_items or not self.is_for_users

    @model_validator(mode="after")
    def _reads_what_its_kind_does(self) -> Self:
        if (self.kind == "nearest") != (self.file is None):
            raise ValueError(f"source {self.name}: every kind but nearest reads a file")
        if (self.history is not None or self.of_items) and self.kind != "item_to_item":
            raise ValueError(f"source {self.name}: only item_to_item reads a history, or is of items")
        return self


NEAREST = SourceSpec(name="nearest", kind="nearest", share=1.0)
"""The only source of bundles that name none."""


class Correction(BaseModel):
    """What the order adds for one of its scores, for a user of `items` recent items:
    (plain + few / (1 + items) + many * log(1 + items)) * score + bent * log(1 + score / knee), where a score
    below 0 bends as 0.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    plain: float = 0.0
    few: float = 0.0
    many: float = 0.0
    bent: float = 0.0
    knee: float = Field(1.0, gt=0)


RANKING, RETRIEVAL = "ranking", "retrieval"
"""What the order calls the ranker's score and the vectors'; every other source's has its name."""


class OrderSpec(BaseModel):
    """How the slate is ordered: P(click) is the logistic function of ranking * log-odds(ranking score) +
    retrieval * the vectors' score + the sum over `sources` of weight * that source's score, the blend, +
    intercept; for users with `least_known` recent items, + the `corrections` + the sum over `columns` of
    weight * that column. Users without any may have an order of their own, `unknown`, and so may those of
    whom a `few` are known.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    ranking: float = Field(1.0, ge=0)
    retrieval: float = Field(0.0, ge=0)
    sources: dict[str, float] = Field({}, description="By the names of the sources beside the vectors.")
    corrections: dict[str, Correction] = Field(
        {}, description="By the names of the scores that the blend weighs: ranking, retrieval, and sources."
    )
    columns: dict[str, float] = Field(
        {}, description="By the numeric columns of candidates that the ranker takes, as encoded."
    )
    least_known: int = Field(
        0, ge=0, description="Recent items under which a user has the blend alone: nothing tells of them."
    )
    intercept: float = 0.0
    unknown: OrderSpec | None = Field(
        None, description="The order of users of whom no recent item is known. Default: everyone's."
    )
    few: tuple[FewOrder, ...] = Field(
        (), description="Orders of users of whom few recent items are known. Default: everyone's."
    )

    @property
    def of_few(self) -> tuple[FewOrder, ...]:
        """The orders of their own, that of unknown users among them."""
        if self.unknown is None:
            return self.few
        return (FewOrder(least=0, most=0, order=self.unknown), *self.few)

    @property
    def asks_known(self) -> bool:
        """Whether it counts how many recent items a user has."""
        return bool(self.corrections or self.columns or self.of_few)

    @property
    def weighed(self) -> frozenset[str]:
        """Names the scores that count: `RANKING`, `RETRIEVAL` and sources."""
        of_few = (name for one in self.of_few for name in one.order.weighed)
        blended = (name for name, weight in self.blend.items() if weight)
        return frozenset({*blended, *self.corrections, *of_few})

    @property
    def numeric(self) -> tuple[str, ...]:
        """Names the columns of candidates that count: everyone's first."""
        of_few = (name for one in self.of_few for name in one.order.columns)
        return tuple(dict.fromkeys([*self.columns, *of_few]))

    def __str__(self) -> str:
        """Says what the blend weighs, for people."""
        scores = ", ".join(f"{name} {weight:.3g}" for name, weight in self.blend.items())
        text = f"weighs {scores}; {len(self.corrections)} corrections, {len(self.columns)} columns"
        if self.unknown:
            text += f"; of unknown users, {self.unknown}"
        if self.few:
            counts = (f"{one.least} to {one.most}" if one.least < one.most else one.most for one in self.few)
            text += f"; users with {', '.join(map(str, counts))} items have others"
        return text

    @property
    def blend(self) -> dict[str, float]:
        """The weights of the scores in the blend, by name."""
        return {RANKING: self.ranking, RETRIEVAL: self.retrieval, **self.sources}


class FewOrder(BaseModel):
    """The order of users of whom from `least` to `most` recent items are known."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    least: int = Field(ge=0)
    most: int = Field(ge=0)
    order: OrderSpec


class Manifest(BaseModel):
    """What a bundle holds and how it was made. Never changed after it is written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[2] = FORMAT
    bundle: str = Field(pattern=r"^[a-z0-9_-]+$")
    dataset: str
    created_at: str
    reason: str = Field("", description="Why it was trained, where that was told.")
    trained_until: str | None = Field(
        None, description="The instant before which its models' examples lie; older bundles do not say it."
    )
    git_commit: str
    seed: int
    versions: dict[str, str]
    machine: dict[str, str] = Field(
        {}, description="What the metrics were made on: processor, kernels of each BLAS, threads."
    )
    checksums: dict[FileName, str] = Field(description="sha256 of every other file of the bundle, by name.")
    items: int
    vector_width: int = Field(description="D, the prior coordinate included.")
    score_range: tuple[float, float] = Field(
        description="Bounds of the inner product of any user with any item."
    )
    index: IndexSpec
    user_tower: ModelSpec
    item_tower: ModelSpec
    ranker: RankerSpec
    tables: tuple[TableSpec, ...] = Field(
        (), description="Of embeddings that are not in the models' graphs, which take their rows."
    )
    order: OrderSpec = OrderSpec()
    sources: tuple[SourceSpec, ...] = Field((NEAREST,), min_length=1)
    fresh_share: float = Field(
        0.0,
        description="Of the examples that the towers' training ended with, how many had their user as of "
        "just before; 0 where validation did not gain by it.",
    )
    context: tuple[str, ...]
    labels: tuple[str, ...] = Field((), description="Label columns of interactions.")
    event_types: dict[str, dict[str, int]] = Field({}, description="Words that stand for labels.")
    display: tuple[str, ...]
    display_name: str | None
    filters: dict[str, str] = Field(description="Filterable item columns and their dtype.")
    user_features: dict[str, str] = Field(
        {}, description="Features that a request may bring along, with their dtype; a list's is list[...]."
    )
    user_id_dtype: IdDtype = Field("int64", description="What callers' user ids are.")
    item_id_dtype: IdDtype = Field("int64", description="What callers' item ids are.")
    sample_user_ids: tuple[OwnId, ...] = Field(description="A few known users, by their own ids.")

    @property
    def sample_users(self) -> tuple[int, ...]:
        """The numbers of `sample_user_ids`."""
        return tuple(number_of(own, self.user_id_dtype) for own in self.sample_user_ids)

    @property
    def beside(self) -> frozenset[str]:
        """Names the columns whose embeddings are not in the models."""
        return frozenset(table.column for table in self.tables)

    @property
    def is_ranked(self) -> bool:
        """Whether the ranker counts in the order at all; where not, it is not run."""
        return RANKING in self.order.weighed

    @model_validator(mode="after")
    def _takes_the_rows_of_its_tables(self) -> Self:
        if len(self.beside) < len(self.tables):
            raise ValueError("two tables are of the same column")
        takers: dict[Taker, tuple[Inputs, ...]] = {USER_TOWER: (self.user_tower,), RANKER: self.ranker.sides}
        for table in self.tables:
            for taker, width in table.parts.items():
                if width not in (inputs.embeddings.get(table.column) for inputs in takers[taker]):
                    raise ValueError(f"the {taker} takes no row of {width} floats of {table.column}")
            for inputs in (*takers[USER_TOWER], *takers[RANKER]):
                if table.column in inputs.categorical:
                    raise ValueError(f"a model takes codes of {table.column}, whose table lies beside it")
        return self

    @model_validator(mode="after")
    def _knows_its_sources(self) -> Self:
        names = [source.name for source in self.sources]
        if len(set(names)) < len(names) or sum(one.kind == "nearest" for one in self.sources) > 1:
            raise ValueError("two sources have the same name, or search the same vectors")
        weighted = {source.name for source in self.sources if source.kind != "nearest"}
        if unknown := sorted(self.order.weighed - {RANKING, RETRIEVAL} - weighted):
            raise ValueError(f"the order weighs {', '.join(unknown)}, which is no source beside the vectors")
        if unknown := sorted({*self.order.numeric} - set(self.ranker.candidate.numeric)):
            raise ValueError(f"the order weighs {', '.join(unknown)}, no numeric column of candidates")
        return self


def sha256(path: Path) -> str:
    """Takes a file, gives its sha256 as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(folder: Path, *, verify: bool = True) -> Manifest:
    """Reads a bundle's manifest and compares every file with its checksum before anything of it is loaded.

    Raises:
        BundleError: a file is missing, changed or unreadable.
    """
    path = folder / MANIFEST_FILE
    try:
        facts = json.loads(path.read_text("utf-8"))
        if isinstance(facts, dict) and facts.get("format", FORMAT) != FORMAT:
            raise BundleError(
                f"{path}: the bundle is of format {facts['format']}, this version reads {FORMAT}; train again"
            )
        manifest = Manifest.model_validate(facts)
    except FileNotFoundError:
        raise BundleError(
            f"{path}: not found; run `make train promote`, or point to another bundle"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{path}: not a bundle manifest of format {FORMAT}: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise BundleError(
            f"{path}: not a bundle manifest of format {FORMAT}: {where}: {first['msg']}"
        ) from None
    if verify:
        verify_files(folder, manifest)
    return manifest


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Compares every file of a bundle with its checksum; nothing is loaded, and nothing may be there beside.

    A model may keep its weights in a file beside it, so a file that the manifest does not name is refused as
    well, and so is a link, which may lead anywhere. Whoever can write the manifest can write checksums:
    these tell damage, not malice.

    Raises:
        BundleError: a file is missing, changed, a link, or not in the manifest.
    """
    models = [model.file for model in (manifest.user_tower, manifest.item_tower, manifest.ranker)]
    models += [table.file for table in manifest.tables]
    for name in (*models, *(source.file for source in manifest.sources if source.file is not None)):
        if name not in manifest.checksums:
            raise BundleError(f"{folder / name}: has no checksum in the manifest; train again")
    for file in sorted(folder.iterdir()):
        if file.name not in manifest.checksums and file.name != MANIFEST_FILE:
            raise BundleError(f"{file}: is not in the manifest; take it out of the bundle")
        if file.is_symlink():
            raise BundleError(f"{file}: is a link; a bundle holds its files itself")
    for name, expected in manifest.checksums.items():
        file = folder / name
        if not file.is_file():
            raise BundleError(f"{file}: missing; the bundle is incomplete, restore it or train again")
        if sha256(file) != expected:
            raise BundleError(
                f"{file}: its checksum differs from the manifest; restore the bundle or train again"
            )


def read_dataset(folder: Path) -> Dataset:
    """Reads the `dataset.yaml` that a bundle was trained with."""
    return Dataset.load(folder / DATASET_FILE)


def table_parts(folder: Path, manifest: Manifest, taker: Taker) -> dict[str, Array]:
    """Maps what a model takes of the tables that lie beside it, float32 (codes, width) by column."""
    return {
        table.column: np.load(folder / table.file, mmap_mode="r", allow_pickle=False)[:, table.part(taker)]
        for table in manifest.tables
        if taker in table.parts
    }


def with_rows(tables: Mapping[str, Array], columns: Mapping[str, Array]) -> Mapping[str, Array]:
    """Looks codes (rows,) up in the tables of their columns; a column that has rows already is left alone."""
    codes = {name: columns[name] for name in tables if columns[name].ndim == 1}
    return {**columns, **{name: tables[name][code] for name, code in codes.items()}}
