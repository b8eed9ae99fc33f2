"""Merlin's Triton runtime, with dynamic batching, a model.py of ours and no pickle."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import google.protobuf  # noqa: F401  before Merlin, which forces the slow Python implementation on who comes later
import numpy as np
import tritonclient.grpc.model_config_pb2 as triton
from google.protobuf import text_format
from merlin.schema import Schema
from merlin.systems.dag import Ensemble
from merlin.systems.dag.runtimes.triton import TritonExecutorRuntime

from contract.tensors import (
    ANSWER,
    ANSWER_TENSORS,
    EXPLAIN_TENSORS,
    OPTIONAL_TENSORS,
    Tensor,
    request_tensor,
)
from ensemble.bundle import LoadedBundle
from ensemble.run.recommender import ADDED_AT_THE_END, graph_index
from ensemble.settings import EnsembleSettings, IndexEngine
from ensemble.stores.catalogue import Catalogue
from ensemble.stores.graph import EXPORTED, GRAPH_FACTS_FILE, GRAPH_FILE, graphs_folder
from ensemble.triton import model

VERSION = "1"
BUNDLE_FOLDER = "bundle"


class ShortlistRuntime(TritonExecutorRuntime):
    """Exports the graph as one Triton model that batches.

    Merlin's exporter pickles the graph; this copies the bundle, from which `model.py` builds the same graph.
    """

    def export(
        self, ensemble: Ensemble, path: str, version: int = 1, name: str | None = None, **written: Any
    ) -> tuple[triton.ModelConfig, list[triton.ModelConfig]]:
        """Writes `path/name/config.pbtxt`, `version/model.py` and `version/bundle/`.

        `written` holds the `bundle` and the `settings`; Merlin's own signature knows neither. Where the model
        process searches itself, its graph lies beside the bundle.
        """
        bundle, settings = written["bundle"], written["settings"]
        folder = Path(path) / (name or bundle.manifest.bundle)
        versioned = folder / str(version)
        versioned.mkdir(parents=True)
        config = model_config(ensemble.output_schema, bundle, settings)
        (folder / "config.pbtxt").write_text(text_format.MessageToString(config))
        shutil.copyfile(model.__file__, versioned / "model.py")
        copied = versioned / BUNDLE_FOLDER
        copied.mkdir()
        tables = {table.file for table in bundle.manifest.tables}
        for file in (*bundle.manifest.checksums, "manifest.json"):
            put = _linked if file in tables else shutil.copyfile
            put(bundle.folder / file, copied / file)
        if settings.index_engine is IndexEngine.USEARCH and bundle.manifest.index.kind == "HNSW":
            graph_index(bundle, settings.var_dir, Catalogue(bundle.item_ids, bundle.item_vectors))
            made = graphs_folder(settings.var_dir) / bundle.manifest.bundle
            (versioned / EXPORTED).mkdir()
            for file in (GRAPH_FILE, GRAPH_FACTS_FILE):
                _linked(made / file, versioned / EXPORTED / file)
        return config, []


def _linked(file: Path, name: Path) -> None:
    """Gives a file a second name, as it may be larger than all others; copies it to another disk."""
    try:
        name.hardlink_to(file)
    except OSError:
        shutil.copyfile(file, name)


def model_config(
    output_schema: Schema, bundle: LoadedBundle, settings: EnsembleSettings
) -> triton.ModelConfig:
    """Writes Triton's description of the model: shapes without the batch axis, and dynamic batching.

    Raises:
        ValueError: the contract promises an output that the graph does not write.
    """
    added = {*output_schema.column_names, *ADDED_AT_THE_END}
    missing = [t.name for t in (*ANSWER_TENSORS, *EXPLAIN_TENSORS) if t.name not in added]
    if missing:
        raise ValueError(f"the graph does not write {missing}, which the contract promises")
    batching = triton.ModelDynamicBatching(
        max_queue_delay_microseconds=settings.queue_delay_us, default_queue_policy=queue_policy(settings)
    )
    group = triton.ModelInstanceGroup(kind=triton.ModelInstanceGroup.Kind.KIND_CPU, count=settings.instances)
    config = triton.ModelConfig(
        name=bundle.manifest.bundle,
        backend="python",
        max_batch_size=settings.max_batch_size,
        dynamic_batching=batching,
        instance_group=[group],
        input=[
            triton.ModelInput(**_described(request_tensor(bundle.manifest.context))),
            *(triton.ModelInput(**_described(t), optional=True) for t in OPTIONAL_TENSORS),
        ],
        output=[triton.ModelOutput(**_described(t)) for t in (ANSWER, *EXPLAIN_TENSORS)],
    )
    config.parameters["bundle"].string_value = bundle.manifest.bundle
    return config


def queue_policy(settings: EnsembleSettings) -> triton.ModelQueuePolicy | None:
    """Bounds Triton's queue, where that is asked for: what does not fit, and what waited too long, is refused
    as `UNAVAILABLE`. None, the default, leaves the queue to the deadlines and to the gateway's bound.

    With any bound Triton stops fetching ahead, and its batcher may then sleep for half a second beside a
    request and an idle model. A request may shorten its wait by Triton's parameter `timeout`, in
    microseconds; without a default, Triton ignores that parameter.
    """
    if not settings.queue_size and not settings.queue_timeout_ms:
        return None
    return triton.ModelQueuePolicy(
        timeout_action=triton.ModelQueuePolicy.TimeoutAction.REJECT,
        default_timeout_microseconds=settings.queue_timeout_ms * 1000,
        allow_timeout_override=settings.queue_timeout_ms > 0,
        max_queue_size=settings.queue_size,
    )


_TYPES = {
    np.int64: triton.TYPE_INT64,
    np.int8: triton.TYPE_INT8,
    np.uint8: triton.TYPE_UINT8,
    np.float32: triton.TYPE_FP32,
}


def _described(t: Tensor) -> dict[str, Any]:
    return {"name": t.name, "data_type": _TYPES[t.dtype], "dims": [t.width]}
