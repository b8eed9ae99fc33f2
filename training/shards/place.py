"""Where shards lie: a folder, or an address that fsspec reaches (`s3://bucket/shards`, `memory://`, ...)."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from contract.environment import explain_full_disk, is_full_disk
from training.data.prepared import replace_folder
from training.shards.layout import HEADER_FILE, ShardError

INSTALL = ".venv/uv/bin/uv pip install --python .venv/torch/bin/python"
"""What brings a package into the role torch, whose environment has no pip."""


class Place:
    """A folder that may be far away; files in it have plain names."""

    def __init__(self, address: str) -> None:
        """Takes a path or an address.

        Raises:
            ShardError: fsspec knows no such kind of address, or the package that reaches it is not installed.
        """
        self.address = address.rstrip("/")
        with self._told():
            self._files, self._root = fsspec.core.url_to_fs(self.address)

    @property
    def folder(self) -> Path | None:
        """The folder, where it is on this machine."""
        return Path(self._root) if isinstance(self._files, LocalFileSystem) else None

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""
        with self._told():
            return bool(self._files.exists(f"{self._root}/{name}"))

    def at_hand(self, name: str, scratch: Path) -> Path:
        """Gives where a file is on this machine: in place, or fetched to a folder, whole or not at all.

        Raises:
            ShardError: it is not there, or the address is not reached.
        """
        here = (self.folder or scratch) / name
        with self._told(name):
            if self.folder is None:
                temporary = here.with_name(f"{here.name}.tmp")
                self._files.get_file(f"{self._root}/{name}", str(temporary))
                temporary.rename(here)
            elif not here.exists():
                raise FileNotFoundError(here)
        return here

    def bring(self, file: Path, name: str) -> None:
        """Copies a file to the place."""
        target = f"{self._root}/{name}"
        with self._told(name):
            self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
            self._files.put_file(str(file), target)

    def remove(self) -> None:
        """Removes the place and what is in it."""
        with self._told():
            self._files.rm(self._root, recursive=True)

    @contextmanager
    def _told(self, name: str = "") -> Iterator[None]:
        """Says whatever goes wrong with a far place in one line; each kind of place has errors of its own."""
        try:
            yield
        except FileNotFoundError:
            raise ShardError(
                f"{self.address}: there is no {name}, and so no shards; write them: `make shards TO=...`"
            ) from None
        except Exception as error:
            if is_full_disk(error):
                raise
            said = " ".join(str(error).split()) or type(error).__name__
            if isinstance(error, ImportError):
                said = f"{said[:200]}: `{INSTALL}`, with the name of that package"
            raise ShardError(f"{self.address}: is not reached: {said[:300]}") from error


class Staging:
    """Where files are written before the place has them."""

    def __init__(self, folder: Path, place: Place) -> None:
        self.folder, self._place = folder, place

    def done(self, name: str) -> None:
        """Takes a file that is complete: one for an address goes there at once and frees its room here."""
        if self._place.folder is None:
            self._place.bring(self.folder / name, name)
            (self.folder / name).unlink()

    def all_done(self) -> None:
        """Lets the place have all that it does not have yet, the header last."""
        if self._place.folder:
            replace_folder(self.folder, self._place.folder)
            return
        files = [file for file in self.folder.rglob("*") if file.is_file()]
        for file in sorted(files, key=lambda file: file.name == HEADER_FILE):
            self.done(str(file.relative_to(self.folder)))


@contextmanager
def written_whole(place: Place) -> Iterator[Staging]:
    """Gives where to write shards; the place has them once the block ends well, else nothing of them.

    A folder is written beside the place and renamed, in the place of older shards. To an address the files go
    one by one, the header last; it must be free.

    Raises:
        ShardError: the address has shards, the folder holds something else, the disk is full.
    """
    folder, has_shards = place.folder, place.has(HEADER_FILE)
    if folder is None and has_shards:
        raise ShardError(f"{place.address}: has shards already; take another address, or remove them")
    if folder and not has_shards and folder.exists() and any(folder.iterdir()):
        raise ShardError(f"{folder}: holds something that is no shards; take another folder")
    try:
        with _scratch(folder) as scratch:
            staging = Staging(scratch, place)
            yield staging
            staging.all_done()
    except BaseException as error:
        if folder is None:
            with suppress(ShardError):
                place.remove()
        if isinstance(error, OSError) and is_full_disk(error):
            raise ShardError(explain_full_disk(error, folder or Path(tempfile.gettempdir()))) from None
        raise


@contextmanager
def _scratch(folder: Path | None) -> Iterator[Path]:
    """Gives an empty folder that is gone afterwards, on the file system of `folder` where there is one."""
    beside, name = (folder.parent, folder.name) if folder else (Path(tempfile.gettempdir()), "shards")
    scratch = beside / f".{name}.{os.getpid()}.tmp"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
