"""What items hold in the columns that rules are about, as small numbers: compared for many at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from contract.arrays import Array, Bools
from contract.filters import Condition, Filters, number

NONE = -1
"""The code of no value."""
FEW = 8
"""Values that are compared one by one: sorting them takes longer."""
MOST_HELD = 1 << 16
"""Items of which it is remembered what they hold: the same come again and again."""
MOST_FILTERS = 64
"""Filters whose items are remembered: what one caller asks for, it asks for again."""
Codes = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Attribute:
    """One column of I items. Item i holds the values `codes[starts[i]:starts[i + 1]]`: places in `values`,
    which are in canonical form and different, or `NONE`. `is_known`, bool (I,), is false where nothing is
    known of the item, not even null."""

    dtype: str
    values: Sequence[str]
    codes: Codes
    starts: npt.NDArray[np.int64]
    is_known: Bools

    @classmethod
    def of_texts(
        cls, dtype: str, texts: Sequence[str | None], at: Array, starts: Array, is_known: Bools
    ) -> Attribute:
        """Takes the canonical forms of some values, of which None is none and several may be the same, and
        which of them the items hold, one after the other."""
        values: dict[str, int] = {}
        code = [NONE if text is None else values.setdefault(text, len(values)) for text in texts]
        codes = np.array([*code, NONE], dtype=np.int32)[at]
        return cls(dtype, list(values), codes, np.asarray(starts, dtype=np.int64), is_known)

    def changed(self, rows: int, held: Mapping[int, AbstractSet[str]]) -> Attribute:
        """Gives the column of `rows` items and a last row, of no item, which is also the last here: those of
        `held`, by row, hold these values in canonical form; of other new rows nothing is known."""
        before = len(self.starts) - 2
        values = dict(self.code_of)
        cells = {r: [values.setdefault(v, len(values)) for v in sorted(texts)] for r, texts in held.items()}
        lengths = np.zeros(rows + 1, dtype=np.int64)
        lengths[:before], lengths[-1] = np.diff(self.starts[:-1]), self.starts[-1] - self.starts[-2]
        owners = np.repeat(np.append(np.arange(before), rows), np.diff(self.starts))
        is_kept = ~np.isin(owners, list(cells))
        for row, own in cells.items():
            lengths[row] = len(own)
        starts = np.cumsum(np.append(0, lengths))
        shifted = starts[owners] + np.arange(len(owners)) - np.repeat(self.starts[:-1], np.diff(self.starts))
        codes = np.full(starts[-1], NONE, dtype=np.int32)
        codes[shifted[is_kept]] = self.codes[is_kept]
        is_known = np.zeros(rows + 1, dtype=np.bool_)
        is_known[:before] = self.is_known[:before]
        for row, own in cells.items():
            codes[starts[row] : starts[row + 1]] = own
            is_known[row] = True
        return Attribute(self.dtype, list(values), codes, starts, is_known)

    @cached_property
    def widest(self) -> int:
        """Most values that an item holds, at least 1."""
        return max(1, int(np.diff(self.starts).max(initial=1)))

    @cached_property
    def code_of(self) -> dict[str, int]:
        """The place of each value."""
        return {value: code for code, value in enumerate(self.values)}

    @cached_property
    def numbers(self) -> npt.NDArray[np.float64]:
        """The values as numbers, NaN behind the last."""
        return np.array([*(number(value, self.dtype) for value in self.values), np.nan], dtype=np.float64)

    def of(self, rows: Array) -> Codes:
        """Takes rows of items (...), gives their codes (..., L), the tail `NONE`."""
        starts = self.starts[rows]
        if self.widest == 1:
            has = self.starts[rows + 1] > starts
            single = self.codes.take(starts, mode="clip") if len(self.codes) else np.full(rows.shape, NONE)
            return np.where(has, single, NONE).astype(np.int32, copy=False)[..., None]
        at = starts[..., None] + np.arange(self.widest)
        is_held = at < self.starts[rows + 1][..., None]
        found: Codes = np.where(is_held, self.codes.take(at, mode="clip"), NONE).astype(np.int32, copy=False)
        return found

    def held(self, rows: Array) -> list[tuple[int, ...]]:
        """Lists the codes of items (n,), each once; one without any holds `NONE` alone."""
        return [self._held(row) for row in rows.tolist()]

    @cached_property
    def _held(self) -> Callable[[int], tuple[int, ...]]:
        return lru_cache(MOST_HELD)(self._codes_of)

    def _codes_of(self, row: int) -> tuple[int, ...]:
        codes = self.codes[self.starts[row] : self.starts[row + 1]].tolist()
        return tuple(dict.fromkeys(one for one in codes if one != NONE)) or (NONE,)

    def meets(self, condition: Condition, codes: Codes) -> Bools:
        """Whether items that hold these codes (..., L) meet a condition; what `Condition.is_met` says, for
        many."""
        met = np.ones(codes.shape[:-1], dtype=np.bool_)
        if condition.allowed is not None:
            wanted = [self.code_of[one] for one in condition.allowed if one in self.code_of]
            met &= _are_among(codes, wanted).any(axis=-1)
            if None in condition.allowed:
                met |= (codes == NONE).all(axis=-1)
        if (within := condition.within) is not None:
            held = self.numbers[codes]
            above = held > within.low if within.is_low_open else held >= within.low
            below = held < within.high if within.is_high_open else held <= within.high
            met &= (above & below).any(axis=-1)
        if condition.unless is not None:
            met &= ~self.meets(condition.unless, codes)
        return met


class ChangedColumns(Mapping[str, Attribute]):
    """Columns of which some items hold other values now, and to which items were added; grown when first
    asked for, and kept."""

    def __init__(
        self, columns: Mapping[str, Attribute], rows: int, held: Mapping[int, Mapping[str, AbstractSet[str]]]
    ) -> None:
        """Takes the columns as they were, of how many items they are now, and what the changed and new ones
        hold, by row."""
        self._columns, self._rows, self._held = columns, rows, held
        self._changed: dict[str, Attribute] = {}

    def __getitem__(self, name: str) -> Attribute:
        """Gives one column."""
        if name not in self._changed:
            held = {row: values[name] for row, values in self._held.items() if name in values}
            self._changed[name] = self._columns[name].changed(self._rows, held)
        return self._changed[name]

    def __iter__(self) -> Iterator[str]:
        """Lists the columns' names."""
        return iter(self._columns)

    def __len__(self) -> int:
        """Counts the columns."""
        return len(self._columns)


