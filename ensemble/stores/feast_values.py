"""Feast's protobuf messages for values, without the rest of Feast.

Importing them the usual way runs Feast's own `__init__`, which loads its registries, offline stores and
servers: 1.8 of the 3 seconds of CPU between the start of the model process and its first slate.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import google.protobuf  # noqa: F401  before Merlin, which forces the slow Python implementation on who comes later

MODULE = "feast.protos.feast.types.Value_pb2"


def _load() -> Any:
    """Runs the generated module alone; who imports Feast beside it gets the same classes."""
    package = importlib.util.find_spec("feast")
    if package is None or package.origin is None:
        raise ImportError("feast is not installed")
    file = Path(package.origin).parent.joinpath(*MODULE.split(".")[1:]).with_suffix(".py")
    spec = importlib.util.spec_from_file_location(MODULE, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file}: not found; this release of Feast keeps its messages elsewhere")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_messages = _load()
Value, ValueType = _messages.Value, _messages.ValueType
