"""What the knob for diversity costs and buys: NDCG@10 against intra-list distance and coverage.

`python -m bench.diversity --out var/diversity-kuairand.json`, in the training environment, on the data set of
`SHORTLIST_DATA` (`make data` first): trains the retrieval once, and fills the slates of the test part's users
from its best K by the code that serves. `python -m bench.diversity --draw FILE...`, in the development
environment, draws the files into `docs/images/diversity.png`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from contract.arrays import Floats, Ints
from contract.ordering import unranked_scores
from contract.rules.boosts import boosted
from contract.rules.diversity import Likeness, relevance, unit
from contract.rules.places import Wishes, fill_places

KNOBS = tuple(round(step / 10, 1) for step in range(11))
N = 10
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "diversity.png"


@dataclass(frozen=True)
class Point:
    """One setting of the knob: means over users, and the share of the catalogue that is in any slate."""

    knob: float
    ndcg: float
    recall: float
    distance: float
    coverage: float


def slates(candidates: Ints, scores: Floats, vectors: Floats, knob: float) -> Ints:
    """Fills the slates of U users from their candidates (U,K), -1 in the tail, best first; (U,N)."""
    found = np.full((len(candidates), N), -1, dtype=np.int64)
    for user, row in enumerate(candidates):
        live = row[row >= 0]
        values, _ = relevance(boosted(scores[user, : len(live)].astype(np.float64), None).values)
        likeness = Likeness(vectors[live], vectors[:0])
        wishes = Wishes((1 - knob) * values, N, len(live), len(live), diversity=knob, likeness=likeness)
        order = fill_places(wishes).order
        found[user, : len(order)] = live[order]
    return found


def distances(lists: Ints, vectors: Floats) -> Floats:
    """Gives the mean of 1 less the cosine over the pairs of each slate (U,N); NaN for less than two items."""
    units = np.where((lists >= 0)[..., None], unit(vectors)[np.maximum(lists, 0)], 0)
    count = (lists >= 0).sum(axis=1)
    whole = np.einsum("und,umd->u", units, units) - count
    pairs = count * (count - 1)
    means: Floats = np.divide(whole, pairs, out=np.full(len(lists), np.nan), where=pairs > 0)
    return 1 - means


def measure(knobs: Sequence[float]) -> list[Point]:
    """Trains the retrieval, and measures the slates of the test part at each setting."""
    from training.config import load_settings
    from training.data.sources.catalog import prepare
    from training.examples.ranking import RankingParts
    from training.examples.split import held_out
    from training.learn import fit_encoders, fit_retriever
    from training.slates.search import evaluate_lists, retrieve

    settings = load_settings()
    prepared = prepare(settings.data, settings.data_dir, settings.var_dir, say=print)
    retriever = fit_retriever(
        prepared, fit_encoders(prepared, RankingParts.of(prepared).train), settings, settings.seed
    )
    split = prepared.split
    held = held_out(prepared, split.validate_until, split.test_until)
    users, items = retriever.vectors(held, split.validate_until)
    candidates = retrieve(held, users, items, settings.k)
    scores = unranked_scores(np.einsum("ud,ukd->uk", users, items[np.maximum(candidates, 0)]))
    found = []
    for knob in knobs:
        lists = slates(candidates, scores, items[:, :-1], knob)
        metrics = evaluate_lists(held, lists)
        coverage = len(np.unique(lists[lists >= 0])) / len(items)
        distance = float(np.nanmean(distances(lists, items[:, :-1])))
        ndcg, recall = (float(np.nanmean(metrics[name])) for name in ("ndcg@10", "recall@10"))
        found.append(Point(knob, ndcg, recall, distance, coverage))
        print(line(found[-1]), flush=True)
    return found


def line(point: Point) -> str:
    """Writes a point as a row of a table."""
    figures = (point.ndcg, point.recall, point.distance, point.coverage)
    return f"| {point.knob:.1f} | {' | '.join(f'{value:.4f}' for value in figures)} |"


def draw(files: Sequence[Path]) -> None:
    """Draws what was measured."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8))
    for file in files:
        points = [Point(**one) for one in json.loads(file.read_text())]
        name = file.stem.removeprefix("diversity-")
        shares = [point.ndcg / points[0].ndcg for point in points]
        for axis, of in zip(axes, ("distance", "coverage"), strict=True):
            axis.plot([getattr(point, of) for point in points], shares, "o-", label=name)
    for axis, title in zip(axes, ("intra-list distance", "coverage@10"), strict=True):
        axis.set(xlabel=title, ylabel="NDCG@10, of that without")
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(PICTURE, dpi=110, bbox_inches="tight")


def main() -> None:
    """Measures and writes, or draws."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="where the points go, as JSON")
    parser.add_argument("--draw", type=Path, nargs="+", metavar="FILE", help="draw these instead")
    options = parser.parse_args()
    if options.draw:
        draw(options.draw)
        return
    print("| knob | NDCG@10 | Recall@10 | intra-list distance | coverage@10 |\n|---|---|---|---|---|")
    points = measure(KNOBS)
    if options.out:
        options.out.write_text(json.dumps([asdict(point) for point in points], indent=1))


if __name__ == "__main__":
    main()
