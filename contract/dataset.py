"""Parses and validates `dataset.yaml`, the one file from which every feature, model input and stage follows.

Shared by training, the ensemble and the Feast definitions; needs only PyYAML and pydantic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    model_validator,
)

from contract import names
from contract.columns import ONLY_ITEMS, USES, Column, Columns, Role
from contract.filters import list_of
from contract.ids import IdDtype

DATASET_FILE = "dataset.yaml"
USERS_FILE = "users.parquet"
ITEMS_FILE = "items.parquet"
INTERACTIONS_FILE = "interactions.parquet"


class DatasetError(ValueError):
    """Says what is wrong with a data set: the file, the column, the row count and the remedy."""


ANY, NONE = "any", "none"
"""Words that stand for labels: every interaction counts, or not one."""

EARLIEST, LATEST = datetime(1678, 1, 1, tzinfo=UTC), datetime(2261, 12, 31, tzinfo=UTC)
"""Between them every instant has nanoseconds since 1970."""


def _instant(value: datetime) -> datetime:
    """Takes what was written: a plain date is its midnight, and without a zone it is UTC."""
    try:
        at = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        is_known = EARLIEST <= at <= LATEST
    except OverflowError:  # its zone leads out of the calendar
        is_known = False
    if not is_known:
        raise ValueError(f"{value} lies outside of the years 1678 to 2261; correct it, or take it out")
    return at if value.tzinfo is None else value


Instant = Annotated[datetime, AfterValidator(_instant)]
_PREFIX = {"users": "user_", "items": "item_"}
_IDS = {
    "users": {names.USER_ID},
    "items": {names.ITEM_ID},
    "interactions": {names.USER_ID, names.ITEM_ID},
}


class Split(BaseModel):
    """Instants that end each part, exclusive: train, then validation, then test."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train_until: Instant
    validate_until: Instant
    test_until: Instant

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.train_until < self.validate_until < self.test_until:
            raise ValueError("must be in order: train_until < validate_until < test_until")
        return self


class SplitBy(StrEnum):
    """What tells the parts apart that train, validation and test are made of."""

    TIME = "time"
    ROWS = "rows"


class TableFile(BaseModel):
    """Where a table is read from, and how its text is to be taken."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str | None = Field(
        None,
        min_length=1,
        description="File, or folder of parts, beside dataset.yaml. Default: the table's name.",
    )
    delimiter: Annotated[str, Field(pattern=r"^[\t !#-~]$")] | None = Field(
        None,
        description="The character between the columns of a CSV file. Default: found in its first lines.",
    )
    encoding: str | None = Field(
        None,
        description="How a CSV file's letters are coded, such as utf-8, utf-16 or latin-1. Default: found.",
    )


class Activity(BaseModel):
    """How the features derived from interactions are made."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recent_items: PositiveInt = Field(
        50,
        le=10_000,
        description="S, how many of a user's newest items, all and positive, models read.",
    )
    history_items: PositiveInt = Field(
        200,
        le=10_000,
        description="How many of them are stored: tables of items are asked with all. Raise it where tastes "
        "last; each costs a request what reading it takes.",
    )
    snapshot_hours: PositiveInt = Field(
        24,
        le=100_000,
        description="Hours between two snapshots: of each Feast's offline store holds rows, and retrieval "
        "learns what users were known by then. What is served and ranked is as of the last event.",
    )
    snapshot_offset_hours: Annotated[int, Field(ge=0, lt=24)] = Field(
        0, description="Hour of the day, UTC, at which a snapshot is taken."
    )
    offline_each_event: bool = Field(
        False,
        description="Whether Feast's offline store holds a row after each event, not of snapshots alone: "
        "exact at any instant, and each event takes as much as `history_items` ids.",
    )


