"""What the models of a real bundle cost: `SHORTLIST_BENCH_BUNDLE`, else `var/bundles/current`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ensemble.bundle import LoadedBundle

FOLDER = Path(os.environ.get("SHORTLIST_BENCH_BUNDLE", "var/bundles/current"))
Measure = Callable[..., Any]
SIZES = ((1, 100), (1, 400), (1, 1600), (16, 100))


@pytest.fixture(scope="module")
def bundle() -> LoadedBundle:
    """The bundle; without one there is nothing to measure."""
    if not FOLDER.is_dir():
        pytest.skip(f"{FOLDER}: no bundle; run `make train promote`")
    return LoadedBundle.open(FOLDER)


def random_columns(bundle: LoadedBundle, names: Iterable[str], *shape: int) -> dict[str, npt.NDArray[Any]]:
    """Draws encoded columns of a shape, lists one axis longer, from what the encoders can give."""
    rng = np.random.default_rng(0)
    columns: dict[str, npt.NDArray[Any]] = {}
    for name in names:
        field = bundle.encoders.fields[name]
        if field.kind == "numeric":
            columns[name] = rng.normal(size=shape).astype(np.float32)
        else:
            size = (*shape, field.length) if field.kind == "list" else shape
            columns[name] = rng.integers(0, field.cardinality, size)
    return columns


@pytest.mark.benchmark(group="ranker")
@pytest.mark.parametrize(("users", "k"), SIZES, ids=[f"B={b}-K={k}" for b, k in SIZES])
def test_ranker(benchmark: Measure, bundle: LoadedBundle, users: int, k: int) -> None:
    """P(click) of K candidates of each user in one call, one thread."""
    spec = bundle.ranker.spec
    user = random_columns(bundle, spec.user.columns, users)
    candidate = random_columns(bundle, spec.candidate.columns, users, k)
    bundle.ranker.open()
    scores = benchmark(bundle.ranker.run, bundle.ranker.pack(user, candidate))
    assert scores.shape == (users, k)
    assert ((scores >= 0) & (scores <= 1)).all()


@pytest.mark.benchmark(group="user tower")
def test_user_tower(benchmark: Measure, bundle: LoadedBundle) -> None:
    """One user's vector, one thread."""
    columns = random_columns(bundle, bundle.user_tower.features, 1)
    bundle.user_tower.open()
    vector = benchmark(bundle.user_tower, columns)
    assert vector.shape == (1, bundle.manifest.vector_width)


@pytest.mark.benchmark(group="encoders")
@pytest.mark.parametrize("k", [100, 1600], ids="rows={}".format)
def test_encode(benchmark: Measure, bundle: LoadedBundle, k: int) -> None:
    """Item ids to codes, nulls and unknown ids among them."""
    known = bundle.item_ids[:: max(1, len(bundle.item_ids) // k)][: k - 1]
    raw = np.append(known, -5)
    codes = benchmark(bundle.encoders.encode, "item_id", raw)
    assert codes[-1] == 2
    assert (codes[:-1] >= 1).all()
