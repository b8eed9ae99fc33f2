"""What the watch found last: how old things are, and how far what is served is from its reference."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict

EXPIRES_S = 60
"""Seconds after which a finding is gone: then nobody watches."""


class FeatureDrift(BaseModel):
    """Two distances of what is served from the reference, whether both are beyond their thresholds, and the
    shares of what is served, in the bins of the reference."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    psi: float
    jensen_shannon: float
    is_drifted: bool
    shares: tuple[float, ...] = ()


class Watched(BaseModel):
    """A finding. Ages are seconds, None where that is not known: of each feature view, since it was written;
    of the bundle, since it was made; of slates and index, since they were computed. `event_lag_s`: how long
    the oldest event waits that had no effect yet. `answers`: how many of this bundle were looked at, of the
    last `wanted`, which the distances are of; there are none before."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    at_s: float
    bundle: str
    ages_s: dict[str, float | None] = {}
    event_lag_s: float = 0.0
    answers: int = 0
    wanted: int = 0
    drift: dict[str, FeatureDrift] = {}

    @classmethod
    def found(cls, value: bytes | None) -> Self | None:
        """Takes what Redis holds; None where nobody watches, or what stands there is no finding."""
        try:
            return None if value is None else cls.model_validate_json(value)
        except ValueError:
            return None

    @property
    def drifted(self) -> tuple[str, ...]:
        """What has drifted, the farthest first."""
        found = [(one.psi, name) for name, one in self.drift.items() if one.is_drifted]
        return tuple(name for _, name in sorted(found, reverse=True))

    def lines(self) -> list[str]:
        """Says it for people."""
        ages = ", ".join(
            f"{name} {'none yet' if age is None else _age(age)}" for name, age in self.ages_s.items()
        )
        lag = f"the oldest waits for {_age(self.event_lag_s)}" if self.event_lag_s else "none waits"
        lines = [f"{self.bundle}: {ages}", f"events: {lag}"]
        if not self.drift:
            few = (
                f"not known yet, {self.answers:,} of the {self.wanted:,} answers that it takes of this bundle"
            )
            untold = "not known: this bundle has no reference.json, `make train` makes one that has"
            return [*lines, f"drift: {few if self.answers < self.wanted else untold}"]
        if not self.drifted:
            return [*lines, f"drift: none in the last {self.answers:,} answers"]
        some = ", ".join(f"{name} (PSI {self.drift[name].psi:.2f})" for name in self.drifted[:5])
        return [*lines, f"drift: in {len(self.drifted)} of {len(self.drift)}: {some}"]


def _age(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
