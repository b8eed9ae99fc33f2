"""One line of `dataset.yaml`: what a column is for, what it holds, and how it is read from its file."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt, model_validator

Table = Literal["users", "items", "interactions"]


class Role(StrEnum):
    """What a column is for."""

    ID = "id"
    CATEGORICAL = "categorical"
    NUMERIC = "numeric"
    LIST = "list"
    EMBEDDING = "embedding"
    CONTEXT = "context"
    LABEL = "label"
    TIMESTAMP = "timestamp"
    DISPLAY_NAME = "display_name"
    DISPLAY = "display"
    AVAILABILITY = "availability"


@dataclass(frozen=True)
class Use:
    """What a role allows: tables, dtypes (the first is the default), and the keys beside role and dtype."""

    tables: tuple[Table, ...]
    dtypes: tuple[str, ...]
    keys: tuple[str, ...] = ()


_FEATURES: tuple[Table, ...] = ("users", "items")
_OF_ITEMS = ("is_affinity", "is_filterable")
USES = {
    Role.ID: Use(("users", "items", "interactions"), ("int64", "string"), ("vocabulary",)),
    Role.CATEGORICAL: Use(_FEATURES, ("int64", "string", "bool"), ("vocabulary", *_OF_ITEMS)),
    Role.NUMERIC: Use(_FEATURES, ("float32", "int64"), ("is_log", "clip", "is_filterable")),
    Role.LIST: Use(_FEATURES, ("int64", "string"), ("vocabulary", "max_length", "separator", *_OF_ITEMS)),
    Role.EMBEDDING: Use(_FEATURES, ("float32",), ("max_length", "separator", "clip")),
    Role.CONTEXT: Use(("interactions",), ("int64",), ("vocabulary",)),
    Role.LABEL: Use(("interactions",), ("int64",), ("positive", "weight")),
    Role.TIMESTAMP: Use(("interactions",), ("timestamp",), ("unit", "format", "timezone", "clip")),
    Role.DISPLAY_NAME: Use(("items",), ("string",)),
    Role.DISPLAY: Use(("items",), ("string",)),
    Role.AVAILABILITY: Use(("items",), ("bool",)),
}
"""Every role; a pair of role and dtype, or a key, that stands in no row is refused by its line."""
ONLY_ITEMS = _OF_ITEMS

_COMPARISON = re.compile(r"\s*(>=|<=|==|!=|>|<)\s*([-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)\s*")
Comparison = tuple[str, float]


def _read_positive(value: Any) -> Any:
    """Takes what stands behind `positive:`; text is a comparison with a number, a list holds values."""
    if isinstance(value, str) and not _COMPARISON.fullmatch(value):
        raise ValueError(
            f"{value!r} is no comparison with a number, such as '>= 4', nor a list of values, as [buy]"
        )
    if isinstance(value, list) and not value:
        raise ValueError("an empty list would make nothing positive; name the values that are")
    return value


class Column(BaseModel):
    """One column of one table. `dtype` is the value's, or for a list its elements'."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    role: Role
    dtype: Literal["int64", "float32", "string", "bool", "timestamp"] | None = None
    source: str | None = Field(
        None, alias="from", description="The column's name in the file, where it is another one."
    )
    vocabulary: PositiveInt | None = Field(
        None,
        le=2**31,
        description="Most values kept, by frequency; the rest share the out-of-vocabulary row. None: all.",
    )
    max_length: PositiveInt = Field(
        8,
        le=10_000,
        description="Elements kept of a list, from its start; of an embedding, whose length is found: all.",
    )
    is_log: bool = Field(
        False, description="Numeric columns: take log(1+x) before normalising; for counts and durations."
    )
    is_affinity: bool = Field(
        False, description="Item columns: count its matches between the user's recent items and a candidate."
    )
    is_filterable: bool = Field(False, description="Item columns: a request may filter on it.")
    unit: Literal["s", "ms", "us", "ns"] | None = Field(
        None, description="Timestamps that are numbers: what they count since 1970."
    )
    format: str | None = Field(
        None, description="Timestamps that are text: strptime's pattern. Without: ISO 8601."
    )
    timezone: str | None = Field(
        None, description="Timestamps without a zone: an IANA name such as Europe/Oslo. Without: UTC."
    )
    separator: str | None = Field(
        None,
        min_length=1,
        description="Lists and embeddings that are text: what stands between two elements.",
    )
    positive: Annotated[str | list[str | int | float | bool] | None, BeforeValidator(_read_positive)] = Field(
        None,
        description="Labels that are no 0 and 1: which values are positive, as a comparison ('>= 4') or as a "
        "list ([buy, cart]); null stays null.",
    )
    weight: float = Field(
        1.0,
        gt=0,
        le=1000,
        allow_inf_nan=False,
        description="Labels, where there are several: how much a row counts where this is 1, such as 5 for "
        "bought beside 1 for looked at.",
    )
    clip: bool = Field(
        False, description="Numbers beyond float32, dates beyond nanoseconds: take the nearest that fits."
    )
    description: str = ""

    @model_validator(mode="after")
    def _fits_its_role(self) -> Self:
        use = USES[self.role]
        if self.dtype is None:
            object.__setattr__(self, "dtype", use.dtypes[0])
        if self.dtype not in use.dtypes:
            raise ValueError(
                f"dtype {self.dtype} does not go with role {self.role}; {_remedy(self.role, str(self.dtype))}"
            )
        written = self.model_fields_set - {"role", "dtype", "source", "description"}
        wrong = sorted(name for name in written - set(use.keys) if _is_told(self, name))
        if wrong:
            allowed = f"it may have {', '.join(use.keys)}" if use.keys else "it has no further keys"
            raise ValueError(
                f"{', '.join(wrong)} does not go with role {self.role}; take it out of the line: {allowed}"
            )
        if self.unit and self.format:
            raise ValueError("unit is for numbers, format for text; keep the one that fits the file")
        if self.timezone is not None:
            _check_zone(self.timezone)
        return self

    @property
    def is_several(self) -> bool:
        """Whether a row holds several values: a list, or an embedding."""
        return self.role in (Role.LIST, Role.EMBEDDING)

    @property
    def comparison(self) -> Comparison | None:
        """The operator and the number behind `positive:`, where that is a comparison."""
        if not isinstance(self.positive, str):
            return None
        found = _COMPARISON.fullmatch(self.positive)
        assert found is not None  # _read_positive has seen to it
        return found[1], float(found[2])

    @property
    def held(self) -> str:
        """The dtype of its values inside: an id's number is int64, whatever callers write."""
        return "int64" if self.role is Role.ID else str(self.dtype)

    @property
    def stored(self) -> Column:
        """The column as it stands in a prepared data set: all that is about reading is done, and left out."""
        return self.model_copy(update=dict.fromkeys(_READING) | {"clip": False})


