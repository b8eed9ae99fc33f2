"""Public data sets that need no adapter: their files are read as anybody's own, by a `dataset.yaml` here."""

from __future__ import annotations

from pathlib import Path

from contract.dataset import Dataset
from training.data.files import RawTable
from training.data.sources import own

GROCERIES, LASTFM = "groceries", "lastfm"
HOW_TO_GET = {
    GROCERIES: "put groceries.csv (Member_number, Date, itemDescription)",
    LASTFM: "unpack hetrec2011-lastfm-2k.zip of https://grouplens.org/datasets/hetrec-2011/ and put its "
    "user_artists.dat and artists.dat as lastfm_user_artists.dat and lastfm_artists.dat",
}
NAMES = tuple(HOW_TO_GET)


def declaration(name: str) -> Dataset:
    """Reads the `dataset.yaml` of a data set, which lies beside this file as `<name>.yaml`."""
    return Dataset.load(Path(__file__).with_name(f"{name}.yaml"))


def files(name: str, folder: Path) -> list[Path]:
    """Lists the files of a data set; empty where one is missing."""
    found = [folder / str(file.path) for file in declaration(name).files.values()]
    return found if all(path.is_file() for path in found) else []


def read(name: str, folder: Path) -> tuple[Dataset, dict[str, RawTable]]:
    """Reads its tables.

    Raises:
        DatasetError: a file is unreadable.
    """
    return own.read_tables(declaration(name), folder)
