"""How much of the candidates the ensemble is asked to consider, where all of them take too long."""

from __future__ import annotations

import time
from itertools import pairwise

from contract.tensors import FULL_QUALITY
from service.limits.window import Clock, Window

STEPS = (0.0, 0.25, 0.5, 0.75, FULL_QUALITY)
"""At 0 the ranker is left out as well."""
WINDOW_S = 0.1
WINDOW_SAMPLES = 8
TIGHT = 0.9
"""The share of the ensemble's time beyond which the quality is lowered."""
EASY = tuple(TIGHT * max(low / high, 0.5) for low, high in pairwise(STEPS))
"""Of each step, the share below which it is raised to the next: there is room even if all of the time grows
as the candidates do. Between a step's two shares nothing changes, so that the quality does not swing."""
PATIENCE, CALM = 5, 4
"""Windows in a row before it is lowered, and before it is raised: from the bottom to the top in 1.6 s."""


class Quality:
    """A factor in [0, 1] that goes down by a step as the 95th percentile nears the time, and up again.

    The bound of requests in flight acts first (`is_last_resort`): fewer full answers are worth more than as
    many weak ones, and under mere overload the ensemble is not slow, only wanted too much.
    """

    def __init__(self, time_s: float, clock: Clock = time.monotonic) -> None:
        self._time_s = time_s
        self._window = Window(WINDOW_S, WINDOW_SAMPLES, clock)
        self._step = len(STEPS) - 1
        self._tight = self._easy = 0

    @property
    def value(self) -> float:
        """The share of the candidates to consider now."""
        return STEPS[self._step]

    def took(self, latency_s: float, is_last_resort: bool) -> None:
        """Learns how long an answer took, in seconds, and whether nothing else is left that would help."""
        p95_s = self._window.add(latency_s)
        if p95_s is None:
            return
        self._tight = self._tight + 1 if p95_s > TIGHT * self._time_s and is_last_resort else 0
        is_easy = self._step < len(EASY) and p95_s < EASY[self._step] * self._time_s
        self._easy = self._easy + 1 if is_easy else 0
        if self._tight >= PATIENCE:
            self._move(-1)
        elif self._easy >= CALM:
            self._move(+1)

    def _move(self, steps: int) -> None:
        self._step = min(max(self._step + steps, 0), len(STEPS) - 1)
        self._tight = self._easy = 0
