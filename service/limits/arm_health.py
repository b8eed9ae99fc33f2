"""Whether an arm of a split does worse than the champion, window after window."""

from __future__ import annotations

from dataclasses import dataclass, replace

WINDOW_S, LEAST = 10.0, 50
"""Seconds, and answers of the arm, that are judged together, at least."""
STRIKES = 3
"""Windows in a row: what Triton takes to load an arm again after a restart spoils two at most."""


@dataclass
class Answers:
    """How many an arm gave, and how many of them failed or were degraded."""

    bad: int = 0
    all: int = 0

    def note(self, is_bad: bool) -> None:
        """Takes one."""
        self.bad += is_bad
        self.all += 1

    def since(self, before: Answers) -> Answers:
        """Gives those that came after."""
        return Answers(self.bad - before.bad, self.all - before.all)

    @property
    def share(self) -> float:
        """Of all, the bad ones."""
        return self.bad / max(1, self.all)


class ArmHealth:
    """Compares one arm with the champion: what fails both is not the arm's fault."""

    def __init__(self, most: float, now_s: float) -> None:
        """Takes the share of bad answers, beyond the champion's, that is borne."""
        self._most, self._began_s, self._strikes = most, now_s, 0
        self._before = (Answers(), Answers())

    def judge(self, arm: Answers, champion: Answers, now_s: float) -> str:
        """Takes what both gave so far; says why the arm is to be taken out, empty where it is not."""
        ours, theirs = arm.since(self._before[0]), champion.since(self._before[1])
        if now_s - self._began_s < WINDOW_S or ours.all < LEAST:
            return ""
        self._strikes = self._strikes + 1 if ours.share - theirs.share > self._most else 0
        self._began_s, self._before = now_s, (replace(arm), replace(champion))
        if self._strikes < STRIKES:
            return ""
        failures = f"{ours.bad} of its latest {ours.all} answers failed or were degraded"
        return f"{failures}, of the champion's {theirs.bad} of {theirs.all}, {STRIKES} times in a row"
