"""Fills the places of a slate one after the other, as the rules ask it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from contract.arrays import Array, Doubles
from contract.rules.attributes import ItemAttributes
from contract.rules.caps import CapCounts, Held, kept_order
from contract.rules.diversity import Likeness
from contract.rules.order_rules import Cap


class Mover(StrEnum):
    """What moved an item. Bit i of `moved_by` is the i-th of these."""

    BOOST = "boost"
    PIN = "pin"
    CAP = "cap"
    SHARE = "share"
    DIVERSITY = "diversity"


_BURIED = 1e4
"""More than any two values differ by."""
BIT = {mover: 1 << bit for bit, mover in enumerate(Mover)}


def movers(mask: int) -> list[Mover]:
    """Lists what the bit mask `moved_by` says."""
    return [mover for mover, bit in BIT.items() if mask & bit]


@dataclass(frozen=True)
class CappedColumn:
    """A cap, and what the candidates and the items before the first place hold in its column."""

    cap: Cap
    held: Held
    before: Held = ()

    @classmethod
    def of(cls, cap: Cap, attributes: ItemAttributes, rows: Array, before: Array) -> CappedColumn:
        """Reads it by the rows of the candidates (C,), and of the items before."""
        column = attributes.columns[cap.column]
        return cls(cap, column.held(rows), column.held(before))


@dataclass(frozen=True)
class SharedPlaces:
    """A share of the places: which candidates (C,) are to have it, and how many of them are to stand on the
    places up to each, at least."""

    members: Sequence[bool]
    due: Sequence[int]


@dataclass(frozen=True)
class Exploration:
    """Values are drawn with Gumbel noise of this scale, anew for each place, so that what came before tells
    nothing of it; `generator` is the user's own."""

    scale: float
    generator: np.random.Generator


@dataclass(frozen=True)
class Wishes:
    """One user's C candidates, best first, and what is asked of their order.

    `values`, float64 (C,), descend; those from `buried` on come after the others, whatever their values.
    Those from `reserved` on have no place but their own. `pins` maps a place, from 0, to its candidate; it
    may lie behind the last of the `places`. With `likeness`, the values are in [0,1], already less the part
    `diversity` of themselves.
    """

    values: Doubles
    places: int
    buried: int
    reserved: int
    pins: Mapping[int, int] = field(default_factory=dict)
    caps: Sequence[CappedColumn] = ()
    shares: Sequence[SharedPlaces] = ()
    diversity: float = 0.0
    likeness: Likeness | None = None
    exploration: Exploration | None = None


@dataclass
class Placement:
    """The candidate of each place; the probability that each place got it, given those before; what moved
    each candidate, (C,), a bit mask of `Mover`; and whether a cap is broken."""

    order: list[int]
    chances: list[float]
    moved_by: list[int]
    breaks_cap: bool = False


def fill_places(wishes: Wishes) -> Placement:
    """Fills each place with the best candidate that is left and that the rules allow.

    A pin takes its place before all else. Then comes, of what no cap forbids and is not buried, what a share
    is due, else what has the greatest value; then what is buried. Where no candidate keeps the caps, another
    order is looked for that does; where there is none, the best stands there all the same. No place stays
    empty while there is a candidate.
    """
    placement = _Filling(wishes).filled()
    if placement.breaks_cap and wishes.exploration is None:
        places = len(placement.order)
        pins = {place: one for place, one in wishes.pins.items() if place < places}
        caps = [CapCounts(one.cap, one.held, one.before, pins) for one in wishes.caps]
        order = kept_order(caps, range(wishes.reserved), pins, places)
        if order is not None:
            moved_by = list(placement.moved_by)
            for place, one in enumerate(order):
                if placement.order[place] != one:
                    moved_by[one] |= BIT[Mover.CAP]
            return Placement(order, placement.chances, moved_by)
    return placement


