"""What a training was given and what it measured, kept as plain files while it runs: `var/trainings/<name>/`.

Training writes here and waits for no server; `training/tracking` brings to MLflow what has ended. A folder
holds `facts.json`, `metrics.jsonl` (one value a line, in the order of their making), `tables/<name>.json`
(lists of rows) and `lock`, held while the training lives: the system lets go of it however that ends.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from contract.whole_file import whole_file

FOLDER = "trainings"
"""Below `var`: a folder per training."""
FACTS_FILE, METRICS_FILE, TABLES, LOCK_FILE = "facts.json", "metrics.jsonl", "tables", "lock"
RETRIEVAL, RANKING = PARTS = ("retrieval", "ranking")
"""The two models of a bundle, as metrics are named after them."""
VALIDATION, BEST = "validation", "best"
"""What a model's training maximises, in its history; and what the weights that are kept reached of it."""
WATCH_S = 0.5
TableRow = Mapping[str, Any]


class TrainingState(StrEnum):
    """How a training fares."""

    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    KILLED = "killed"


class TrainingFacts(BaseModel):
    """What is told of a training beside its metrics."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    kind: str
    """What was asked for: `train`, `measure`, `compare`, `trial` or `tune`."""
    dataset: str
    data_version: str
    """SHA-256 of the prepared data set, hexadecimal."""
    parameters: dict[str, str]
    """Settings by their dotted name."""
    tags: dict[str, str] = {}
    part_of: str | None = None
    """The name of the training that this one is a trial of."""
    bundle: str | None = None
    """The bundle that it made."""
    state: TrainingState = TrainingState.RUNNING
    why: str = ""
    """What it ended by, where it did not finish."""
    began: str
    ended: str | None = None


class TrainingMetric(BaseModel):
    """A value that was measured at a step; `at` is in milliseconds since 1970."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    value: float
    step: int
    at: int


class TrainingRecord:
    """Writes the record of one training into a folder; `recorded` opens and ends it."""

    def __init__(self, folder: Path, facts: TrainingFacts) -> None:
        self.folder, self.facts = folder, facts
        (folder / TABLES).mkdir(exist_ok=True)
        (folder / METRICS_FILE).write_bytes(b"")
        self.tell()

    def metric(self, name: str, value: float, step: int = 0) -> None:
        """Adds a value of a curve, or the only one of its name; one that is not finite is left out."""
        if math.isfinite(value):
            at = int(datetime.now(UTC).timestamp() * 1000)
            line = TrainingMetric(name=name, value=value, step=step, at=at)
            with (self.folder / METRICS_FILE).open("a", encoding="utf-8") as file:
                file.write(f"{line.model_dump_json()}\n")

    def table(self, name: str, rows: Sequence[TableRow]) -> None:
        """Writes a table; a row may lack columns."""
        with whole_file(self.folder / TABLES / f"{name}.json") as file:
            file.write(json.dumps(list(rows), ensure_ascii=False).encode())

    def tell(self, **facts: Any) -> None:
        """Changes facts that are known only now."""
        self.facts = self.facts.model_copy(update=facts)
        with whole_file(self.folder / FACTS_FILE) as file:
            file.write(self.facts.model_dump_json(indent=1).encode())


@contextmanager
def recorded(var: Path, facts: TrainingFacts) -> Iterator[TrainingRecord]:
    """Keeps the record of what runs within the block; whatever ends it is told, and goes on.

    The record of one of the same name, which was broken off, begins anew.

    Raises:
        BlockingIOError: a training of this name is at work.
    """
    folder = var / FOLDER / facts.name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("a+") as lock:
        _take(lock)
        record = TrainingRecord(folder, facts)
        try:
            yield record
        except Exception as error:
            record.tell(state=TrainingState.FAILED, why=in_a_line(error), ended=instant())
            raise
        except BaseException as error:
            record.tell(state=TrainingState.KILLED, why=in_a_line(error), ended=instant())
            raise
        record.tell(state=TrainingState.FINISHED, ended=instant())


def trainings(var: Path) -> list[Path]:
    """Lists the folders of all trainings by name."""
    return sorted(file.parent for file in (var / FOLDER).glob(f"*/{FACTS_FILE}"))


def read_facts(folder: Path) -> TrainingFacts:
    """Reads what is told of a training; one that lives no more and did not say its end was killed.

    Raises:
        ValueError: the file is not of this form; the message names it.
    """
    file = folder / FACTS_FILE
    is_alive = is_at_work(folder)  # looked at first: it may end meanwhile
    try:
        facts = TrainingFacts.model_validate_json(file.read_text("utf-8"))
    except ValidationError as error:
        first = error.errors()[0]
        location = ".".join(map(str, first["loc"])) or "its text"
        raise ValueError(
            f"{file}: is no record of a training; delete its folder: {location}: {first['msg']}"
        ) from None
    if facts.state is TrainingState.RUNNING and not is_alive:
        ended = datetime.fromtimestamp(file.stat().st_mtime, UTC).isoformat(timespec="seconds")
        return facts.model_copy(update={"state": TrainingState.KILLED, "ended": ended})
    return facts


def read_metrics(folder: Path) -> list[TrainingMetric]:
    """Reads what was measured, in the order of its making; a last line that was cut short is left out."""
    lines = (folder / METRICS_FILE).read_text("utf-8").split("\n")
    return [TrainingMetric.model_validate_json(line) for line in lines[:-1]]


def read_tables(folder: Path) -> dict[str, list[TableRow]]:
    """Reads the tables by name."""
    files = sorted((folder / TABLES).glob("*.json"))
    return {file.stem: json.loads(file.read_text("utf-8")) for file in files}


def is_at_work(folder: Path) -> bool:
    """Whether the training of a folder lives."""
    with (folder / LOCK_FILE).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def end_with(folder: Path) -> None:
    """Ends this process as soon as the training of a folder, which it is a trial of, lives no more."""
    file = folder / LOCK_FILE
    holder = file.read_text()

    def watch() -> None:
        while is_at_work(folder) and file.read_text() == holder:
            time.sleep(WATCH_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _take(lock: IO[str]) -> None:
    """Locks a file, and writes who has it; one who only looks has it for an instant."""
    for left in reversed(range(5)):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if not left:
                raise
            time.sleep(0.02)
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()


def instant() -> str:
    """The present, UTC, as facts tell it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def in_a_line(error: BaseException) -> str:
    """Says an error in one line."""
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
