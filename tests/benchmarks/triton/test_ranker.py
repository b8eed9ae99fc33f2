"""What the models of a real bundle cost: `SHORTLIST_BENCH_BUNDLE`, else `var/bundles/current`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ensemble.bundle import Bundle, OnnxModel

FOLDER = Path(os.environ.get("SHORTLIST_BENCH_BUNDLE", "var/bundles/current"))
Measure = Callable[..., Any]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """The bundle; without one there is nothing to measure."""
    if not FOLDER.is_dir():
        pytest.skip(f"{FOLDER}: no bundle; run `make train`")
    return Bundle.open(FOLDER)


def random_rows(bundle: Bundle, model: OnnxModel, rows: int) -> dict[str, npt.NDArray[Any]]:
    """Draws encoded columns from what the encoders can give."""
    rng = np.random.default_rng(0)
    columns: dict[str, npt.NDArray[Any]] = {}
    for name in model.features:
        field = bundle.encoders.fields[name]
        shape = (rows, field.length) if field.kind == "list" else (rows,)
        if field.kind == "numeric":
            columns[name] = rng.normal(size=shape).astype(np.float32)
        else:
            columns[name] = rng.integers(0, field.cardinality, shape)
    return columns


@pytest.mark.benchmark(group="ranker")
@pytest.mark.parametrize("k", [100, 400, 1600], ids="K={}".format)
def test_ranker(benchmark: Measure, bundle: Bundle, k: int) -> None:
    """P(click) of K rows in one call, one thread."""
    columns = random_rows(bundle, bundle.ranker, k)
    bundle.ranker.open()
    scores = benchmark(bundle.ranker, columns)
    assert scores.shape == (k,)
    assert ((scores >= 0) & (scores <= 1)).all()


@pytest.mark.benchmark(group="user tower")
def test_user_tower(benchmark: Measure, bundle: Bundle) -> None:
    """One user's vector, one thread."""
    columns = random_rows(bundle, bundle.user_tower, 1)
    bundle.user_tower.open()
    vector = benchmark(bundle.user_tower, columns)
    assert vector.shape == (1, bundle.manifest.vector_width)


@pytest.mark.benchmark(group="encoders")
@pytest.mark.parametrize("k", [100, 1600], ids="rows={}".format)
def test_encode(benchmark: Measure, bundle: Bundle, k: int) -> None:
    """Item ids to codes, nulls and unknown ids among them."""
    known = bundle.item_ids[:: max(1, len(bundle.item_ids) // k)][: k - 1]
    raw = np.append(known, -5)
    codes = benchmark(bundle.encoders.encode, "item_id", raw)
    assert codes[-1] == 2
    assert (codes[:-1] >= 1).all()
