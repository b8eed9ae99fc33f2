"""Caps while places are filled: which candidates would be one too many of a value within a window."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence

from contract.rules.attributes import NONE
from contract.rules.order_rules import Cap

MOST_TRIES = 600
"""Steps of the search for an order that keeps the caps, where the first way through ended in none."""
Held = Sequence[Sequence[int]]
"""The codes that each of some items holds, `NONE` among them for none."""


class CapCounts:
    """Counts how often each value stands on the last places of the window. No value is capped by no cap; an
    item of several values counts for each."""

    def __init__(self, cap: Cap, held: Held, before: Held, pins: Mapping[int, int]) -> None:
        """Takes what the candidates hold, and the items that stand before the first place, in order; and the
        candidates that have places of their own, by place from 0."""
        self.most, self.reach, self.held = cap.most, cap.window - 1, held
        self.line = list(before)
        self.start = len(self.line)
        self.counts: dict[int, int] = {}
        self.full: set[int] = set()
        for values in self.line[-self.reach :]:
            self._count(values, 1)
        self.pins = {place: held[candidate] for place, candidate in pins.items()}
        self._blocked: set[int] | None = None

    def blocks(self, candidate: int) -> bool:
        """Whether the cap forbids a candidate on the next place; pins further on count as well."""
        if self._blocked is None:
            self._blocked = self.full | self._full_by_pins() if self.pins else self.full
        return not self._blocked.isdisjoint(self.held[candidate])

    def is_full(self, candidate: int) -> bool:
        """Whether a candidate on the next place breaks the cap, with what stands before it."""
        return not self.full.isdisjoint(self.held[candidate])

    def add(self, candidate: int) -> None:
        """Puts a candidate on the next place."""
        self.line.append(self.held[candidate])
        self._count(self.line[-1], 1)
        if len(self.line) > self.reach:
            self._count(self.line[-1 - self.reach], -1)
        self._blocked = None

    def take_back(self) -> None:
        """Takes the last candidate away again."""
        self._count(self.line.pop(), -1)
        if len(self.line) >= self.reach:
            self._count(self.line[-self.reach], 1)
        self._blocked = None

    def drop_pin(self, place: int) -> None:
        """Forgets a pin: its candidate stands elsewhere."""
        del self.pins[place]
        self._blocked = None

    def _full_by_pins(self) -> set[int]:
        """Lists the values that would be too many on the next place, in the windows of the pins after it."""
        next_place, later, full = len(self.line) - self.start, Counter[int](), set[int]()
        for place in sorted(p for p in self.pins if next_place < p <= next_place + self.reach):
            later.update(self.pins[place])
            near = self.reach - (place - next_place)  # places before the next one that its window holds
            within = later.copy()
            for values in self.line[-near:] if near else ():
                within.update(values)
            full |= {one for one, count in within.items() if count >= self.most}
        return full - {NONE}

    def _count(self, values: Sequence[int], by: int) -> None:
        for one in values:
            count = self.counts[one] = self.counts.get(one, 0) + by
            if count < self.most:
                self.full.discard(one)
            elif one != NONE:
                self.full.add(one)


def kept_order(
    caps: Sequence[CapCounts], usable: Sequence[int], pins: Mapping[int, int], places: int
) -> list[int] | None:
    """Looks for the first order, by preference, that keeps every cap; None where there is none, or none was
    found in `MOST_TRIES` steps.

    Takes the candidates that may be placed, best first, those that have places of their own, from 0, and how
    many places there are.
    """
    has_place = set(pins.values())
    free = [one for one in usable if one not in has_place]
    if any(_most_places(cap, [*free, *has_place], places) < places for cap in caps):
        return None
    kinds: dict[tuple[frozenset[int], ...], list[int]] = {}
    for one in free:  # those that hold the same are one as good as the other, the first first
        kinds.setdefault(tuple(frozenset(cap.held[one]) for cap in caps), []).append(one)
    left = {kind: deque(of_kind) for kind, of_kind in kinds.items()}
    order: list[int] = []
    tries = 0

    def is_filled() -> bool:
        nonlocal tries
        if len(order) == places:
            return True
        pinned = pins.get(len(order))
        heads = sorted((of_kind[0], kind) for kind, of_kind in left.items() if of_kind)
        for one, kind in heads if pinned is None else [(pinned, ())]:
            tries += 1
            if tries > MOST_TRIES:
                return False
            if any(cap.blocks(one) for cap in caps):
                continue
            order.append(one)
            if pinned is None:
                left[kind].popleft()
            for cap in caps:
                cap.add(one)
            if is_filled():
                return True
            order.pop()
            if pinned is None:
                left[kind].appendleft(one)
            for cap in caps:
                cap.take_back()
        return False

    return order if is_filled() else None


def _most_places(cap: CapCounts, candidates: Sequence[int], places: int) -> int:
    """Bounds the places that candidates can have by a cap; of items with several values, by all of them."""
    if any(len(cap.held[one]) > 1 for one in candidates):
        return len(candidates)
    whole, rest = divmod(places, cap.reach + 1)
    most = whole * cap.most + min(rest, cap.most)
    counts = Counter(cap.held[one][0] for one in candidates)
    return counts.pop(NONE, 0) + sum(min(count, most) for count in counts.values())
