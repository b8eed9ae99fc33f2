"""Which table lies where: TorchRec's planner within what the settings allow, its refusal in one line."""

from __future__ import annotations

import os
from typing import Any

import psutil
import torch
from torch import nn
from torchrec.distributed.embedding_types import EmbeddingComputeKernel, ShardingType
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import (
    KernelConfig,
    ParameterConstraints,
    PlannerError,
    TopologyFactory,
    TrainerConfig,
)
from torchrec.distributed.types import ShardingPlan
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from training.retrieval.config import TorchrecConfig
from training.torchrec.ranks import Ranks

MIB = 2**20
ADAM = 3
"""What a table takes in training, in tables: itself and two moments."""


class PlanError(RuntimeError):
    """Says why the tables cannot be laid out, and what to change."""


class BagSharder(EmbeddingBagCollectionSharder):
    """Cuts tables by rows without a GPU as well."""

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """Adds rows to what TorchRec offers on CPU."""
        return list({*super().sharding_types(compute_device_type), ShardingType.ROW_WISE.value})


def plan_tables(
    model: nn.Module, config: TorchrecConfig, ranks: Ranks, batch_size: int
) -> tuple[ShardingPlan, list[Any]]:
    """Lays out the tables of a model whose bags are not filled yet; the same plan on every rank.

    Raises:
        PlanError: they fit no memory so, or there is no such layout.
    """
    sharders: list[Any] = [BagSharder()]
    offered = [config.sharding] if config.sharding != "auto" else None
    constraints = {}
    for bags in (part for part in model.modules() if isinstance(part, EmbeddingBagCollection)):
        for table in bags.embedding_bag_configs():
            constraints[table.name] = ParameterConstraints(
                sharding_types=offered or [kind.value for kind in (ShardingType.DATA_PARALLEL, *SHARDED)],
                pooling_factors=[1.0] * len(table.feature_names),
            )
        for parameter in bags.parameters():
            parameter._optimizer_classes = [torch.optim.Adam]
    memory = (config.memory_mib or _memory_mib(ranks)) * MIB
    is_gpu = ranks.device.type == "cuda"
    topology = TopologyFactory.create_topology(
        TrainerConfig(
            world_size=ranks.count,
            local_world_size=int(os.environ.get("LOCAL_WORLD_SIZE", ranks.count)),
            hbm_cap_bytes=memory if is_gpu else None,
            ddr_cap_bytes=memory if not is_gpu else None,
        ),
        kernel_config=KernelConfig(compute_device=ranks.device.type),
    )
    planner = EmbeddingShardingPlanner(
        topology=topology,
        batch_size=max(1, batch_size // ranks.count),
        storage_reservation=FixedPercentageStorageReservation(0.0),
        constraints=constraints,
        debug=False,
        stats=[],
    )
    plan: ShardingPlan | str | None = None
    if ranks.is_first:
        try:
            plan = planner.plan(model, sharders)
        except PlannerError:
            plan = _refusal(model, config, ranks, memory)
    plan = ranks.told_by_first(plan)
    if not isinstance(plan, ShardingPlan):
        raise PlanError(str(plan))
    for tables in plan.plan.values():
        for table in tables.values():
            # For cut tables the planner knows fused optimizers alone. Ours is Adam, which moves every row at
            # every step, as the first trainer's does.
            table.compute_kernel = EmbeddingComputeKernel.DENSE.value
    return plan, sharders


SHARDED = (ShardingType.TABLE_WISE, ShardingType.ROW_WISE)


def _memory_mib(ranks: Ranks) -> int:
    if ranks.device.type == "cuda":
        return int(torch.cuda.get_device_properties(ranks.device).total_memory // MIB)
    here = int(os.environ.get("LOCAL_WORLD_SIZE", ranks.count))
    return int(psutil.virtual_memory().total // MIB // here)


def _refusal(model: nn.Module, config: TorchrecConfig, ranks: Ranks, memory: int) -> str:
    tables = [
        parameter.numel() * parameter.element_size()
        for part in model.modules()
        if isinstance(part, EmbeddingBagCollection)
        for parameter in part.parameters()
    ]
    whole, largest = (round(size * ADAM / MIB, 1) for size in (sum(tables), max(tables)))
    return (
        f"SHORTLIST_TORCHREC__SHARDING={config.sharding}: tables and optimizer take {whole:g} MiB, the "
        f"largest {largest:g} MiB, and do not fit {ranks.count} x {memory / MIB:g} MiB; take more WORKERS, "
        "row_wise, or raise SHORTLIST_TORCHREC__MEMORY_MIB"
    )
