"""Caps while places are filled: which candidates would be one too many of a value within a window."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence

from contract.rules.asked import Cap
from contract.rules.attributes import NONE

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
        for values in self.line[-self.reach :]:
            self._count(values, 1)
        self.pins = {place: held[candidate] for place, candidate in pins.items()}

    def blocks(self, candidate: int) -> bool:
        """Whether the cap forbids a candidate on the next place; pins further on count as well."""
        return self.is_full(candidate) or (bool(self.pins) and self._blocks_pins(candidate))

    def is_full(self, candidate: int) -> bool:
        """Whether a candidate on the next place breaks the cap, with what stands before it."""
        counts, most = self.counts, self.most
        return any(counts.get(one, 0) >= most and one != NONE for one in self.held[candidate])

    def _blocks_pins(self, candidate: int) -> bool:
        values = [one for one in self.held[candidate] if one != NONE]
        next_place, later = len(self.line) - self.start, Counter[int]()
        for place in sorted(p for p in self.pins if next_place < p <= next_place + self.reach):
            later.update(self.pins[place])
            near = self.reach - (place - next_place)  # places before the next one that its window holds
            for values_before in self.line[-near:] if near else ():
                later.update(values_before)
            if any(later[one] >= self.most for one in values):
                return True
            for values_before in self.line[-near:] if near else ():
                later.subtract(values_before)
        return False

    def add(self, candidate: int) -> None:
        """Puts a candidate on the next place."""
        self.line.append(self.held[candidate])
        self._count(self.line[-1], 1)
        if len(self.line) > self.reach:
            self._count(self.line[-1 - self.reach], -1)

    def take_back(self) -> None:
        """Takes the last candidate away again."""
        self._count(self.line.pop(), -1)
        if len(self.line) >= self.reach:
            self._count(self.line[-self.reach], 1)

    def _count(self, values: Sequence[int], by: int) -> None:
        for one in values:
            self.counts[one] = self.counts.get(one, 0) + by


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
