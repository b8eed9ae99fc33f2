"""One trial of a search: the training command in a process of its own, with settings from a file."""

from __future__ import annotations

import numbers
import subprocess
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from contract.whole_file import whole_file
from training.record import BEST, FOLDER, TrainingState, read_facts, read_metrics
from training.settings_file import SETTING
from training.tuning.space import SearchSpace


class TrialFailed(RuntimeError):
    """A trial's training ended badly; its last lines say why."""


@dataclass(frozen=True)
class TrialRunner:
    """Runs the trials of one search; it is sent to the process that runs one."""

    search: str
    model: str
    space: SearchSpace
    base: dict[str, Any]
    """What the file of settings says that the search was begun with."""
    var: Path
    trainer: Path
    """The interpreter of the role training."""
    root: Path
    environment: dict[str, str]
    """Of the trainings: not Ray's own, which allows them one thread."""

    def settings(self, drawn: dict[str, Any]) -> dict[str, Any]:
        """Gives the settings of a trial, as a file of settings holds them."""
        section = {**self.base.get(self.model, {}), **{name: plain(value) for name, value in drawn.items()}}
        return {**self.base, self.space.chooser: self.model, self.model: section}

    def name(self, drawn: dict[str, Any]) -> str:
        """Names a trial after its search and its settings."""
        text = yaml.safe_dump(self.settings(drawn))
        return f"{self.search}-{sha256(text.encode()).hexdigest()[:8]}"

    def reached(self, drawn: dict[str, Any]) -> float | None:
        """Gives what a trial with these settings reached that has finished, or None."""
        folder = self.var / FOLDER / self.name(drawn)
        if not folder.is_dir() or read_facts(folder).state is not TrainingState.FINISHED:
            return None
        values = [one.value for one in read_metrics(folder) if one.name == f"{self.space.part}/{BEST}"]
        return values[-1] if values else None

    def run(self, drawn: dict[str, Any]) -> float:
        """Trains, unless that was done, and gives what validation says.

        Raises:
            TrialFailed: the training failed, or nobody is in validation.
        """
        known = self.reached(drawn)
        if known is not None:
            return known
        name = self.name(drawn)
        file = self.var / "tune" / self.search / f"{name.rpartition('-')[2]}.yaml"
        write_settings(file, self.settings(drawn))
        command = [str(self.trainer), "-m", "training", "trial", "--part", self.space.part]
        command += ["--name", name, "--part-of", self.search]
        done = subprocess.run(
            command,
            cwd=self.root,
            env=self.environment | {SETTING: str(file)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            raise TrialFailed(f"{name}: {' / '.join(done.stdout.strip().splitlines()[-2:])}")
        value = self.reached(drawn)
        if value is None:
            raise TrialFailed(f"{name}: the data set has nobody in validation to judge it by")
        return value


def plain(value: Any) -> Any:
    """Gives a number that is drawn as a file of settings holds it, with four digits."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    return int(value) if isinstance(value, numbers.Integral) and not isinstance(value, bool) else value


def write_settings(file: Path, settings: dict[str, Any]) -> None:
    """Writes a file of settings, whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as opened:
        opened.write(yaml.safe_dump(settings, sort_keys=False).encode())