@dataclass(frozen=True)
class ItemAttributes:
    """The filterable columns of I items."""

    columns: Mapping[str, Attribute]

    @classmethod
    def of_held(
        cls, held: Sequence[Mapping[str, AbstractSet[str]]], dtypes: Mapping[str, str]
    ) -> ItemAttributes:
        """Takes what each item holds by column, in canonical form; of a column that is not there nothing is
        known."""
        return cls({name: _attribute([one.get(name) for one in held], dt) for name, dt in dtypes.items()})

    def passing(self, filters: Filters) -> Bools:
        """Which of all items meet every one of some conditions, (I,), read-only; filters that come again are
        remembered."""
        return self._passing(tuple(filters.items()))

    @cached_property
    def _passing(self) -> Callable[[tuple[tuple[str, Condition], ...]], Bools]:
        def found(filters: tuple[tuple[str, Condition], ...]) -> Bools:
            passing = self.passes(dict(filters), np.arange(len(self.columns[filters[0][0]].is_known)))
            passing.flags.writeable = False
            return passing

        return lru_cache(MOST_FILTERS)(found)

    def passes(self, filters: Filters, rows: Array) -> Bools:
        """Whether items in these rows (...) meet every condition."""
        passing = np.ones(rows.shape, dtype=np.bool_)
        for column, condition in filters.items():
            attribute = self.columns[column]
            passing &= attribute.is_known[rows] & attribute.meets(condition, attribute.of(rows))
        return passing


def _are_among(codes: Codes, wanted: Sequence[int]) -> Bools:
    if len(wanted) > FEW:
        return np.isin(codes, wanted)
    found = np.zeros(codes.shape, dtype=np.bool_)
    for one in wanted:
        found |= codes == one
    return found


def _attribute(held: Iterable[AbstractSet[str] | None], dtype: str) -> Attribute:
    cells = list(held)
    texts = [text for cell in cells for text in sorted(cell or ())]
    starts = np.cumsum([0, *(len(cell or ()) for cell in cells)])
    is_known = np.array([cell is not None for cell in cells], dtype=np.bool_)
    return Attribute.of_texts(dtype, texts, np.arange(len(texts)), starts, is_known)
