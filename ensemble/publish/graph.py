"""Builds the graph of a bundle's vectors that the model process searches itself."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np

from contract.bundle import ITEM_VECTORS_FILE, Manifest
from ensemble.bundle import LoadedBundle
from ensemble.publish.recall import Breadth, Yardstick
from ensemble.settings import EnsembleSettings
from ensemble.stores.catalogue import Catalogue
from ensemble.stores.graph import (
    GRAPH_FILE,
    GraphFacts,
    GraphVectorIndex,
    build_graph,
    graphs_folder,
    open_graph,
)
from ensemble.stores.vectors import VectorIndex


def prepare_graph(
    folder: Path, manifest: Manifest, settings: EnsembleSettings, say: Callable[[str], None]
) -> None:
    """Builds it where there is none of these vectors, and finds out how widely it is searched; of a small
    catalogue every item is compared, and there is no graph.

    Raises:
        RecallError: the widest search does not reach the target; what was there stays.
    """
    if manifest.index.kind != "HNSW":
        return
    made, checksum = graphs_folder(settings.var_dir) / manifest.bundle, manifest.checksums[ITEM_VECTORS_FILE]
    facts = GraphFacts.found(made, checksum)
    if facts is None:
        started = time.monotonic()
        vectors = np.load(folder / ITEM_VECTORS_FILE, mmap_mode="r", allow_pickle=False)
        made.mkdir(parents=True, exist_ok=True)
        build_graph(vectors, made / GRAPH_FILE, manifest.index.m, manifest.index.ef_construction)
        facts = GraphFacts(checksum, len(vectors), manifest.index.ef_runtime)
        facts.write(made)
        say(f"{manifest.bundle}: {len(vectors)} items in a graph in {time.monotonic() - started:.1f} s")
    k, target, head = settings.k, settings.recall_target, settings.head_items
    known = Breadth.decode(facts.measured) if facts.measured else None
    if known is None or not known.is_of(k, manifest, target, head):
        yardstick = Yardstick.of(folder, manifest, k, target, head, say)
        if yardstick is None:
            return
        known = yardstick.climb(_searched(folder, made, yardstick))
        GraphFacts(checksum, facts.items, known.ef - known.k, known.encode()).write(made)
    say(f"{manifest.bundle}: searched in the process with {known}")


def drop_graphs(var: Path, bundles: Collection[str]) -> None:
    """Deletes the graphs of all bundles but these."""
    for folder in graphs_folder(var).glob("*"):
        if folder.name not in bundles:
            shutil.rmtree(folder, ignore_errors=True)


def _searched(folder: Path, made: Path, yardstick: Yardstick) -> Callable[[int], VectorIndex]:
    bundle = LoadedBundle.open(folder, verify=False)
    catalogue = Catalogue(bundle.item_ids, bundle.item_vectors)
    graph = open_graph(made / GRAPH_FILE)

    def index_of(ef: int) -> VectorIndex:
        return GraphVectorIndex(graph, ef - yardstick.exact.k, catalogue, lambda: bundle.attributes)

    return index_of
