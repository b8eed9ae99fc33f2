"""Runs a bundle's user tower and ranker by ONNX Runtime on a GPU and on the CPU, with the same inputs.

Runs in the role triton, whose ONNX Runtime must be the GPU's: requirements/triton-gpu.txt.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort

from contract.arrays import Array, Floats
from contract.bundle import BundleError, Inputs
from contract.encoders import Field
from ensemble.bundle import LoadedBundle, OnnxModel
from ensemble.settings import Provider

USERS, CANDIDATES, TIMES = 16, 100, 20


def drawn(fields: Mapping[str, Field], inputs: Inputs, *shape: int) -> dict[str, Array]:
    """Draws encoded columns, `shape`, lists and embeddings one axis more: any code of the vocabulary."""
    rng = np.random.default_rng(0)
    found: dict[str, Array] = {
        name: rng.integers(fields[name].cardinality, size=shape) for name in inputs.categorical
    }
    found |= {name: rng.normal(size=shape).astype(np.float32) for name in inputs.numeric}
    for name, length in inputs.lists.items():
        found[name] = rng.integers(fields[name].cardinality, size=(*shape, length))
    for name, length in inputs.embeddings.items():
        found[name] = rng.normal(size=(*shape, length)).astype(np.float32)
    return found


def run(folder: Path, provider: Provider) -> tuple[dict[str, Floats], dict[str, float]]:
    """Gives what both models give, and milliseconds a run of 16 users, each with 100 candidates."""
    bundle = LoadedBundle.open(folder, provider)
    fields, of_ranker = bundle.encoders.fields, bundle.ranker.spec
    user = drawn(fields, of_ranker.user, USERS)
    candidate = drawn(fields, of_ranker.candidate, USERS, CANDIDATES)
    models: dict[str, tuple[OnnxModel, dict[str, Array]]] = {
        "user_tower": (
            bundle.user_tower,
            bundle.user_tower.spec.pack(drawn(fields, bundle.user_tower.spec, USERS)),
        ),
        "ranker": (bundle.ranker, bundle.ranker.pack(user, candidate)),
    }
    given, took_ms = {}, {}
    for name, (model, inputs) in models.items():
        tries = []
        for _ in range(TIMES):
            begun = time.perf_counter()
            given[name] = model.run(inputs)
            tries.append(time.perf_counter() - begun)
        took_ms[name] = min(tries) * 1000
    return given, took_ms


def main() -> int:
    """Compares; 1 with one line where ONNX Runtime finds no GPU. Where it is without CUDA, nothing is run."""
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        why = "left out: this ONNX Runtime is without CUDA; requirements/triton-gpu.txt has the other"
        sys.stdout.write(f"{json.dumps({'left_out': why})}\n")
        return 0
    folder = Path(sys.argv[1])
    try:
        (on_cpu, cpu_ms), (on_gpu, gpu_ms) = (run(folder, given) for given in (Provider.CPU, Provider.CUDA))
    except BundleError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    difference = max(float(np.abs(on_cpu[name] - on_gpu[name]).max()) for name in on_cpu)
    result = {"cpu_ms": cpu_ms, "gpu_ms": gpu_ms, "greatest_difference": difference}
    sys.stdout.write(f"{json.dumps(result)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
