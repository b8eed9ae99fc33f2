"""Merlin's graph without what Merlin loads for data frames and GPUs.

The usual import of `merlin.dag` runs pandas, Dask, Distributed and Numba: 190 MiB and most of the seconds
between the start of the model process and its first slate, for types in annotations and for two questions
about GPUs. None of it is used by a chain whose tables are numpy arrays.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from types import ModuleType

GRAPH = "merlin.dag"
UNUSED = ("pandas", "dask", "dask.dataframe", "merlin.core.compat", "merlin.core.dispatch", "tritonclient")


class Unused(ModuleType):
    """Stands for a module while Merlin is imported: its names are empty classes, enough for annotations."""

    cudf = None  # Merlin's own word for: there is no GPU

    def __getattr__(self, name: str) -> type:
        """Gives an empty class of that name."""
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def import_lean_merlin() -> None:
    """Imports Merlin's graph by itself; nothing to do where the process has it. Whoever imports pandas or the
    others later gets them as ever."""
    if GRAPH in sys.modules:
        return
    unused = {name: Unused(name) for name in UNUSED if name not in sys.modules}
    for name, module in unused.items():
        parent, _, child = name.rpartition(".")
        if parent in unused:
            setattr(unused[parent], child, module)
    sys.modules.update(unused)
    try:
        with warnings.catch_warnings(action="ignore"):  # that there are no types of pandas to know
            importlib.import_module(GRAPH)
    finally:
        for name in unused:
            del sys.modules[name]
