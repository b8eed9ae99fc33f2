"""Feast's protobuf messages for values, without the rest of Feast.

Importing them the usual way runs Feast's own `__init__`, which loads its registries, offline stores and
servers: 1.8 of the 3 seconds of CPU between the start of the model process and its first slate.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import google.protobuf  # noqa: F401  before Merlin, which forces the slow Python implementation on who comes later

from contract.columns import Column

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
_KINDS = {"string": "string", "int64": "int64", "float32": "float", "bool": "bool"}


def encode_feature(column: Column, value: Any) -> bytes:
    """Writes a value of a column as Feast does; None is null."""
    if value is None:
        return b""
    made, kind = Value(), _KINDS[str(column.dtype)]
    if column.is_several:
        several = getattr(made, f"{kind}_list_val")
        several.SetInParent()  # an empty list is no null
        several.val.extend(value)
    else:
        setattr(made, f"{kind}_val", value)
    encoded: bytes = made.SerializeToString()
    return encoded