Columns = dict[str, Column]
_READING = ("source", "unit", "format", "timezone", "separator", "positive")
COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    ">": lambda a, b: a > b,
    "<": lambda a, b: a < b,
}
"""What each operator of `positive:` does with numbers or arrays."""


def _is_told(column: Column, name: str) -> bool:
    """A key that says what is the case without it changes nothing, and may stand anywhere."""
    return bool(getattr(column, name) != type(column).model_fields[name].default)


def _remedy(role: Role, dtype: str) -> str:
    """Says what to write instead of a dtype that a role does not have."""
    if role is Role.TIMESTAMP:
        return {
            "string": "take the dtype out: text is read as ISO 8601, or by `format:`",
            "int64": "take the dtype out and say what the numbers count: `unit: s`, or ms, us, ns",
            "float32": "take the dtype out and say what the numbers count: `unit: s`, or ms, us, ns",
        }.get(dtype, "take the dtype out")
    if role is Role.LIST and dtype == "float32":
        return "numbers that stand for something together are `role: embedding`; else write dtype: int64"
    if dtype == "bool" and "int64" in USES[role].dtypes:
        return "take the dtype out: booleans are read as 0 and 1"
    allowed = " or ".join(USES[role].dtypes)
    return f"write dtype: {allowed}" if len(USES[role].dtypes) > 1 else f"take the dtype out: it is {allowed}"


def _check_zone(name: str) -> None:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(
            f"timezone {name!r} is not known; write an IANA name such as Europe/Oslo, or UTC"
        ) from None
