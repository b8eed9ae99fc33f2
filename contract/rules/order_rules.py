"""What may be asked of the order of a slate, by a request and by the settings, and how it is checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationError,
    model_validator,
)

from contract.bundle import BundleError, Manifest
from contract.errors import ErrorCode, StageError, WrongField
from contract.filters import Filters, check_filters
from contract.ids import IdDtype, number_of
from contract.tensors import MAX_N, RULES_WIDTHS, fit_width

MOST_TIMES = 1_000_000.0
MAX_CAPS = 4
MAX_PLACE = 1_000
"""Of an item that has a place of its own; all pages count on."""
_Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_Wanted = Annotated[
    dict[StrictStr, Any],
    Field(min_length=1, max_length=64, description="Which items, as `filters` of a request say it."),
]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Boost(_Asked):
    """Items that are to come earlier, or later, than their scores say."""

    filters: _Wanted
    times: Annotated[_Number, Field(ge=0, le=MOST_TIMES)] = Field(
        description="What the odds of their score are multiplied by: above 1 they come earlier, below 1 "
        "later; at 0 behind every other item."
    )


class Pin(_Asked):
    """An item that has a place of its own, where it may be shown at all."""

    item_id: StrictInt | StrictStr = Field(description="The item, by its own id.")
    place: Annotated[StrictInt, Field(ge=1, le=MAX_PLACE)] = Field(
        description="From 1; on later pages the places count on."
    )


class Cap(_Asked):
    """How often a value of a column may stand within some places that follow each other."""

    column: StrictStr = Field(description="A column that can be filtered on.")
    most: Annotated[StrictInt, Field(ge=1, lt=MAX_N)] = Field(description="Items of one value.")
    window: Annotated[StrictInt, Field(ge=2, le=MAX_N)] = Field(description="Places in a row.")

    @model_validator(mode="after")
    def _binds(self) -> Self:
        if self.most >= self.window:
            raise ValueError("most must be less than window: else it caps nothing")
        return self


class Share(_Asked):
    """A share of all places that such items get at least, as long as there are any."""

    filters: _Wanted | None = Field(None, description="Left out: the items that the bundle has as new ones.")
    share: Annotated[_Number, Field(gt=0, le=1)] = Field(description="Above 0, up to 1: of all places.")


class OrderRules(_Asked):
    """What may be asked of the order of a slate, after scoring."""

    boosts: Annotated[tuple[Boost, ...], Field(max_length=16)] = Field(
        (), description="Items that come earlier or later; factors of several are multiplied."
    )
    pins: Annotated[tuple[Pin, ...], Field(max_length=16)] = Field(
        (),
        description="Items with places of their own. One that is not available, was seen, is excluded or "
        "does not pass the filters is left out.",
    )
    caps: Annotated[tuple[Cap, ...], Field(max_length=MAX_CAPS)] = Field(
        (), description="Most items of one value within a window of places."
    )
    shares: Annotated[tuple[Share, ...], Field(max_length=4)] = Field(
        (), description="Shares of the places that some items get at least."
    )
    diversity: Annotated[_Number, Field(ge=0, le=1)] | None = Field(
        None,
        description="How much an item's likeness to those before it counts against it, 0 to 1; 0 is the "
        "order of the scores.",
    )

    @model_validator(mode="after")
    def _pins_each_once(self) -> Self:
        for name in ("place", "item_id"):
            values = [getattr(pin, name) for pin in self.pins]
            if len(set(values)) < len(values):
                raise ValueError(f"pins give one {name} twice: name each once")
        return self


class RequestRules(OrderRules):
    """What a request asks of the order: in addition to what the settings ask of every slate, unless it says
    that these do not count. Its `diversity` stands in the place of theirs, and its pin in that of theirs."""

    defaults: StrictBool = Field(True, description="Whether the settings' rules count as well.")


def _of_environment(values: Any) -> Any:
    """Reads the one number that stands in a variable of its own."""
    if isinstance(values, dict) and isinstance(values.get("diversity"), str):
        try:
            return values | {"diversity": float(values["diversity"])}
        except ValueError:
            return values
    return values


SettingRules = Annotated[OrderRules, BeforeValidator(_of_environment)]
"""Those of every slate, as settings hold them."""


@dataclass(frozen=True)
class CheckedRules:
    """Rules whose columns and values the bundle knows: `pins` are places and numbers of items, and a share
    without filters is that of new items."""

    boosts: tuple[tuple[Filters, float], ...] = ()
    pins: tuple[tuple[int, int], ...] = ()
    caps: tuple[Cap, ...] = ()
    shares: tuple[tuple[Filters | None, float], ...] = ()
    diversity: float = 0.0

    @property
    def is_none(self) -> bool:
        """Whether they change nothing."""
        return not (self.boosts or self.pins or self.caps or self.shares or self.diversity)


NO_RULES = CheckedRules()


def check_rules(rules: OrderRules, dtypes: Mapping[str, str], item_ids: IdDtype) -> CheckedRules:
    """Compares rules with the columns that the bundle filters on, their dtypes, and that of the items' ids.

    Raises:
        WrongField: naming the field of the rules and what would be right.
    """
    for at, cap in enumerate(rules.caps):
        if cap.column not in dtypes:
            remedy = f"use one of {', '.join(sorted(dtypes))}" if dtypes else "this bundle has none"
            raise WrongField(f"caps.{at}.column", f"is no column that can be filtered on: {remedy}")
    pins = []
    for at, pin in enumerate(rules.pins):
        try:
            pins.append((pin.place, number_of(pin.item_id, item_ids)))
        except ValueError as error:
            raise WrongField(f"pins.{at}.item_id", str(error)) from None
    return CheckedRules(
        tuple(
            (_filters(f"boosts.{at}", one.filters, dtypes), one.times) for at, one in enumerate(rules.boosts)
        ),
        tuple(pins),
        rules.caps,
        tuple(
            (None if one.filters is None else _filters(f"shares.{at}", one.filters, dtypes), one.share)
            for at, one in enumerate(rules.shares)
        ),
        rules.diversity or 0.0,
    )


def check_defaults(rules: OrderRules, manifest: Manifest) -> CheckedRules:
    """Compares the settings' rules with a bundle.

    Raises:
        BundleError: one names what this bundle does not have.
    """
    try:
        return check_rules(rules, manifest.filters, manifest.item_id_dtype)
    except WrongField as error:
        raise BundleError(f"SHORTLIST_ORDER: {error}; the bundle is {manifest.bundle}") from None


def merged(requested: OrderRules, defaults: OrderRules) -> OrderRules:
    """Adds what a request asks to what the settings ask of every slate."""
    if isinstance(requested, RequestRules) and not requested.defaults:
        return requested
    places, items = {pin.place for pin in requested.pins}, {pin.item_id for pin in requested.pins}
    others = (pin for pin in defaults.pins if pin.place not in places and pin.item_id not in items)
    return OrderRules.model_construct(
        boosts=(*requested.boosts, *defaults.boosts),
        pins=(*requested.pins, *others),
        caps=(*requested.caps, *defaults.caps),
        shares=(*requested.shares, *defaults.shares),
        diversity=defaults.diversity if requested.diversity is None else requested.diversity,
    )


def encode_rules(rules: RequestRules | None, shown: int = 0) -> npt.NDArray[np.uint8]:
    """Packs what a request asks of the order, and how many items the pages before it showed, as JSON padded
    with zeros; uint8 (1,P).

    Raises:
        StageError: `bad_request`, where it is longer than the widest tensor.
    """
    content: dict[str, Any] = {} if rules is None else {"rules": rules.model_dump(exclude_unset=True)}
    data = json.dumps(content | {"shown": shown}, separators=(",", ":")).encode()
    row = np.zeros((1, fit_width(len(data), RULES_WIDTHS, "rules")), dtype=np.uint8)
    row[0, : len(data)] = np.frombuffer(data, dtype=np.uint8)
    return row


def decode_rules(
    row: npt.NDArray[np.uint8], dtypes: Mapping[str, str], item_ids: IdDtype
) -> tuple[RequestRules, int]:
    """Unpacks and checks one row (P,) of `encode_rules`, as `check_rules` does; the same bytes once.

    Raises:
        StageError: `bad_request`, where it is nothing of the kind, or a rule is wrong.
    """
    return _decoded(row.tobytes().rstrip(b"\0"), tuple(dtypes.items()), item_ids)


@lru_cache(maxsize=1024)
def _decoded(data: bytes, dtypes: tuple[tuple[str, str], ...], item_ids: IdDtype) -> tuple[RequestRules, int]:
    try:
        content = json.loads(data or b"{}")
        shown = content.get("shown", 0)
        if type(shown) is not int or shown < 0:
            raise TypeError
        rules = RequestRules.model_validate(content.get("rules", {}))
        check_rules(rules, dict(dtypes), item_ids)
        return rules, shown
    except ValidationError as error:
        first = error.errors()[0]
        message = f"{'.'.join(('rules', *map(str, first['loc'])))}: {first['msg']}"
    except WrongField as error:
        message = str(error.within("rules"))
    except (AttributeError, TypeError, ValueError, RecursionError):
        message = "rules must be an object of boosts, pins, caps, shares and diversity"
    raise StageError(ErrorCode.BAD_REQUEST, "request", message)


def _filters(field: str, wanted: Mapping[str, Any], dtypes: Mapping[str, str]) -> Filters:
    try:
        return check_filters(wanted, dtypes)
    except WrongField as error:
        raise error.within(field) from None
