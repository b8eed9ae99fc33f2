"""The model process has Merlin's graph, and nothing of what Merlin loads beside it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SERVING = """
import json, sys
from ensemble.triton.lean_merlin import import_lean_merlin
import_lean_merlin()
import ensemble.run.metrics, ensemble.run.recommender, ensemble.settings
from ensemble.stage import Stage
print(json.dumps({"modules": list(sys.modules), "bases": [base.__module__ for base in Stage.__mro__]}))
"""
LATER = """
from ensemble.triton.lean_merlin import import_lean_merlin
import_lean_merlin()
import pandas, merlin.table, merlin.systems.dag
assert pandas.DataFrame({"x": [1]})["x"].sum() == 1
merlin.table.TensorTable.from_df(pandas.DataFrame({"x": [1]}))
import_lean_merlin()
"""


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_serves_is_merlins_and_loads_neither_data_frames_nor_gpus() -> None:
    loaded_by = json.loads(python(SERVING))
    assert "merlin.dag.operator" in loaded_by["bases"]
    loaded = {name.partition(".")[0] for name in loaded_by["modules"]}
    assert not loaded & {"pandas", "pyarrow", "dask", "distributed", "numba", "scipy", "feast", "nvtabular"}


def test_whoever_imports_them_later_gets_them() -> None:
    python(LATER)


@pytest.mark.parametrize("name", ["pandas", "dask"])
def test_a_process_that_has_merlin_keeps_what_it_has(name: str) -> None:
    python(
        f"import merlin.dag, sys; had = sys.modules[{name!r}]\n{LATER}\nassert sys.modules[{name!r}] is had"
    )