class Checks(BaseModel):
    """What a data set must hold before anything is made of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_users: PositiveInt = Field(10, description="Fewest rows of the users table.")
    min_items: PositiveInt = Field(10, description="Fewest rows of the items table.")
    min_interactions: PositiveInt = Field(100, description="Fewest rows of the interactions table.")
    max_unknown_share: Annotated[float, Field(ge=0, le=1)] = Field(
        0.01,
        description="Largest share of interactions whose user, or whose item, has no row in its table. "
        "A few are normal (a row that came late); many are a wrong join. Raise it where they are expected.",
    )


class Dataset(BaseModel):
    """A data set's name, clock, columns and roles, as `dataset.yaml` states them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
    title: str = ""
    source: str = ""
    licence: str = ""
    as_of: Instant | None = Field(None, description="The features' clock; None means now.")
    history_until: Instant | None = Field(
        None,
        description="Interactions without a timestamp happened before this, in file order per user.",
    )
    label: str = Field("", description="The label to predict; default: the first label column.")
    retrieval_positives: str = Field(
        ANY,
        description="What retrieval learns to find: `any` interaction, or a label column that must be 1.",
    )
    seen_labels: str = Field(
        ANY,
        description="What counts as seen, and is not answered again: `any` interaction, a label column "
        "that is 1, or `none`, for what is bought again and again.",
    )
    event_types: dict[str, dict[str, Annotated[int, Field(ge=0, le=1)]]] = Field(
        default_factory=dict,
        description="Words by which events may be sent, and the labels that each stands for, such as "
        "click: {is_click: 1}.",
    )
    split_by: SplitBy = Field(
        SplitBy.TIME,
        description="time: train ends before validation, and that before test. rows: the last rows of each "
        "user are held out; taken where the rows have no time that tells them apart.",
    )
    split: Split | None = Field(
        None, description="Default: 80 % / 10 % / 10 % of the timed interactions, by time."
    )
    ttl_s: dict[str, Annotated[int, Field(gt=0, le=10**10)]] = Field(
        default_factory=dict,
        description="Seconds after which a view's row reads as missing, by view. Default: never.",
    )
    files: dict[str, TableFile] = Field(
        default_factory=dict,
        description="Per table, where it is read from; default: <table>.parquet, .csv, ...",
    )
    activity: Activity = Activity()
    checks: Checks = Checks()
    users: Columns
    items: Columns
    interactions: Columns

    @model_validator(mode="after")
    def _is_right(self) -> Self:
        for rule in _RULES:
            for wrong in rule(self):
                raise ValueError(wrong)
        return self

    @classmethod
    def load(cls, path: Path) -> Dataset:
        """Reads `dataset.yaml`, or the one in the folder `path`.

        Raises:
            DatasetError: the file is missing, not YAML, or a field is wrong; the message names the field.
        """
        file = path / DATASET_FILE if path.is_dir() else path
        try:
            raw = yaml.safe_load(file.read_text("utf-8"))
        except FileNotFoundError:
            raise DatasetError(
                f"{file}: not found; write it beside {USERS_FILE} (see docs/your-data.md)"
            ) from None
        except OSError as error:
            raise DatasetError(f"{file}: cannot be read: {error.strerror}; write it as a file") from None
        except RecursionError:
            raise DatasetError(f"{file}: not valid YAML: nested too deeply; see docs/your-data.md") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise DatasetError(f"{file}: not valid YAML: {error}") from None
        return cls.of(raw, file)

    @classmethod
    def of(cls, raw: object, file: Path) -> Dataset:
        """Checks what stands in `file` as a whole.

        Raises:
            DatasetError: a line each for what is wrong, which names the field.
        """
        if not isinstance(raw, dict):
            raise DatasetError(f"{file}: must be a mapping with the keys name, users, items, interactions")
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            lines = [
                f"{file}: {'.'.join(map(str, one['loc'])) or 'dataset'}: "
                f"{one['msg'].removeprefix('Value error, ')}"
                for one in error.errors()
            ]
            raise DatasetError("\n".join(lines)) from None

    @property
    def tables(self) -> dict[str, Columns]:
        """The columns of each table."""
        return {"users": self.users, "items": self.items, "interactions": self.interactions}

    @property
    def stored(self) -> Dataset:
        """The data set as it is prepared: what says how files are read is done, and left out."""
        tables = {
            table: {name: column.stored for name, column in columns.items()}
            for table, columns in self.tables.items()
        }
        return self.model_copy(update={**tables, "files": {}})

    @property
    def user_id_dtype(self) -> IdDtype:
        """Whether callers' user ids are integers or text."""
        return "string" if self.users[names.USER_ID].dtype == "string" else "int64"

    @property
    def item_id_dtype(self) -> IdDtype:
        """Whether callers' item ids are integers or text."""
        return "string" if self.items[names.ITEM_ID].dtype == "string" else "int64"

    @property
    def labels(self) -> tuple[str, ...]:
        """All label columns, in file order."""
        return tuple(name for name, column in self.interactions.items() if column.role is Role.LABEL)

    @property
    def target(self) -> str:
        """The label that the ranker predicts. A prepared data set has one."""
        return self.label or self.labels[0]

    @property
    def timestamp(self) -> str:
        """The interactions' timestamp column. A prepared data set has one."""
        return next(name for name, column in self.interactions.items() if column.role is Role.TIMESTAMP)

    @property
    def context(self) -> Columns:
        """Context columns: known at request time, null-coded when the caller does not say."""
        return {name: column for name, column in self.interactions.items() if column.role is Role.CONTEXT}

    @property
    def user_profile(self) -> Columns:
        """Features of the users table, without the id."""
        return _features(self.users)

    @property
    def item_catalog(self) -> Columns:
        """Features of the items table, without the id and what is only displayed."""
        return _features(self.items)

    @property
    def item_filters(self) -> Columns:
        """Item columns that a request may filter on."""
        return {name: column for name, column in self.item_catalog.items() if column.is_filterable}

    @property
    def filter_dtypes(self) -> dict[str, str]:
        """The dtypes of `item_filters`; one that holds lists says so."""
        return {name: _dtype_of(column) for name, column in self.item_filters.items()}

    @property
    def user_features(self) -> dict[str, str]:
        """The features of a user that a request may bring along, with their dtypes; of lists, `list[...]`."""
        return {
            name: _dtype_of(column)
            for view in names.USER_VIEWS
            for name, column in self.view_columns(view).items()
            if column.role is not Role.EMBEDDING
        }

    @property
    def availability(self) -> str | None:
        """The item column that says whether an item may be answered, if there is one."""
        return next((n for n, c in self.items.items() if c.role is Role.AVAILABILITY), None)

    @property
    def display_name(self) -> str | None:
        """The item column that people read, if there is one."""
        return next((n for n, c in self.items.items() if c.role is Role.DISPLAY_NAME), None)

    @property
    def display(self) -> tuple[str, ...]:
        """Item columns shown with an answer, the display name first."""
        first = (self.display_name,) if self.display_name else ()
        return first + tuple(n for n, c in self.items.items() if c.role is Role.DISPLAY)

    @property
    def affinity(self) -> Columns:
        """Item columns whose matches with the user's recent items are user-item features."""
        return {name: column for name, column in self.item_catalog.items() if column.is_affinity}

    @property
    def user_activity(self) -> Columns:
        """Features of a user derived from interactions, as models read them."""
        recent = Column(role=Role.LIST, dtype="int64", max_length=self.activity.recent_items)
        derived = {
            **dict.fromkeys(names.COMPARED, recent),
            names.USER_EVENT_COUNT: Column(role=Role.NUMERIC, is_log=True),
        }
        return derived | {
            names.rate_of(names.USER, label): Column(role=Role.NUMERIC) for label in self.labels
        }

    @property
    def user_activity_stored(self) -> Columns:
        """What the view of users' activity stores: the features, of which the lists are longer than models
        read."""
        longest = max(self.activity.recent_items, self.activity.history_items)
        stored = Column(role=Role.LIST, dtype="int64", max_length=longest)
        return self.user_activity | dict.fromkeys(names.COMPARED, stored)

    @property
    def item_activity(self) -> Columns:
        """Features of an item derived from interactions."""
        derived = {names.ITEM_EVENT_COUNT: Column(role=Role.NUMERIC, is_log=True)}
        return derived | {
            names.rate_of(names.ITEM, label): Column(role=Role.NUMERIC) for label in self.labels
        }

    def ttl(self, view: str) -> timedelta | None:
        """Takes a view's name; None where its rows never expire."""
        seconds = self.ttl_s.get(view)
        return None if seconds is None else timedelta(seconds=seconds)

    def view_columns(self, view: str) -> Columns:
        """Takes a view's name, gives its features in order."""
        return {
            names.USER_PROFILE: self.user_profile,
            names.USER_ACTIVITY: self.user_activity_stored,
            names.ITEM_CATALOG: self.item_catalog_stored,
            names.ITEM_ACTIVITY: self.item_activity,
        }[view]

    @property
    def item_catalog_stored(self) -> Columns:
        """What the item catalogue view stores: the features, and whether the item is available."""
        return self.item_catalog | {names.IS_AVAILABLE: Column(role=Role.AVAILABILITY)}

    def clock(self) -> datetime:
        """The instant that features are as of: `as_of`, or now."""
        return self.as_of or datetime.now(UTC)


