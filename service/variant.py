"""One bundle as this process serves it: its facts, its popular list, its clients, its limits."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contract.bundle import (
    POPULAR_FILE,
    BundleError,
    Manifest,
    read_dataset,
    read_manifest,
    sha256,
)
from contract.dataset import Dataset, DatasetError
from contract.ids import FIRST, LAST
from contract.rules.order_rules import check_defaults
from contract.tensors import bundle_id
from contract.texts import ITEMS, text_files
from service.failures import DependencyUnavailable
from service.limits.adaptive import EnsembleLimits
from service.limits.circuits import Circuit
from service.limits.deadline import Deadline
from service.own_ids import OwnIds
from service.settings import Settings
from service.store.redis_store import RedisStore
from service.store.store import Card, Store
from service.triton.client import TRITON, EnsembleClient, TritonClient


class PopularItem(BaseModel):
    """One item of the popular list:

    its display fields, and any filterable columns that were written beside them.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    item_id: int = Field(ge=FIRST, le=LAST)
    score: float

    @property
    def fields(self) -> dict[str, Any]:
        """Everything beside the id and the score."""
        return self.__pydantic_extra__ or {}


class PopularList(BaseModel):
    """`popular.json`: the items that most people like, best first."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    bundle: str
    items: tuple[PopularItem, ...]


@dataclass(frozen=True)
class Variant:
    """One bundle and what serves it; a process holds one for each bundle that it serves."""

    manifest: Manifest
    popular: tuple[PopularItem, ...]
    ids: OwnIds
    ensemble: EnsembleClient
    store: Store
    store_timeout_s: float
    limits: EnsembleLimits
    folder: Path
    changed: set[int] = field(default_factory=set)
    """Items that changed since the bundle was made: the store alone knows their cards."""

    @classmethod
    def read(
        cls,
        folder: Path,
        settings: Settings,
        ensemble: EnsembleClient | None = None,
        store: Store | None = None,
    ) -> Variant:
        """Reads the bundle in a folder; Triton and Redis serve it, unless others are given.

        Raises:
            BundleError: a file is missing, does not parse, or differs from its checksum; or a rule of the
                settings names what the bundle does not have.
        """
        manifest, popular, ids = read_bundle(folder)
        check_defaults(settings.order, manifest)
        return cls(
            manifest=manifest,
            popular=popular,
            ids=ids,
            ensemble=ensemble or TritonClient(settings.triton, manifest),
            store=store or RedisStore.of(manifest, settings),
            store_timeout_s=settings.store_timeout_ms / 1000,
            limits=EnsembleLimits(
                TRITON,
                (settings.latency_budget_ms - settings.reserve_ms) / 1000,
                settings.triton.max_in_flight,
            ),
            folder=folder.resolve(),
        )

    @property
    def name(self) -> str:
        """The bundle's name, which is part of its Redis keys."""
        return self.manifest.bundle

    @cached_property
    def dataset(self) -> Dataset:
        """The data set as the bundle was trained on it; read when somebody puts items.

        Raises:
            DependencyUnavailable: the bundle's file is gone, or cannot be read.
        """
        try:
            return read_dataset(self.folder)
        except DatasetError as error:
            raise DependencyUnavailable("bundle", str(error)) from None

    @cached_property
    def bundle_id(self) -> int:
        """What the ensemble's answers say of their bundle where it is this one."""
        return bundle_id(self.name)

    @cached_property
    def popular_cards(self) -> dict[int, Card]:
        """The display fields of the popular items, by item id; these need no Redis."""
        return {
            item.item_id: {name: _text(item.fields.get(name)) for name in self.manifest.display}
            for item in self.popular
        }

    @property
    def circuits(self) -> list[Circuit]:
        """The circuits of the servers behind it."""
        return [self.limits.circuit, *([self.store.circuit] if isinstance(self.store, RedisStore) else ())]

    def store_time_s(self, deadline: Deadline) -> float:
        """Seconds that one read of the store may take, of a request with this deadline."""
        return min(deadline.left_s(), self.store_timeout_s)

    async def open(self) -> None:
        """Makes the clients' connections; a server that is down does not matter yet."""
        for server in (self.ensemble, self.store):
            if isinstance(server, TritonClient | RedisStore):
                await server.open()

    async def close(self) -> None:
        """Closes them."""
        for server in (self.ensemble, self.store):
            if isinstance(server, TritonClient | RedisStore):
                await server.close()


def read_bundle(folder: Path) -> tuple[Manifest, tuple[PopularItem, ...], OwnIds]:
    """Reads the files of a bundle that the gateway needs, all of the same bundle even where `folder` is a
    link that is swapped meanwhile.

    Raises:
        BundleError: a file is missing, does not parse, or differs from its checksum.
    """
    real = folder.resolve()
    manifest, path = read_manifest(real, verify=False), real / POPULAR_FILE
    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != manifest.checksums.get(POPULAR_FILE):
            raise BundleError(f"{path}: its checksum differs from the manifest; train again")
        popular = PopularList.model_validate_json(data)
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}; restore the bundle or train again") from None
    except ValidationError as error:
        wrong = error.errors()[0]
        where = ".".join(str(part) for part in wrong["loc"]) or "file"
        raise BundleError(f"{path}: not a popular list: {where}: {wrong['msg']}; train again") from None
    if popular.bundle != manifest.bundle:
        raise BundleError(f"{path}: belongs to bundle {popular.bundle}; train again")
    return manifest, popular.items, _own_ids(real, manifest)


def _own_ids(folder: Path, manifest: Manifest) -> OwnIds:
    if manifest.item_id_dtype == "string":
        for name in text_files(ITEMS):
            path = folder / name
            if not path.is_file() or sha256(path) != manifest.checksums.get(name):
                raise BundleError(f"{path}: missing, or its checksum differs from the manifest; train again")
    return OwnIds.of(manifest, folder)


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else str(value)
