"""`python -m ensemble.publish.export`: writes a bundle's Triton model repository, whole or not at all."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import google.protobuf  # noqa: F401  before Merlin, which forces the slow Python implementation on who comes later
from merlin.systems.dag import Ensemble
from redis.exceptions import RedisError

from contract.bundle import BundleError
from contract.environment import explain_redis
from ensemble.bundle import LoadedBundle
from ensemble.graph import Stores, offers_of, recommend_graph, request_schema
from ensemble.publish.embeddings import build_embeddings, warm_redis
from ensemble.publish.runtime import ShortlistRuntime
from ensemble.run.recommender import item_table
from ensemble.settings import EnsembleSettings, load_settings
from ensemble.stores.client import connect
from ensemble.stores.embeddings.level import EmbeddingError
from ensemble.stores.features import MemoryFeatureStore
from ensemble.stores.vectors import MemoryVectorIndex

TIMEOUT_MS = 60_000


def export(folder: Path, output: Path, settings: EnsembleSettings) -> Path:
    """Verifies a bundle, brings the tables beside its models to where they are served from, builds its graph,
    and writes the folder of its name in `output`; what was there is replaced at the end, and other bundles
    stay.

    Raises:
        BundleError: a file of the bundle is missing, changed or unreadable, or its models do not load here.
        EmbeddingError: the disk has no room for its tables.
        RedisError: Redis does not answer, or is full, where it is to hold rows of them.
    """
    bundle = LoadedBundle.open(folder.resolve(), settings.provider, settings.ort_threads)
    bring_embeddings(bundle, settings)
    features = MemoryFeatureStore(bundle.dataset, bundle.dataset.clock)
    vectors = MemoryVectorIndex(bundle.item_ids, bundle.item_vectors)
    stores = Stores(features, vectors, item_table(bundle, features, settings))
    graph = recommend_graph(bundle, stores, settings, offers_of(bundle, stores, settings))
    ensemble = Ensemble(graph, request_schema(bundle))

    output.mkdir(parents=True, exist_ok=True)
    temporary = output.parent / f".{output.name}.{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        ensemble.export(str(temporary), ShortlistRuntime(), bundle=bundle, settings=settings)
        name = bundle.manifest.bundle
        target, old = output / name, temporary / "old"
        if target.exists():
            target.rename(old)
        (temporary / name).rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def bring_embeddings(bundle: LoadedBundle, settings: EnsembleSettings) -> None:
    """Brings the tables that a bundle has beside its models to the disk, and the most frequent rows to
    Redis; nothing where it has none.

    Raises:
        EmbeddingError: the disk has no room.
        RedisError: Redis does not answer, or is full.
    """
    if build_embeddings(bundle, settings):
        sys.stdout.write(f"embeddings in {settings.embeddings_of(bundle.manifest.bundle)}\n")
    warm_redis(connect(settings.redis_url, TIMEOUT_MS), bundle, settings)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exports one bundle; 0, or 1 with one line that says what is wrong."""
    settings = load_settings()
    parser = argparse.ArgumentParser(prog="python -m ensemble.publish.export", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=settings.bundle, help="the bundle's folder")
    parser.add_argument(
        "--output", type=Path, default=settings.var_dir / "models", help="the model repository"
    )
    chosen = parser.parse_args(arguments)
    try:
        target = export(chosen.bundle, chosen.output, settings)
    except (BundleError, EmbeddingError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except RedisError as error:
        sys.stderr.write(f"Redis at {settings.redis_url.address}: {explain_redis(error)}\n")
        return 1
    sys.stdout.write(f"exported {chosen.bundle} to {target}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