def _dtype_of(column: Column) -> str:
    return list_of(str(column.dtype)) if column.role is Role.LIST else str(column.dtype)


def _features(columns: Columns) -> Columns:
    roles = (Role.CATEGORICAL, Role.NUMERIC, Role.LIST, Role.EMBEDDING)
    return {name: column for name, column in columns.items() if column.role in roles}


def _columns_of_other_tables(dataset: Dataset) -> Iterator[str]:
    for table, columns in dataset.tables.items():
        allowed = [role for role, use in USES.items() if table in use.tables]
        for name, column in columns.items():
            where = f"{table}.{name}"
            if column.role not in allowed:
                yield f"{where}: role {column.role} does not belong here; use one of {', '.join(allowed)}"
            prefix = "context_" if column.role is Role.CONTEXT else _PREFIX.get(table)
            if prefix and not name.startswith(prefix):
                yield (
                    f"{where}: rename it to {prefix}{name}, and where the file says otherwise add "
                    f"`from: {name}`; such columns begin with {prefix}"
                )
            if table != "items" and (wrong := [flag for flag in ONLY_ITEMS if getattr(column, flag)]):
                yield f"{where}: {', '.join(wrong)} is for columns of items; take it out of the line"


def _files_of_no_table(dataset: Dataset) -> Iterator[str]:
    for table in dataset.files:
        if table not in dataset.tables:
            yield f"files.{table}: no such table; use users, items or interactions"


