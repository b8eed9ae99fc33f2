"""Names of columns as TensorFlow, Merlin and NVTabular can bear them: for what lives inside of a model alone.

They make scopes, files and ragged twins (`x__values`) of a column's name. Everything outside, the manifest
and the exported models included, has the column's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from hashlib import blake2b
from typing import TYPE_CHECKING, TypeVar

from contract.encoders import Field

if TYPE_CHECKING:
    import onnx

LONGEST = 60
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*")
Value = TypeVar("Value")


def safe_name(name: str) -> str:
    """Takes a column's name, gives itself where it is plain, else what is plain of it and a hash of it."""
    if len(name) <= LONGEST and _PLAIN.fullmatch(name):
        return name
    digest = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return f"{re.sub(r'[^A-Za-z0-9]+', '_', name)[:LONGEST].strip('_')}_{digest}"


def with_safe_names(columns: Mapping[str, Value]) -> dict[str, Value]:
    """Takes anything by column, gives it by the columns' safe names, in the same order."""
    return {safe_name(name): value for name, value in columns.items()}


def safe_fields(fields: Mapping[str, Field]) -> dict[str, Field]:
    """Takes fields by column, gives them by safe name, which they bear themselves."""
    return {safe_name(name): replace(field, name=safe_name(name)) for name, field in fields.items()}


def renamed(model: onnx.ModelProto, names: Mapping[str, str]) -> onnx.ModelProto:
    """Calls inputs and outputs of a graph by other names, any of which ONNX bears; changes it in place."""
    for value in (*model.graph.input, *model.graph.output):
        value.name = names.get(value.name, value.name)
    for node in model.graph.node:
        for tensor_names in (node.input, node.output):
            for at, name in enumerate(tensor_names):
                tensor_names[at] = names.get(name, name)
    return model
