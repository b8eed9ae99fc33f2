"""Opens the tables that a bundle has beside its models, in levels."""

from __future__ import annotations

import logging

import numpy as np

from ensemble.bundle import LoadedBundle
from ensemble.settings import EnsembleSettings
from ensemble.stores.client import connect
from ensemble.stores.embeddings.cache import RowCache
from ensemble.stores.embeddings.disk import EmbeddingDisk
from ensemble.stores.embeddings.level import EmbeddingError, Level
from ensemble.stores.embeddings.mapped import MappedEmbeddings, MappedTable
from ensemble.stores.embeddings.redis import RedisRows
from ensemble.stores.embeddings.tiers import Embeddings, TieredEmbeddings, TieredTable
from ensemble.stores.embeddings.updates import Changes, UpdateWatch

LOG = logging.getLogger(__name__)
TIMEOUT_MS = 5_000
"""Most milliseconds that a look for updates may take; beside the requests."""
FILLED = 0.8
"""Share of the cache that is filled with the most frequent ids: sets fill unevenly."""
WARMED = 16_384
"""Rows that are put into the cache at a time."""


def tiered_embeddings(
    bundle: LoadedBundle, settings: EnsembleSettings
) -> tuple[Embeddings, UpdateWatch | None]:
    """Opens the levels of a bundle's tables, the cache warm, and what follows their updates. Where the disk
    does not hold them, the bundle's own files are read, and no updates taken over."""
    chosen, manifest = settings.embeddings, bundle.manifest
    mapped: MappedEmbeddings = bundle.embeddings
    try:
        disk = EmbeddingDisk(settings.embeddings_of(manifest.bundle).resolve())
        widths = {table.column: table.width for table in manifest.tables}
        on_disk = {column: disk.rows_of(column, width) for column, width in widths.items()}
    except EmbeddingError as error:
        LOG.warning("rows of embeddings are read from the bundle's files, without updates: %s", error)
        return mapped, None
    redis = connect(settings.redis_url, settings.redis_timeout_ms)
    updates = UpdateWatch(connect(settings.redis_url, TIMEOUT_MS), manifest.bundle, disk, widths)
    tables = {}
    for column, width in widths.items():
        cache = RowCache(width, int(chosen.cache_mb * 2**20) // (4 * width))
        below: list[Level] = [on_disk[column]]
        if chosen.redis_rows:
            below.insert(0, RedisRows(redis, manifest.bundle, column, width, chosen.redis_rows))
        table = TieredTable(column, mapped.tables[column].unknown, cache, below, chosen.hit_rate)
        warm(table, mapped.tables[column], updates.changes)
        tables[column] = table
    return TieredEmbeddings(tables, updates.changes), updates


def warm(table: TieredTable, trained: MappedTable, changes: Changes) -> None:
    """Fills a cache with the rows of the most frequent ids, as far as no update changed them."""
    ids, codes = trained.known
    for start in range(0, int(FILLED * table.cache.capacity), WARMED):
        end = min(start + WARMED, int(FILLED * table.cache.capacity))
        keys = changes.keys_of(table.column, ids[start:end])
        is_trained = np.flatnonzero(keys.stamps == 0)
        if not len(is_trained):
            continue
        table.warm(keys.some(is_trained), trained.rows[codes[start:end][is_trained]])
