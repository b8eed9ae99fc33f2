"""A graph of the items' vectors in a file that the processes of a machine map and search themselves."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from contract.arrays import Array, Bools, Floats, Ids, Ints
from contract.candidates import least_of_best
from contract.filters import Filters
from contract.rules.attributes import ItemAttributes
from contract.whole_file import whole_file
from ensemble.stores.catalogue import Catalogue, LiveItems
from ensemble.stores.index_watch import IndexWatch
from ensemble.stores.vectors import blank, fill

GRAPH_FILE, GRAPH_FACTS_FILE = "item_graph.usearch", "item_graph.json"
"""Made from a bundle's vectors, and no part of it."""
EXPORTED = "graph"
"""Their folder beside an exported bundle's."""
BLOCK = 100_000
EXACT_UP_TO = 20_000
"""Items, of all or of those that pass a filter, that are compared one by one: sooner done than a graph is
searched so widely that enough of them are met."""
MARGIN = 1.5
"""How many more are asked of the graph than would pass a filter if it were independent of the user."""


@dataclass(frozen=True)
class GraphFacts:
    """Of which vectors a graph is, and how it is searched."""

    vectors: str
    """The checksum of the file of vectors."""
    items: int
    beyond: int
    """How many more items than asked for a search keeps in view."""
    measured: str = ""
    """How that was chosen: a `Breadth`, encoded."""

    def write(self, folder: Path) -> None:
        """Writes them beside the graph, whole or not at all."""
        with whole_file(folder / GRAPH_FACTS_FILE) as file:
            file.write(json.dumps(asdict(self)).encode() + b"\n")

    @classmethod
    def found(cls, folder: Path, vectors: str) -> GraphFacts | None:
        """Reads them; None where there is no graph of these vectors."""
        try:
            facts = cls(**json.loads((folder / GRAPH_FACTS_FILE).read_text()))
        except (OSError, TypeError, ValueError):
            return None
        return facts if facts.vectors == vectors and (folder / GRAPH_FILE).is_file() else None


def graph_folder(bundle: Path, var: Path, name: str) -> Path:
    """Where the graph of a bundle lies: beside its folder where that was exported, else in the run-time
    folder."""
    exported = bundle.parent / EXPORTED
    return exported if exported.is_dir() else graphs_folder(var) / name


def graphs_folder(var: Path) -> Path:
    """Where graphs are built, each in a folder of its bundle's name."""
    return var / "graphs"


def build_graph(vectors: Floats, path: Path, m: int, ef_construction: int, threads: int = 0) -> None:
    """Builds the graph of vectors (I,D) for inner products, and writes it under a temporary name first.

    `threads` 0: one for each core.
    """
    from usearch.index import Index

    graph = Index(
        ndim=vectors.shape[1], metric="ip", dtype="f32", connectivity=m, expansion_add=ef_construction
    )
    for start in range(0, len(vectors), BLOCK):
        some = np.ascontiguousarray(vectors[start : start + BLOCK], dtype=np.float32)
        graph.add(np.arange(start, start + len(some), dtype=np.uint64), some, threads=threads)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        graph.save(str(temporary))
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


def open_graph(path: Path) -> Any:
    """Maps a graph: what is read of it the processes of a machine share, and nothing is read before it is
    searched.

    Raises:
        ValueError: it is none.
    """
    from usearch.index import Index

    try:
        graph = Index.restore(str(path), view=True)
    except Exception as error:  # of its own kinds
        raise ValueError(f"{path}: {error}; delete it and run `make export`") from None
    if graph is None:
        raise ValueError(f"{path}: is no graph of usearch's; delete it and run `make export`")
    return graph


class ProcessWatch(IndexWatch):
    """Of an index in the process nothing can be missing; Redis may still lose what else it holds."""

    @property
    def share(self) -> float:
        """All of it."""
        return 1.0

    def look(self) -> None:
        """Asks whether Redis evicts keys."""
        self.found = self.items
        self.look_for_evictions()