class _Filling:
    def __init__(self, wishes: Wishes) -> None:
        self.wishes, self.pins = wishes, dict(wishes.pins)
        has_place = set(self.pins.values())
        self.waiting = [one for one in range(wishes.reserved) if one not in has_place]
        self.caps = [CapCounts(one.cap, one.held, one.before, self.pins) for one in wishes.caps]
        self.given = [0] * len(wishes.shares)
        self.moved_by = [0] * len(wishes.values)
        self.breaks_cap = False
        self.is_static = wishes.likeness is None and wishes.exploration is None
        if not self.is_static:
            self.base = np.full(len(wishes.values), -np.inf)  # of who waits, the values
            waiting = np.array(self.waiting, dtype=np.intp)
            self.base[waiting] = wishes.values[waiting] - np.where(waiting < wishes.buried, 0, _BURIED)

    def filled(self) -> Placement:
        order: list[int] = []
        chances: list[float] = []
        for place in range(self.wishes.places):
            chance = 1.0
            if place in self.pins:
                best = self.pins.pop(place)
                self.moved_by[best] |= BIT[Mover.PIN]
            elif self.waiting:
                best, chance = self._best(place)
                self._take(best)
            elif self.pins:  # better before its place than nobody
                first = min(self.pins)
                best = self.pins.pop(first)
                for cap in self.caps:
                    cap.drop_pin(first)
            else:
                break
            order.append(best)
            chances.append(chance)
            for cap in self.caps:
                self.breaks_cap |= cap.is_full(best)
                cap.add(best)
            if self.wishes.likeness is not None:
                self.wishes.likeness.add(best)
            for at, share in enumerate(self.wishes.shares):
                self.given[at] += share.members[best]
        return Placement(order, chances, self.moved_by, self.breaks_cap)

    def _best(self, place: int) -> tuple[int, float]:
        """Gives the candidate of a place, and the probability of it."""
        plain, drawn = self._values()
        free, blocked = self._first_free(drawn)
        if free is None:
            return blocked[0], 1.0
        best, members = free, self._due(place)
        if members is not None and not members[best]:
            fitting = (one for one in self._best_first(drawn) if members[one] and one < self.wishes.buried)
            best = next((one for one in fitting if not self._is_blocked(one)), free)
        if best != free:
            self.moved_by[best] |= BIT[Mover.SHARE]
        else:
            for one in blocked:
                self.moved_by[one] |= BIT[Mover.CAP]
            front = self.waiting if self.wishes.likeness is not None else ()
            if best != next((one for one in front if not self._is_blocked(one)), best):
                self.moved_by[best] |= BIT[Mover.DIVERSITY]
        if self.wishes.exploration is None:
            return best, 1.0
        return best, self._chance(plain, best, members if members is not None and members[best] else None)

    def _values(self) -> tuple[Doubles, Doubles]:
        """Gives the values of a place, before noise and with it; -inf for who does not wait."""
        wishes = self.wishes
        if self.is_static:
            return wishes.values, wishes.values
        plain = drawn = self.base
        if wishes.likeness is not None:
            plain = drawn = plain - wishes.diversity * wishes.likeness.greatest
        if (exploration := wishes.exploration) is not None:
            drawn = plain + exploration.scale * exploration.generator.gumbel(size=len(plain))
        return plain, drawn

    def _first_free(self, drawn: Doubles) -> tuple[int | None, list[int]]:
        """Gives the best who waits and whom no cap forbids, if any, and who would come before."""
        best = self.waiting[0] if self.is_static else int(drawn.argmax())
        if not self._is_blocked(best):
            return best, []
        blocked: list[int] = []
        for one in self._best_first(drawn):
            if not self._is_blocked(one):
                return one, blocked
            blocked.append(one)
        return None, blocked

    def _best_first(self, drawn: Doubles) -> list[int]:
        """Lists those who wait."""
        if self.is_static:
            return self.waiting
        best: list[int] = np.argsort(-drawn, kind="stable")[: len(self.waiting)].tolist()
        return best

    def _take(self, best: int) -> None:
        self.waiting.remove(best)
        if not self.is_static:
            self.base[best] = -np.inf

    def _due(self, place: int) -> Sequence[bool] | None:
        """Says which candidates have a share that is due; None where none is."""
        for share, given in zip(self.wishes.shares, self.given, strict=True):
            if share.due[place] > given:
                return share.members
        return None

    def _chance(self, plain: Doubles, best: int, members: Sequence[bool] | None) -> float:
        """Gives the probability of a candidate among those that could have come in its place: as good as it
        in every respect but the value."""
        assert self.wishes.exploration is not None
        scale, is_buried = self.wishes.exploration.scale, best >= self.wishes.buried
        if not scale:
            return 1.0
        rivals = [
            one
            for one in self.waiting
            if (one >= self.wishes.buried) == is_buried
            and (members is None or members[one])
            and not self._is_blocked(one)
        ]
        return float(1 / np.exp((plain[rivals] - plain[best]) / scale).sum())

    def _is_blocked(self, one: int) -> bool:
        for cap in self.caps:  # noqa: SIM110  (`any` of a generator takes three times as long)
            if cap.blocks(one):
                return True
        return False
