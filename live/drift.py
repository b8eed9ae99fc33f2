"""Compares a sliding window of what is served with the reference of the bundle that serves it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np

from contract.arrays import Array, Ints
from contract.drift import Reference, jensen_shannon, psi, shares
from contract.watched import FeatureDrift


class DriftWindow:
    """The last answers of one bundle, at least `most` of them once there were so many, counted in the bins of
    its reference; nothing is told before."""

    def __init__(self, reference: Reference, most: int, psi_limit: float, js_limit: float) -> None:
        self._reference, self._most = reference, most
        self._psi_limit, self._js_limit = psi_limit, js_limit
        self._blocks: deque[tuple[int, dict[str, Ints]]] = deque()
        self.answers = 0
        self.counts: dict[str, Ints] = {}

    def add(self, answers: int, values: Mapping[str, Array]) -> None:
        """Takes what some answers are about, by name; the oldest go."""
        counted = self._reference.count(values)
        self._blocks.append((answers, counted))
        self.answers += answers
        for name, counts in counted.items():
            self.counts[name] = self.counts.get(name, np.zeros_like(counts)) + counts
        while self.answers - self._blocks[0][0] >= self._most:
            gone, counted = self._blocks.popleft()
            self.answers -= gone
            for name, counts in counted.items():
                self.counts[name] = self.counts[name] - counts

    def drift(self) -> dict[str, FeatureDrift]:
        """Gives the distances by name; nothing while the window is not full."""
        if self.answers < self._most:
            return {}
        found = {}
        for name, counts in self.counts.items():
            if not counts.sum():
                continue
            former, now = shares(self._reference.histograms[name].counts), shares(counts)
            index, divergence = psi(former, now), jensen_shannon(former, now)
            is_drifted = index > self._psi_limit and divergence > self._js_limit
            found[name] = FeatureDrift(
                psi=index,
                jensen_shannon=divergence,
                is_drifted=is_drifted,
                shares=tuple(now.round(4).tolist()),
            )
        return found