def _ids_that_lack(dataset: Dataset) -> Iterator[str]:
    for table, columns in dataset.tables.items():
        found = {name for name, column in columns.items() if column.role is Role.ID}
        if found != _IDS[table]:
            yield (
                f"{table}: {' and '.join(sorted(_IDS[table]))}, and no other column, must have `role: id`; "
                f"{' and '.join(sorted(found)) or 'none'} has it"
            )


def _ids_of_two_dtypes(dataset: Dataset) -> Iterator[str]:
    for table, name in (("users", names.USER_ID), ("items", names.ITEM_ID)):
        theirs, here = dataset.tables[table][name].dtype, dataset.interactions[name].dtype
        if theirs != here:
            yield (
                f"{table}.{name} is {theirs} and interactions.{name} is {here}; write dtype: string on both, "
                "or on neither"
            )


def _labels_that_are_words(dataset: Dataset) -> Iterator[str]:
    for word in {ANY, NONE} & set(dataset.labels):
        yield f"interactions.{word}: as a label's name it is a word for something else; rename it"


def _clocks_that_do_not_divide(dataset: Dataset) -> Iterator[str]:
    clocks = [name for name, column in dataset.interactions.items() if column.role is Role.TIMESTAMP]
    if len(clocks) > 1:
        yield f"interactions: {', '.join(clocks)} have role timestamp; keep it on one of them"
    if dataset.split is not None and (not clocks or dataset.split_by is SplitBy.ROWS):
        yield "split: needs a column with role timestamp, and not split_by: rows; take split out"


def _labels_that_are_no_columns(dataset: Dataset) -> Iterator[str]:
    labels = dataset.labels
    for field, words in (("label", ()), ("retrieval_positives", (ANY,)), ("seen_labels", (ANY, NONE))):
        value, known = getattr(dataset, field), (*words, *labels)
        if value not in ("", *known):
            some = f"use one of {', '.join(known)}" if known else "no column has role label: take it out"
            yield f"{field}: {value!r} is not one of the label columns; {some}"
    for word, meant in dataset.event_types.items():
        for label in meant.keys() - set(labels):
            some = f"use one of {', '.join(labels)}" if labels else "no column has role label"
            yield f"event_types.{word}: {label!r} is not one of the label columns; {some}"


def _views_that_are_none(dataset: Dataset) -> Iterator[str]:
    for view in dataset.ttl_s:
        if view not in names.VIEWS:
            yield f"ttl_s: {view!r} is not a view; use one of {', '.join(names.VIEWS)}"


def _names_that_are_taken(dataset: Dataset) -> Iterator[str]:
    compared = (names.ITEM_ID, *dataset.affinity)
    matches = {names.matches_of(column, recent) for column in compared for recent in names.COMPARED}
    taken = {*names.RESERVED, *dataset.user_activity, *dataset.item_activity, *matches}
    for table in ("users", "items"):
        for name, column in dataset.tables[table].items():
            is_flag = name == names.IS_AVAILABLE and column.role is not Role.AVAILABILITY
            if name in taken or is_flag:
                yield (
                    f"{table}.{name}: the name is taken by what is made of the data; call it "
                    f"{name}_given, and add `from: {column.source or name}`"
                )


_RULES: tuple[Callable[[Dataset], Iterator[str]], ...] = (
    _columns_of_other_tables,
    _files_of_no_table,
    _ids_that_lack,
    _ids_of_two_dtypes,
    _labels_that_are_words,
    _clocks_that_do_not_divide,
    _labels_that_are_no_columns,
    _views_that_are_none,
    _names_that_are_taken,
)
"""Each gives what it finds wrong; one may take for granted what those before it look for."""