class GraphVectorIndex:
    """Searches a graph in the process. The items that pass a filter are known here, and compared one by one
    where they are few; so are those that came, or moved, after the graph was made."""

    def __init__(
        self,
        graph: Any,
        beyond: int,
        catalogue: Catalogue,
        attributes: Callable[[], ItemAttributes],
        watch: ProcessWatch | None = None,
        exact_up_to: int = EXACT_UP_TO,
    ) -> None:
        """Takes the graph, whose keys are positions in the catalogue, or None where every item is compared;
        how many more items than asked for are kept in view; and what gives the items' filterable columns."""
        self.graph, self.beyond, self.catalogue = graph, beyond, catalogue
        self.attributes, self.watch, self.exact_up_to = attributes, watch, exact_up_to

    @property
    def is_whole(self) -> bool:
        """Whether nothing was lost beside it."""
        return self.watch is None or self.watch.is_whole

    def grown(self, catalogue: Catalogue, live: LiveItems) -> GraphVectorIndex:
        """Compares the new and the moved items one by one, and filters by what items hold now."""
        grown, before = copy(self), self.attributes
        grown.catalogue = catalogue
        made: list[ItemAttributes] = []

        def attributes() -> ItemAttributes:
            if not made:
                made.append(live.changed(before(), catalogue))
            return made[0]

        grown.attributes = attributes
        return grown

    def search(
        self, vectors: Floats, counts: Sequence[int], filters: Sequence[Filters], width: int
    ) -> tuple[Ids, Floats]:
        """Finds the nearest items of each user; those without filters in one search of the graph."""
        ids, scores = blank(len(vectors), width)
        wanted = [min(count, width) for count in counts]
        plain = [row for row, one in enumerate(filters) if not one and wanted[row]]
        found: dict[int, Ints] = {}
        if plain and self._is_searched(max(wanted[row] for row in plain), 1.0):
            of_graph = self._near(vectors[plain], max(wanted[row] for row in plain))
            found = {row: self._with_others(near) for row, near in zip(plain, of_graph, strict=True)}
        for row, count in enumerate(wanted):
            if count:
                at = found[row] if row in found else self._filtered(vectors[row], count, filters[row])
                products = self.catalogue.vectors_of(at) @ vectors[row]
                fill(ids, scores, row, self.catalogue.item_ids[at], products, count)
        return ids, scores

    def _filtered(self, vector: Floats, count: int, filters: Filters) -> Ints:
        """Gives the positions of items that pass, the `count` nearest among them."""
        items = len(self.catalogue.item_ids)
        passing: Bools = np.ones(items, dtype=np.bool_)
        if filters:
            passing = self.attributes().passing(filters)[:items]
        passed = int(np.count_nonzero(passing))
        share = passed / max(1, items)
        if passed > self.exact_up_to and self._is_searched(count, share):
            (near,) = self._near(vector[None], int(count / share * MARGIN))
            near = near[passing[near]]
            if len(near) >= count:
                others = self._with_others(near)
                return others[passing[others]]
        return self._nearest_of(vector, passing.nonzero()[0], count)

    def _with_others(self, near: Ints) -> Ints:
        """Gives the positions that the graph found and those of which it knows nothing, or not where they are
        now, each once."""
        beside = self.catalogue.beside
        return np.append(near[~np.isin(near, beside)], beside) if len(beside) else near

    def _is_searched(self, count: int, share: float) -> bool:
        """Whether the graph finds so many sooner than comparing all would."""
        items = len(self.catalogue.bundle_ids)
        return self.graph is not None and items > self.exact_up_to and count / share * MARGIN < items / 8

    def _nearest_of(self, vector: Floats, at: Ints, count: int) -> Ints:
        """Compares items by position, some at a time."""
        best, products = at[:0], np.empty(0, dtype=np.float32)
        for start in range(0, len(at), BLOCK):
            some = at[start : start + BLOCK]
            of_some = self.catalogue.vectors_of(some) @ vector
            is_good = of_some >= least_of_best(of_some, count)
            best, products = np.append(best, some[is_good]), np.append(products, of_some[is_good])
            order = np.lexsort((self.catalogue.item_ids[best], -products))[:count]
            best, products = best[order], products[order]
        return best

    def _near(self, vectors: Array, count: int) -> list[Ints]:
        """Searches the graph for vectors (B,D); gives of each the positions of the nearest."""
        self.graph.expansion_search = count + self.beyond
        matches = self.graph.search(np.ascontiguousarray(vectors, dtype=np.float32), count, threads=1)
        if len(vectors) == 1:
            return [matches.keys.astype(np.int64)]
        filled = zip(matches.keys.astype(np.int64), matches.counts.tolist(), strict=True)
        return [keys[:length] for keys, length in filled]
