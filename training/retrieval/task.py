"""What there is to be learned, as a folder that a trainer in another process, role or machine reads."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from contract.arrays import Array
from contract.encoders import Field
from training.examples.positives import RetrievalExamples, Stream, UserHistories
from training.examples.safe_names import safe_fields
from training.retrieval.config import TwoTowerConfig
from training.retrieval.validation import Validation

TASK_FILE = "task.json"
STREAMS = ("recent", "positive")
Named = dict[tuple[str, str], Array]


class TrainerError(RuntimeError):
    """Says that the process that trains did not finish, and where its reason stands."""


class WorkersError(TrainerError):
    """Says which number of workers does not fit the batch, and what does."""


def check_batch(batch_size: int, workers: int) -> None:
    """Looks whether so many workers can share batches of so many examples.

    Raises:
        WorkersError: they do not divide among the workers.
    """
    if batch_size % workers or batch_size < 2 * workers:
        raise WorkersError(
            f"SHORTLIST_TWO_TOWER__BATCH_SIZE={batch_size} does not divide among {workers} workers; take "
            "a multiple of them, or another number of WORKERS"
        )


@dataclass(frozen=True, eq=False)
class FittingTask:
    """Fields, examples, catalogue and held-out users of a two-tower model, its settings and seed."""

    fields: Mapping[str, Field]
    """Of the columns that the towers read."""
    examples: RetrievalExamples
    catalogue: Mapping[str, Array]
    config: TwoTowerConfig
    seed: int
    validation: Validation | None = None

    @property
    def user_columns(self) -> list[str]:
        """What the user tower reads."""
        return list(self.examples.batch(np.arange(1), np.zeros(1, np.bool_)))

    @property
    def tower_fields(self) -> tuple[list[Field], list[Field]]:
        """The fields of users and of items, by safe name."""
        users, items = (
            [*safe_fields({name: self.fields[name] for name in columns}).values()]
            for columns in (self.user_columns, self.catalogue)
        )
        return users, items

    @property
    def batch_size(self) -> int:
        """Examples per step, of all workers together."""
        return max(2, min(self.config.batch_size, len(self.examples) // 8))

    def batch_of(self, workers: int) -> int:
        """Gives the examples per step of all workers together.

        Raises:
            WorkersError: they do not divide among the workers.
        """
        check_batch(self.config.batch_size, workers)
        size = self.batch_size - self.batch_size % workers
        if size < 2 * workers:
            raise WorkersError(
                f"{len(self.examples)} examples are too few for {workers} workers; take fewer WORKERS"
            )
        return size

    @property
    def steps_per_evaluation(self) -> int:
        """Steps between two looks at validation."""
        most = self.config.epochs * len(self.examples) // self.batch_size
        return max(1, max(1, min(self.config.steps, most)) // self.config.evaluations)

    def digest(self) -> str:
        """Names the task: the same name, the same model to come."""
        digest = blake2b(json.dumps(self._facts(), sort_keys=True).encode(), digest_size=8)
        for (group, name), array in self._arrays().items():
            digest.update(f"{group}/{name}/{array.dtype.str}/{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """Writes the folder, whole or not at all; one that is there stays."""
        if (folder / TASK_FILE).exists():
            return
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        temporary.mkdir(parents=True)
        try:
            arrays = self._arrays()
            for at, array in enumerate(arrays.values()):
                np.save(temporary / f"{at}.npy", array)
            facts = self._facts() | {"arrays": list(arrays)}
            (temporary / TASK_FILE).write_text(json.dumps(facts))
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    @classmethod
    def load(cls, folder: Path) -> FittingTask:
        """Opens a folder that `save` wrote; its arrays are mapped into memory, not read."""
        facts: dict[str, Any] = json.loads((folder / TASK_FILE).read_text())
        found = {
            (group, name): np.load(folder / f"{at}.npy", mmap_mode="r")
            for at, (group, name) in enumerate(facts["arrays"])
        }
        groups: dict[str, dict[str, Array]] = {}
        for (group, name), array in found.items():
            groups.setdefault(group, {})[name] = array
        validation = None
        if "relevant" in groups:
            shape = tuple(facts["held_out"])
            validation = Validation(
                groups["held_out"],
                groups["catalogue"],
                _matrix(groups["relevant"], shape),
                _matrix(groups["seen"], shape),
            )
        return cls(
            {field["name"]: Field(**field) for field in facts["fields"]},
            _examples(groups, facts),
            groups["catalogue"],
            TwoTowerConfig(**facts["config"]),
            facts["seed"],
            validation,
        )

    def _facts(self) -> dict[str, Any]:
        columns = [*self.user_columns, *self.catalogue]
        return {
            "fields": [asdict(self.fields[name]) for name in columns],
            "config": self.config.model_dump(),
            "seed": self.seed,
            "lengths": self.examples.histories.lengths,
            "counts": {
                field.name: value
                for field in fields(self.examples)
                if isinstance(value := getattr(self.examples, field.name), int)
            },
            "held_out": self.validation.relevant.shape if self.validation else None,
        }

    def _arrays(self) -> Named:
        histories = self.examples.histories
        named: Named = {("catalogue", name): values for name, values in self.catalogue.items()}
        named |= {("profile", name): values for name, values in histories.profile.items()}
        for name in STREAMS:
            stream: Stream = getattr(histories, name)
            named |= {(name, "items"): stream.items, (name, "starts"): stream.starts}
        named["histories", "positives_before"] = histories.positives_before
        for field in fields(self.examples):
            if isinstance(value := getattr(self.examples, field.name), np.ndarray):
                named["examples", field.name] = value
        if self.validation:
            named |= {("held_out", name): values for name, values in self.validation.users.items()}
            for name in ("relevant", "seen"):
                named |= dict(_parts(name, getattr(self.validation, name)))
        return named


def _parts(name: str, matrix: csr_matrix) -> Iterator[tuple[tuple[str, str], Array]]:
    for part in ("data", "indices", "indptr"):
        yield (name, part), getattr(matrix, part)


def _matrix(parts: Mapping[str, Array], shape: tuple[int, ...]) -> csr_matrix:
    return csr_matrix((parts["data"], parts["indices"], parts["indptr"]), shape=shape)


def _examples(groups: Mapping[str, Mapping[str, Array]], facts: Mapping[str, Any]) -> RetrievalExamples:
    """Puts the examples together; of the histories, what batches are made of."""
    none = np.zeros(0, np.int64)
    starts = groups["recent"]["starts"]
    histories = UserHistories(
        user_ids=np.arange(len(starts) - 1),
        profile=dict(groups["profile"]),
        positives_before=groups["histories"]["positives_before"],
        order=none,
        times=none,
        lengths=facts["lengths"],
        **{name: Stream(**groups[name]) for name in STREAMS},
    )
    values: dict[str, Any] = {**groups["examples"], **facts["counts"]}
    return RetrievalExamples(histories=histories, **values)
