"""How arrays go through a pipe from the role that cuts examples to the one that packs them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from contract.arrays import Array

ENCODERS, CATALOGUE, FACTS, BLOCK, END = "encoders", "catalogue", "facts", "block", "end"
_LENGTH = 4


class WireError(Exception):
    """The pipe ended before what was sent through it was whole."""


@dataclass(frozen=True, eq=False)
class Message:
    """Named arrays of any dtype without objects, what they are, and facts that JSON holds."""

    kind: str
    arrays: Mapping[str, Array]
    facts: Mapping[str, Any]


def send(pipe: IO[bytes], kind: str, arrays: Mapping[str, Array], **facts: Any) -> None:
    """Writes one message.

    Raises:
        BrokenPipeError: nobody reads any more.
    """
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    shapes = [[name, array.dtype.str, array.shape] for name, array in whole.items()]
    header = json.dumps([kind, shapes, facts]).encode()
    pipe.write(len(header).to_bytes(_LENGTH, "little") + header)
    for array in whole.values():
        pipe.write(array.data.cast("B") if array.size else b"")


def receive(pipe: IO[bytes]) -> Iterator[Message]:
    """Reads messages up to the one of kind `END`, which it gives as well.

    Raises:
        WireError: there is none.
    """
    kind = ""
    while kind != END:
        length = int.from_bytes(_exactly(pipe, _LENGTH), "little")
        kind, shapes, facts = json.loads(_exactly(pipe, length))
        arrays = {name: _array(pipe, dtype, shape) for name, dtype, shape in shapes}
        yield Message(kind, arrays, facts)


def _array(pipe: IO[bytes], dtype: str, shape: list[int]) -> Array:
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    return np.frombuffer(_exactly(pipe, size), dtype=dtype).reshape(shape)


def _exactly(pipe: IO[bytes], size: int) -> bytes:
    data = pipe.read(size)
    if len(data) != size:
        raise WireError("what cuts the examples ended early; its reason stands above")
    return data
