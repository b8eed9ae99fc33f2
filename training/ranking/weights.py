"""The weights of a trained DLRM, apart from TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from contract.arrays import Floats


@dataclass(frozen=True, eq=False)
class Layer:
    """A dense layer: `kernel` (inputs, outputs), `bias` (outputs,)."""

    kernel: Floats
    bias: Floats


@dataclass(frozen=True, eq=False)
class DlrmWeights:
    """One trained DLRM. Merlin orders the numerics, and the vectors that interact, by name.

    `tables` holds an embedding table (cardinality, width) per categorical and per list, by the safe name that
    Merlin orders by. `bottom`, over the numerics, ends without an activation and is empty where there are
    none; `top` is activated throughout; `head` gives the logit. Activations are ReLU.
    """

    tables: Mapping[str, Floats]
    bottom: tuple[Layer, ...]
    top: tuple[Layer, ...]
    head: Layer
