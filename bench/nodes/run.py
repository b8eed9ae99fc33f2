"""An index of many items on one node, on several, and in the process, side by side.

`.venv/triton/bin/python -m bench.nodes.run [--items 1000000] [--nodes 1 2] [--publish]` draws clustered
vectors, builds each contender by the code of the export, searches it with a growing EF_RUNTIME until the
recall is reached, lets four clients search at once, and restarts it. What is finished is kept in
`var/bench/nodes/<items>.json` and not measured again; `--publish` writes the tables into docs/scale.md. The
servers end with it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.nodes.contenders import Opening, redis_nodes, usearch
from bench.nodes.report import publish
from bench.nodes.vectors import K, Vectors
from bench.record import commit, write_json
from deploy.local.settings import ROOT
from ensemble.publish.recall import Exact, measure

CLIENTS, TARGET = 4, 0.98
BREADTHS = (100, 150, 200, 300, 400, 800, 1600)


def searched(
    opening: Opening, servers_s: Callable[[], float], vectors: Vectors, exact: Exact, seconds: float
) -> dict[str, float]:
    """Searches ever more widely until the recall is reached, then as fast as can be. `servers_s` gives the
    CPU seconds that the servers have used."""
    for ef in BREADTHS:
        index = opening.index(vectors, ef)
        recall = measure(index, exact, ef, TARGET).recall
        if recall >= TARGET:
            break
    took: list[float] = []
    cpu_s, until = servers_s() + time.process_time(), time.monotonic() + seconds
    while time.monotonic() < until or len(took) < len(vectors.users):
        user = vectors.users[len(took) % len(vectors.users)][None]
        began = time.perf_counter()
        index.search(user, [K], [{}], K)
        took.append(time.perf_counter() - began)
    cpu_ms = (servers_s() + time.process_time() - cpu_s) / len(took) * 1e3
    p50, p99 = np.quantile(took, [0.5, 0.99]) * 1e3
    return {"ef": ef, "recall": recall, "p50_ms": p50, "p99_ms": p99, "search_cpu_ms": cpu_ms}


def together(opening: Opening, items: Path, ef: int, seconds: float) -> float:
    """Lets several processes search at once; gives searches per second."""
    context = multiprocessing.get_context("spawn")
    start, found = context.Barrier(CLIENTS), context.Queue()
    arguments = (opening, items, ef, seconds, start, found)
    processes = [context.Process(target=_search, args=arguments) for _ in range(CLIENTS)]
    for process in processes:
        process.start()
    counts = [found.get(timeout=seconds + 300) for _ in processes]
    for process in processes:
        process.join()
    return float(sum(counts) / seconds)


def _search(opening: Opening, folder: Path, ef: int, seconds: float, start: Any, found: Any) -> None:
    vectors = Vectors.mapped(folder)
    index, count = opening.index(vectors, ef), 0
    index.search(vectors.users[:1], [K], [{}], K)
    start.wait()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        index.search(vectors.users[count % len(vectors.users)][None], [K], [{}], K)
        count += 1
    found.put(count)


def run(items: int, nodes: Sequence[int], seconds: float, users: int, folder: Path) -> Path:
    """Measures what is not measured yet; gives the file of the figures."""
    folder.mkdir(parents=True, exist_ok=True)
    report = folder / f"{items}.json"
    known: dict[str, Any] = json.loads(report.read_text()) if report.is_file() else {}
    vectors = Vectors.drawn(items, users)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        work = Path(name)
        vectors.write(work)
        exact = Exact.of(np.arange(items), vectors.items, vectors.users, K)
        contenders: dict[str, Callable[[], AbstractContextManager[dict[str, Any]]]] = {
            f"Redis, {count} node{'s' * (count > 1)}": partial(redis_nodes, work / str(count), count, vectors)
            for count in nodes
        }
        contenders["usearch, in the process"] = partial(usearch, work / "usearch", vectors)
        for contender, made in contenders.items():
            if contender in known:
                continue
            with made() as figures:
                opening, servers_s = figures.pop("opens"), figures.pop("cpu_s")
                figures |= searched(opening, servers_s, vectors, exact, seconds)
                figures["per_s"] = together(opening, work, figures["ef"], seconds)
            figures |= {"load": os.getloadavg()[0], "commit": commit()}
            known[contender] = figures
            sys.stdout.write(f"{contender}: {json.dumps(figures)}\n")
            sys.stdout.flush()
            write_json(report, known)
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, and publishes where it is asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--nodes", type=int, nargs="*", default=[1, 2], help="how many, of each contender")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--users", type=int, default=500, help="whose searches are compared with exact ones")
    parser.add_argument("--folder", type=Path, default=ROOT / "var" / "bench" / "nodes")
    parser.add_argument("--publish", action="store_true", help="write the tables into docs/scale.md")
    chosen = parser.parse_args(arguments)
    if chosen.items < 2 * K or any(count < 1 for count in chosen.nodes):
        parser.error(f"--items must be at least {2 * K}, and --nodes at least 1")
    run(chosen.items, chosen.nodes, chosen.seconds, chosen.users, chosen.folder)
    if chosen.publish:
        publish(chosen.folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
