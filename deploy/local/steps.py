"""Runs the commands of the path one by one, and shows and logs what they say."""

from __future__ import annotations

import queue
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from deploy.local.settings import ROOT, LocalSettings, python_of

HEARTBEAT_S = 10.0


class StepFailed(Exception):
    """Names the command that failed and the log that says why."""

    def __init__(self, name: str, command: str, code: int, log: Path) -> None:
        super().__init__(f"{name} failed with exit status {code}: {command}")
        self.log = log


@dataclass(frozen=True)
class Step:
    """One command of a role; what is unchanged since its last run it reuses by itself."""

    name: str
    role: str
    arguments: tuple[str, ...]

    @property
    def command(self) -> list[str]:
        """The command line."""
        return [str(python_of(self.role)), *self.arguments]


class Steps:
    """Runs steps with one set of settings; the log of each is `var/log/<name>.log`."""

    def __init__(self, settings: LocalSettings, environment: Mapping[str, str]) -> None:
        self.settings = settings
        self.environment = dict(environment)

    def run(self, step: Step) -> float:
        """Runs a step with its lines shown as they come; gives its seconds.

        Raises:
            StepFailed: it ended with another status than 0.
        """
        log = self.settings.var / "log" / f"{step.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        with log.open("w") as file:
            process = subprocess.Popen(
                step.command, cwd=ROOT, env=self.environment, stdout=subprocess.PIPE, stderr=file, text=True
            )
            try:
                self._show(process, file)
            except BaseException:
                process.terminate()
                process.wait()
                raise
        if process.returncode:
            raise StepFailed(step.name, " ".join(step.arguments), process.returncode, log)
        return time.monotonic() - started

    def _show(self, process: subprocess.Popen[str], log: IO[str]) -> None:
        """Prints and logs the lines of a process until it ends, and a sign of life where it is silent."""
        lines: queue.Queue[str | None] = queue.Queue()

        def read() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                lines.put(line)
            lines.put(None)

        threading.Thread(target=read, daemon=True).start()
        started = time.monotonic()
        while True:
            try:
                line = lines.get(timeout=HEARTBEAT_S)
            except queue.Empty:
                print(f"    ... {time.monotonic() - started:.0f} s", flush=True)
                continue
            if line is None:
                break
            log.write(line)
            log.flush()
            print(f"    {line}", end="", flush=True)
        process.wait()
