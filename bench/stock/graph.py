"""The multi-stage ensemble of the Merlin 23.8 notebooks, node for node; see README.md for each change."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import feast
import numpy as np
from merlin.schema import ColumnSchema, Schema
from merlin.systems.dag.ensemble import Ensemble
from merlin.systems.dag.ops.faiss import QueryFaiss
from merlin.systems.dag.ops.feast import QueryFeast
from merlin.systems.dag.ops.softmax_sampling import SoftmaxSampling
from merlin.systems.dag.ops.tensorflow import PredictTensorflow
from merlin.systems.dag.ops.unroll_features import UnrollFeatures
from merlin.systems.dag.ops.workflow import TransformWorkflow
from nvtabular import Workflow

from bench.stock.operators import AppendRankerInputs
from contract.encoders import Scale


@dataclass(frozen=True)
class Parts:
    """What a training run left for the graph: folders and files, and names of columns."""

    feast_repo: Path
    user_workflow: Workflow
    item_workflow: Workflow
    user_tower: Path
    ranker: Path
    faiss_index: Path
    items: Path
    user_item_scales: dict[str, Scale]
    context: tuple[str, ...]
    score: str


def stock_ensemble(parts: Parts, k: int, n: int) -> Ensemble:
    """Builds the notebook's graph: `user_id` in, `ordered_ids` (item codes) and `ordered_scores` out."""
    feature_store = feast.FeatureStore(str(parts.feast_repo))

    user_attributes = ["user_id"] >> QueryFeast.from_feature_view(
        store=feature_store, view="user_features", column="user_id", include_id=True
    )
    user_features = user_attributes >> TransformWorkflow(parts.user_workflow)

    retrieval = (
        user_features
        >> PredictTensorflow(str(parts.user_tower))
        >> QueryFaiss(str(parts.faiss_index), topk=k)
    )
    item_attributes = retrieval["candidate_ids"] >> QueryFeast.from_feature_view(
        store=feature_store,
        view="item_features",
        column="candidate_ids",
        output_prefix="item",
        include_id=True,
    )
    item_features = item_attributes >> TransformWorkflow(parts.item_workflow)

    user_features_to_unroll = parts.user_workflow.output_schema.column_names
    combined_features = (
        item_features
        >> UnrollFeatures("item_id", user_features[user_features_to_unroll])
        >> AppendRankerInputs(parts.items, parts.user_item_scales, parts.context)
    )
    ranking = combined_features >> PredictTensorflow(str(parts.ranker))

    ordering = combined_features["item_id"] >> SoftmaxSampling(
        relevance_col=ranking[parts.score], topk=n, temperature=0.00000001
    )
    return Ensemble(ordering, Schema([ColumnSchema("user_id", dtype=np.int64, dims=(None,))]))
