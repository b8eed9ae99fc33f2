"""Rows of embeddings that changed since a bundle was trained: its users go on learning, nothing else does.

What is written is what `make embeddings FILE=` sends. Every file has all rows that differ from the bundle's,
so that it does not matter which of those before were sent.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from contract import bundle as files
from contract import names
from contract.arrays import Array, Floats, Ids, Ints
from contract.bundle import USER_TOWER, BundleError, Manifest, TableSpec, read_manifest, with_rows
from contract.encoders import Encoders
from contract.whole_file import whole_file
from training.config import TrainingSettings
from training.data.prepared import Prepared
from training.examples.positives import RetrievalExamples, UserHistories, retrieval_examples
from training.examples.split import held_out, rows_of
from training.export.towers import run_model
from training.progress import Say
from training.retrieval.config import TwoTowerConfig
from training.retrieval.rows import RowsResult, RowsTask, fit_rows, user_weights_file
from training.retrieval.task import FittingTask
from training.retrieval.validation import Validation

FOLDER = "rows"
"""Below `var`: the newest file of each bundle."""
COMPARED = 256
"""Users on whom the kept weights are compared with the served tower."""


@dataclass(frozen=True, eq=False)
class ServedRows:
    """A bundle, its table of users beside it, and the weights of its user tower that were kept."""

    folder: Path
    manifest: Manifest
    table: TableSpec
    weights: Mapping[str, Array]
    trained_until: pd.Timestamp

    @classmethod
    def of(cls, folder: Path, var_dir: Path) -> ServedRows:
        """Opens a bundle.

        Raises:
            BundleError: it is damaged, no table of users that its tower reads lies beside it, or the weights
                are not there.
        """
        manifest, train = read_manifest(folder), "TRAINER=torchrec, and promote it"
        found = [one for one in manifest.tables if one.column == names.USER_ID and USER_TOWER in one.parts]
        if not found:
            raise BundleError(
                f"{manifest.bundle}: no table of users that its tower reads lies beside it; train with "
                f"SHORTLIST_TABLES_BESIDE='[\"user_id\"]' {train}"
            )
        path = user_weights_file(var_dir, manifest.bundle)
        if manifest.trained_until is None or not path.is_file():
            raise BundleError(
                f"{path}: not found, as where another trainer made the bundle; train again with {train}"
            )
        with np.load(path, allow_pickle=False) as weights:
            until = pd.Timestamp(manifest.trained_until)
            return cls(folder, manifest, found[0], dict(weights), until)

    def rows_since(
        self, prepared: Prepared, settings: TrainingSettings, until: datetime
    ) -> ChangingRows | None:
        """Puts together what its users learn from what they did between its training and an instant, and of
        whom to say what comes of it, if anybody did something later. None where nothing is to be learned.

        Users who are new have the row of the unknown one to begin with; items that are new have no vector,
        and are left out.
        """
        encoders = Encoders.load(self.folder / files.ENCODERS_FILE)
        item_ids = self._array(files.ITEM_IDS_FILE)
        histories = UserHistories.of(prepared, encoders)
        new = self._new(retrieval_examples(prepared, histories, until), prepared, item_ids)
        if not len(new.users):
            return None
        held = held_out(prepared, until, prepared.split.test_until)
        users = np.unique(np.concatenate([new.users, held.user_rows]))
        table = np.load(self.folder / self.table.file, mmap_mode="r", allow_pickle=False)
        served = table[histories.profile[names.USER_ID][users]]
        rows = np.ascontiguousarray(served[:, self.table.part(USER_TOWER)])
        histories = _numbered(histories, users)
        catalogue: dict[str, Array] = {names.ITEM_ID: np.arange(len(item_ids))}
        counts = {names.USER_ID: len(users), names.ITEM_ID: len(item_ids)}
        fields = {name: replace(encoders.fields[name], cardinality=count) for name, count in counts.items()}
        relevant, seen = (_at_items(matrix, prepared, item_ids) for matrix in (held.relevant, held.seen))
        validation = Validation(histories.as_of(held.user_rows, until), catalogue, relevant, seen)
        task = FittingTask(
            {**encoders.fields, **fields},
            replace(new, histories=histories),
            catalogue,
            self._config(settings.two_tower),
            settings.seed,
            validation if len(held.user_rows) else None,
        )
        vectors = self._array(files.ITEM_VECTORS_FILE)
        work = RowsTask(task, self.weights, rows, vectors, self._user_vectors(task, rows))
        return ChangingRows(work, histories.user_ids[users], served, self.table)

    def _array(self, file: str) -> Array:
        array: Array = np.load(self.folder / file, allow_pickle=False)
        return array

    def _new(self, examples: RetrievalExamples, prepared: Prepared, item_ids: Ids) -> RetrievalExamples:
        """Keeps what happened since the bundle was trained, its items numbered as the bundle's `item_ids`."""
        items = rows_of(item_ids, prepared.items[names.ITEM_ID].to_numpy(np.int64))[examples.items]
        is_since = examples.histories.times[examples.just_before] >= self.trained_until.value
        new = np.flatnonzero(examples.is_timed & is_since & (items >= 0))
        return replace(examples.some(new), items=items[new], item_count=len(item_ids))

    def _config(self, config: TwoTowerConfig) -> TwoTowerConfig:
        """Gives the rows' width, and withholds nobody's user: the unknown one's row stays as it is."""
        width = self.table.parts[USER_TOWER]
        return config.model_copy(update={"width": width, "user_dropout": 0.0, "unknown_user_share": 0.0})

    def _user_vectors(self, task: FittingTask, rows: Floats) -> Floats:
        """Gives what the served tower makes of the users of the first examples, (P, D + 1)."""
        first = np.arange(min(COMPARED, len(task.examples.users)))
        columns = with_rows({names.USER_ID: rows}, task.examples.batch(first, np.ones(len(first), np.bool_)))
        spec = self.manifest.user_tower
        return run_model(self.folder / spec.file, spec, columns).astype(np.float32)


