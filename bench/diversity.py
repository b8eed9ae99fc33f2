"""What the knob for diversity costs and buys: NDCG@10 against intra-list distance and coverage.

`python -m bench.diversity --out var/diversity-kuairand.json`, in the training environment, on the data set of
`SHORTLIST_DATA` and a bundle of it, the current one unless another is named: fills the slates of the test
part's users from the candidates of all its sources, by the scores and the code that serve. `python -m
bench.diversity --draw FILE...`, in the development environment, draws the files into
`docs/images/diversity.png`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from contract.arrays import Floats, Ints
from contract.bundle import BundleError, read_manifest
from contract.bundles import CURRENT, bundles_folder
from contract.rules.boosts import boosted
from contract.rules.diversity import Likeness, relevance, unit
from contract.rules.places import Wishes, fill_places

if TYPE_CHECKING:
    from training.data.prepared import Prepared

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
    """Fills the slates (U,N) of users from their candidates (U,K), best first, -1 in the tail, and the scores
    that order them."""
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


def measure_current(bundle: str | None) -> list[Point]:
    """Prepares the data set of the settings, and measures a bundle of it, the current one by default.

    Raises:
        BundleError: it is of another data set, or cannot be read.
    """
    from training.config import load_settings
    from training.data.sources.catalog import prepare

    settings = load_settings()
    prepared = prepare(settings.data, settings.data_dir, settings.var_dir, say=print)
    folder = (bundles_folder(settings.var_dir) / (bundle or CURRENT)).resolve()
    if (dataset := read_manifest(folder, verify=False).dataset) != prepared.dataset.name:
        raise BundleError(f"{folder}: is of {dataset}, not of {prepared.dataset.name}; set SHORTLIST_DATA")
    return measure(prepared, folder, settings.k, KNOBS)


def measure(prepared: Prepared, folder: Path, k: int, knobs: Sequence[float]) -> list[Point]:
    """Measures the slates that a bundle gives the test part's users, at each setting.

    Raises:
        BundleError: a file of the bundle is missing or changed.
    """
    from training.examples.split import held_out
    from training.rival import learned_of
    from training.slates.search import evaluate_lists, reorder
    from training.slates.slates import rank_candidates

    split, learned = prepared.split, learned_of(folder, prepared)
    held = held_out(prepared, split.validate_until, split.test_until)
    vectors = learned.retriever.vectors(held, split.validate_until)
    ranked = rank_candidates(prepared, learned, held, vectors, split.validate_until, k)
    served = ranked.served(learned.order)
    candidates = reorder(ranked.items, served)
    scores = -np.sort(-np.where(ranked.items >= 0, served, 0), axis=1)
    items = vectors[1]
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
    parser.add_argument("--bundle", help="its name (default: the current one)")
    parser.add_argument("--out", type=Path, help="where the points go, as JSON")
    parser.add_argument("--draw", type=Path, nargs="+", metavar="FILE", help="draw these instead")
    options = parser.parse_args()
    if options.draw:
        draw(options.draw)
        return
    print("| knob | NDCG@10 | Recall@10 | intra-list distance | coverage@10 |\n|---|---|---|---|---|")
    try:
        points = measure_current(options.bundle)
    except BundleError as error:
        raise SystemExit(str(error)) from None
    if options.out:
        options.out.write_text(json.dumps([asdict(point) for point in points], indent=1))


if __name__ == "__main__":
    main()
