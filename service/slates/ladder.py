"""The ways to make a slate, best first: each is tried in turn within what is left of the budget."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from contract.filters import Filters
from contract.routing import CHAMPION
from contract.rules.order_rules import NO_RULES, CheckedRules
from service.failures import DependencyUnavailable, EnsembleBusy, NotStored, OtherBundle
from service.limits.deadline import Deadline
from service.metrics import Metrics
from service.schemas import SlateBody
from service.slate import Slate


class Outcome(StrEnum):
    """How a step ended. All but the first let the next step try, and end the reason in `degraded`."""

    ANSWERED = "answered"
    BUSY = "busy"
    LATE = "late"
    UNAVAILABLE = "unavailable"
    MISSING = "missing"
    OTHER_BUNDLE = "other_bundle"


@dataclass(slots=True)
class SlateRequest:
    """One request on its way down: its budget, the time each step took, and what its log line will say."""

    request: SlateBody
    filters: Filters
    request_id: str
    deadline: Deadline
    rules: CheckedRules = NO_RULES
    arm: str = CHAMPION
    timings_ms: dict[str, float] = field(default_factory=dict)
    log_fields: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Notes the milliseconds that the block took, whether or not it raised."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.timings_ms[stage] = (time.monotonic() - started) * 1000


@runtime_checkable
class SlateStep(Protocol):
    """One way to make a slate."""

    name: str
    """Its label in metrics and timings; begins the reasons in `degraded`."""

    async def slate(self, query: SlateRequest) -> Slate:
        """Makes a slate.

        Raises:
            DependencyUnavailable: this step cannot, or not in time; the next one tries.
            StageError: the request is wrong, or we are; no later step hides that.
        """


class Ladder:
    """The steps in the order in which they are tried; the last one needs no server.

    Outcomes that are `silent` are counted, and leave no reason in `degraded`: nobody asked for that step.
    """

    def __init__(
        self, steps: Sequence[SlateStep], metrics: Metrics, silent: Collection[Outcome] = ()
    ) -> None:
        self._steps, self._metrics, self._silent = tuple(steps), metrics, frozenset(silent)

    async def slate(self, query: SlateRequest) -> Slate:
        """Takes the first slate that a step makes; `degraded` says first why the ones before it did not.

        Raises:
            DependencyUnavailable: not even the last step made one.
            StageError: as a step raised it.
        """
        reasons: list[str] = []
        last: DependencyUnavailable | None = None
        for step in self._steps:
            try:
                with query.timed(step.name):
                    slate = await step.slate(query)
            except DependencyUnavailable as error:
                outcome, last = outcome_of(error), error
                self._metrics.answers.stepped(step.name, outcome)
                if outcome not in self._silent:
                    reasons.append(f"{step.name}_{outcome}")
                    query.log_fields["fallback"] = str(error)
                continue
            self._metrics.answers.stepped(step.name, Outcome.ANSWERED)
            return replace(slate, degraded=[*reasons, *slate.degraded]) if reasons else slate
        raise last or DependencyUnavailable("ladder", "it has no steps")


def outcome_of(error: DependencyUnavailable) -> Outcome:
    """Says in one word why a step made no slate."""
    if isinstance(error, EnsembleBusy):
        return Outcome.BUSY
    if isinstance(error, NotStored):
        return Outcome.MISSING
    if isinstance(error, OtherBundle):
        return Outcome.OTHER_BUNDLE
    return Outcome.LATE if error.is_late else Outcome.UNAVAILABLE