@dataclass(frozen=True, eq=False)
class ChangingRows:
    """What users learn, and their rows as the bundle has them."""

    work: RowsTask
    user_ids: Ids
    """(U,)."""
    served: Floats
    """(U,W): beside what the user tower takes, what the ranker does."""
    table: TableSpec

    def write(self, path: Path, learned: Floats) -> int:
        """Writes the rows of which the user tower's part, (U,D), is another now, the ranker's as it was;
        gives how many."""
        is_changed = (learned != self.work.rows).any(axis=1)
        rows = self.served[is_changed].copy()
        rows[:, self.table.part(USER_TOWER)] = learned[is_changed]
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            column = self.table.column
            np.savez(file, **{f"{column}_ids": self.user_ids[is_changed], f"{column}_rows": rows})
        return len(rows)


def write_changed_rows(
    served: ServedRows, prepared: Prepared, settings: TrainingSettings, say: Say
) -> Path | None:
    """Lets the users of a bundle go on learning from all that came since, and writes the rows that changed;
    gives the file, None where nothing is new.

    Raises:
        TrainerError: the kept weights are of another tower, or the trainer failed.
    """
    bundle, to = served.manifest.bundle, settings.var_dir / FOLDER
    newest = prepared.interactions[prepared.dataset.timestamp].max()
    found = served.rows_since(prepared, settings, newest + pd.Timedelta(1, "s"))
    if found is None:
        say(f"{bundle}: nothing is new since {served.trained_until}")
        return None
    path = to / f"{bundle}-{found.work.task.digest()}.npz"
    if path.exists():
        say(f"{bundle}: nothing is new; what was made of it is sent again by make embeddings FILE={path}")
        return None
    learned, result = _learned(found, settings)
    say(str(result))
    count = found.write(path, learned)
    for older in set(to.glob(f"{bundle}-*.npz")) - {path}:
        older.unlink()
    say(f"{path}: {count:,} rows")
    return path


def measure_changed_rows(
    served: ServedRows, prepared: Prepared, settings: TrainingSettings, say: Say
) -> None:
    """Lets the users of a bundle learn from what came between its training and the test part, says what that
    part gains by it, and keeps nothing.

    Raises:
        BundleError: there is nothing between.
        TrainerError: as of `write_changed_rows`.
    """
    until = prepared.split.validate_until
    found = served.rows_since(prepared, settings, until)
    if found is None:
        since = served.trained_until
        raise BundleError(f"{served.manifest.bundle}: nothing is new between {since} and {until}")
    say(str(_learned(found, settings)[1]))


def _learned(found: ChangingRows, settings: TrainingSettings) -> tuple[Floats, RowsResult]:
    with tempfile.TemporaryDirectory(prefix="shortlist-") as scratch:
        return fit_rows(found.work, settings.torchrec, Path(scratch) / "rows")


def _numbered(histories: UserHistories, users: Ints) -> UserHistories:
    """Puts the places of these users, (U,), in the place of their codes."""
    numbers = np.zeros(len(histories.user_ids), np.int64)
    numbers[users] = np.arange(len(users))
    return replace(histories, profile={**histories.profile, names.USER_ID: numbers})


def _at_items(matrix: csr_matrix, prepared: Prepared, item_ids: Ids) -> csr_matrix:
    """Moves columns (U,I) from the data set's items to those of the bundle; others go."""
    at = rows_of(prepared.items[names.ITEM_ID].to_numpy(np.int64), item_ids)
    moved = csr_matrix(matrix[:, np.maximum(at, 0)].multiply((at >= 0)[None]))
    moved.eliminate_zeros()
    return moved
