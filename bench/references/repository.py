"""Writes a reference's Triton repository: one Python model per stage, and the ensemble that joins them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc.model_config_pb2 as triton
from google.protobuf import text_format

from bench.references.rows import Tensor

ENSEMBLE, CHECKED = "ensemble-model", "checked-model"
"""The second answers the candidates and their scores too, for the comparison before the clock: Triton does
not run an ensemble of which an output that feeds a stage is not asked for.
"""
VERSION = "1"
_TYPES: dict[type[np.generic], int] = {np.int64: triton.TYPE_INT64, np.float32: triton.TYPE_FP32}


@dataclass(frozen=True)
class Stage:
    """One model: the file that runs, its tensors, what it is told, and how many processes run it.

    `files` are copied beside it, each by its new name.
    """

    name: str
    code: Path
    reads: tuple[Tensor, ...]
    writes: tuple[Tensor, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    instances: int = 1
    files: Mapping[Path, str] = field(default_factory=dict)


def write_repository(
    folder: Path,
    stages: Sequence[Stage],
    request: Tensor,
    ensembles: Mapping[str, Sequence[Tensor]],
) -> None:
    """Writes each stage's model, and ensembles of all of them by name and answer; they share the models.

    A stage's tensors are named, so each writer feeds each later reader; a tensor that is written again,
    such as a user column unrolled, replaces the one before.
    """
    for position, stage in enumerate(stages):
        name = _model_name(position, stage)
        _write_model(folder / name, name, stage)
    for name, answer in ensembles.items():
        (folder / name / VERSION).mkdir(parents=True)
        config = _ensemble(name, stages, request, answer)
        (folder / name / "config.pbtxt").write_text(text_format.MessageToString(config))


def _ensemble(
    name: str, stages: Sequence[Stage], request: Tensor, answer: Sequence[Tensor]
) -> triton.ModelConfig:
    ensemble = triton.ModelConfig(name=name, platform="ensemble", input=[_input(request)])
    ensemble.output.extend(_output(t) for t in answer)
    latest = {request.name: request.name}
    last = {t.name: position for position, stage in enumerate(stages) for t in stage.writes}
    answered = {t.name: last[t.name] for t in answer}
    for position, stage in enumerate(stages):
        step = ensemble.ensemble_scheduling.step.add(
            model_name=_model_name(position, stage), model_version=-1
        )
        for tensor in stage.reads:
            step.input_map[tensor.name] = latest[tensor.name]
        for tensor in stage.writes:
            is_answer = answered.get(tensor.name) == position
            latest[tensor.name] = tensor.name if is_answer else f"{tensor.name}_{position}"
            step.output_map[tensor.name] = latest[tensor.name]
    return ensemble


def _model_name(position: int, stage: Stage) -> str:
    return f"{position}-{stage.name}"


def _write_model(folder: Path, name: str, stage: Stage) -> None:
    versioned = folder / VERSION
    versioned.mkdir(parents=True)
    shutil.copyfile(stage.code, versioned / "model.py")
    for source, named in stage.files.items():
        shutil.copyfile(source, versioned / named)
    group = triton.ModelInstanceGroup(kind=triton.ModelInstanceGroup.Kind.KIND_CPU, count=stage.instances)
    config = triton.ModelConfig(name=name, backend="python", instance_group=[group])
    config.input.extend(_input(t) for t in stage.reads)
    config.output.extend(_output(t) for t in stage.writes)
    config.parameters["told"].string_value = json.dumps(dict(stage.parameters))
    (folder / "config.pbtxt").write_text(text_format.MessageToString(config))


def _input(tensor: Tensor) -> triton.ModelInput:
    return triton.ModelInput(name=tensor.name, data_type=_TYPES[tensor.dtype], dims=_dims(tensor))


def _output(tensor: Tensor) -> triton.ModelOutput:
    return triton.ModelOutput(name=tensor.name, data_type=_TYPES[tensor.dtype], dims=_dims(tensor))


def _dims(tensor: Tensor) -> list[int]:
    return [-1, tensor.width] if tensor.width else [-1]
