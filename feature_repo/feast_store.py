"""Feast, over one data set: registers the definitions and writes rows. Nothing else calls Feast."""

from __future__ import annotations

import errno
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import yaml
from google.protobuf.message import DecodeError
from redis.exceptions import RedisError

from contract.dataset import DatasetError
from contract.environment import is_full_disk
from contract.features import FeatureSet

if TYPE_CHECKING:
    from feast import FeatureStore

SETTINGS_FILE = Path(__file__).with_name("feature_store.yaml")
_BATCH = 2_000
"""Rows per round trip; more would hold up those who read."""


class FeastStore:
    """Feast's registry in `var/feast/{dataset}`, and its rows in Redis."""

    def __init__(self, var_dir: Path, name: str, redis: str) -> None:
        """Takes the run-time folder, the data set's name, and where Redis is, as Feast is told it."""
        self.var_dir, self.name, self.redis = var_dir, name, redis
        self.folder = var_dir / "feast" / name
        self.registry = self.folder / "registry.db"
        self.store: FeatureStore | None = None

    def apply(self) -> None:
        """Registers the definitions anew, whole or not at all.

        Raises:
            DatasetError: Feast refuses them.
            OSError: there is no room on the disk.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with _feast("apply the definitions"):
            from feature_repo.definitions import feast_objects

            with self._registry_under_another_name() as registry:
                self._open(registry).apply(feast_objects(self.var_dir, self.name))
            self.store = self._open(self.registry)

    def write(self, view: str, rows: pa.Table) -> None:
        """Writes rows of a view, one per key; where a newer one is in Redis, Feast leaves that.

        Raises:
            DatasetError: Feast could not.
            RedisError: Redis does not answer, or refused.
        """
        assert self.store is not None, "apply first"
        with _feast(f"write {view}"):
            for start in range(0, len(rows), _BATCH):
                self.store.write_to_online_store(view, df=rows.slice(start, _BATCH).to_pandas())

    def note_loaded(self, made: FeatureSet) -> None:
        """Tells the registry what was loaded, so that Feast's incremental command would go on from there."""
        with _feast("note what was loaded"), self._registry_under_another_name() as registry:
            shutil.copyfile(self.registry, registry)
            store = self._open(registry)
            for view in store.list_feature_views():
                store.registry.apply_materialization(view, self.name, made.first_event, made.as_of)

    @contextmanager
    def _registry_under_another_name(self) -> Iterator[Path]:
        """Gives the name to write a registry under, which takes the place of the registry if it can be read:
        on a full disk Feast writes a part of it and says nothing.

        Raises:
            OSError: it is a part.
        """
        temporary = self.folder / f".registry.{os.getpid()}.db"
        temporary.unlink(missing_ok=True)
        try:
            yield temporary
            self._open(temporary).list_feature_views()
            temporary.replace(self.registry)
        except DecodeError:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.registry)) from None
        finally:
            temporary.unlink(missing_ok=True)

    def _open(self, registry: Path) -> FeatureStore:
        from feast import FeatureStore, RepoConfig

        given = {"SHORTLIST_DATASET": self.name, "SHORTLIST_VAR_DIR": str(self.var_dir)}
        raw: dict[str, Any] = yaml.safe_load(Template(SETTINGS_FILE.read_text()).safe_substitute(given))
        raw["registry"], raw["online_store"]["connection_string"] = str(registry), self.redis
        return FeatureStore(config=RepoConfig(**raw, repo_path=SETTINGS_FILE.parent))


@contextmanager
def _feast(what: str) -> Iterator[None]:
    """Keeps Feast's and its libraries' warnings still, and says in one line where it fails."""
    import dask  # which Feast imports: nobody else needs it

    # Feast lets deprecations be shown as it is imported, whatever was ignored before, and imports Dask then.
    with warnings.catch_warnings(), dask.config.set({"dataframe.query-planning-warning": False}):
        warnings.simplefilter("ignore")
        try:
            yield
        except (DatasetError, RedisError):
            raise
        except Exception as error:
            if is_full_disk(error):
                raise
            raise DatasetError(f"Feast could not {what}: {type(error).__name__}: {error}") from error
