"""Finds the data set that `DATA` names and prepares it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from contract.dataset import DATASET_FILE, Dataset, DatasetError
from training.data import prepared
from training.data.events import event_files, with_live_events
from training.data.files import RawTable
from training.data.live import forget_archived, live_files, with_live_changes
from training.data.prepared import Prepared, fingerprint, load_prepared, read_stamp
from training.data.sources import declared, kuairand, movielens, own, synthetic
from training.data.sources.adapter import Raw
from training.data.validate import as_table, validate

DEFAULT = "default"
"""KuaiRand where its files are found, else the synthetic world."""
FORM = "3"
"""Raised when the prepared form changes, so that nothing older is reused. Adapters are hashed themselves."""
NAMES = (kuairand.NAME, movielens.NAME, synthetic.NAME)
"""Names that no data set of one's own may have."""
_DOWNLOADED: tuple[ModuleType, ...] = (kuairand, movielens)

Say = Callable[[str], None]


@dataclass(frozen=True)
class DataSource:
    """Where a data set comes from: its adapter and its files. The synthetic world has none."""

    name: str
    folder: Path | None
    files: tuple[Path, ...]


def find(source: str, data_dir: Path, say: Say) -> DataSource:
    """Takes `DATA`, a name or a folder, and says where its files are.

    Raises:
        DatasetError: it is neither a name nor a folder, or the files are not in `data_dir`.
    """
    if source in ("", DEFAULT):
        try:
            return find(kuairand.NAME, data_dir, say)
        except DatasetError as missing:
            say(f"{missing}. Until then, the synthetic world.")
            return find(synthetic.NAME, data_dir, say)
    if source == synthetic.NAME:
        return DataSource(source, None, ())
    for adapter in _DOWNLOADED:
        if source == adapter.NAME:
            for folder in (data_dir / name for name in adapter.FOLDERS):
                files = adapter.files(folder) if folder.is_dir() else []
                if files:
                    return DataSource(source, folder, tuple(files))
            raise DatasetError(
                f"{source}: no files in {data_dir} (looked for {', '.join(adapter.FOLDERS)}); "
                f"{adapter.HOW_TO_GET} there, or set SHORTLIST_DATA_DIR"
            )
    if source in declared.NAMES:
        return _find_declared(source, data_dir / source)
    folder = Path(source)
    if folder.is_dir():
        for adapter in _DOWNLOADED:  # such as DATA=downloads/ml-1m
            if not (folder / DATASET_FILE).is_file() and adapter.files(folder):
                return DataSource(adapter.NAME, folder, tuple(adapter.files(folder)))
        return DataSource(own.NAME, folder, tuple(own.files(folder)))
    raise DatasetError(
        f"DATA={source}: neither one of {', '.join((*NAMES, *declared.NAMES))} nor a folder; see "
        "docs/your-data.md"
    )


def _find_declared(name: str, folder: Path) -> DataSource:
    """A `dataset.yaml` beside the files is somebody's own, and is taken instead of ours."""
    if (folder / DATASET_FILE).is_file():
        return DataSource(own.NAME, folder, tuple(own.files(folder)))
    if files := declared.files(name, folder):
        return DataSource(name, folder, tuple(files))
    raise DatasetError(
        f"{name}: no files in {folder}; {declared.HOW_TO_GET[name]} there, or set SHORTLIST_DATA_DIR to the "
        "folder above; `./` before the name means a folder of your own"
    )


def prepare(
    source: str, data_dir: Path, var_dir: Path, *, size: synthetic.Size | None = None, say: Say = print
) -> Prepared:
    """Takes `DATA`, gives the data set prepared in `var_dir/data/<name>`; what is unchanged there is reused.

    Raises:
        DatasetError: files are missing or do not pass validation; nothing is written then.
    """
    found = find(source, data_dir, say)
    size = size or synthetic.Size()
    folder = _folder_of(found, var_dir)
    forget_archived(var_dir, folder.name)
    files = [*found.files, *event_files(var_dir, folder.name), *live_files(var_dir, folder.name)]
    stamp = {
        "source": str(found.folder or found.name),
        "fingerprint": fingerprint(files, FORM, found.name, _recipe(found.name, size)),
    }
    if read_stamp(folder) == stamp:
        say(f"{folder}: unchanged, reused")
        return load_prepared(folder)
    dataset, tables = _read(found, size)
    checked = validate(dataset, tables, prepared.now())
    for warning in checked.warnings:
        say(warning)
    checked = with_live_changes(with_live_events(checked, var_dir, say), var_dir, say)
    frames = prepared.in_order(checked.frames, checked.dataset)
    prepared.write_prepared(folder, checked.dataset, frames, stamp, checked.users, checked.horizon)
    ready = load_prepared(folder)
    counts = ", ".join(f"{len(frame):,} {table}" for table, frame in frames.items())
    say(f"{folder}: {counts}")
    return ready


def _recipe(name: str, size: synthetic.Size) -> str:
    """What, beside the files, decides the tables."""
    adapter = [Path(__file__).with_name(f"{name}{suffix}") for suffix in (".py", ".yaml")]
    texts = [file.read_text() for file in adapter if file.is_file()]
    return "\n".join([*texts, repr(size) if name == synthetic.NAME else ""])


def _folder_of(found: DataSource, var_dir: Path) -> Path:
    """Where the data set is prepared."""
    if found.name != own.NAME or found.folder is None:
        return var_dir / "data" / found.name
    name = Dataset.load(found.folder).name
    if name in NAMES:
        raise DatasetError(f"{found.folder / DATASET_FILE}: name: {name} is taken; choose another")
    return var_dir / "data" / name


def _read(found: DataSource, size: synthetic.Size) -> tuple[Dataset, dict[str, RawTable]]:
    if found.folder is not None and found.name == own.NAME:
        return own.read(found.folder)
    if found.folder is not None and found.name in declared.NAMES:
        return declared.read(found.name, found.folder)
    raw: Raw
    if found.folder is None:
        raw = synthetic.read(size)
    else:
        raw = next(a for a in _DOWNLOADED if found.name == a.NAME).read(found.folder)
    dataset = Dataset.of(raw.declaration, Path(f"{found.name}.yaml"))
    return dataset, {table: as_table(frame) for table, frame in raw.frames.items()}
