"""How the time from execute to response divides: Redis, ONNX Runtime, and the chain's own Python."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from prometheus_client.parser import text_string_to_metric_families

from bench.designs import Design
from bench.flame import PICTURE, busiest_stub, sampled
from bench.flame_svg import write_svg
from bench.processes import TRITON, by_kind
from bench.series import COMPARED_AT, measured
from bench.servers import BenchError
from bench.side_by_side import Bench
from bench.stacks import ONNX, PYTHON, REDIS, Stack, inside, shares
from contract.tensors import StageName
from deploy.local.settings import LOOPBACK

CHAIN, BY_STAGE = "Inside the chain", "Inside the chain, by stage"
OVERHEAD = "CPU without ONNX Runtime"
SECONDS, REQUESTS = "shortlist_chain_seconds", "shortlist_chain_requests"
EXECUTIONS, CPU = "shortlist_chain_executions", "shortlist_chain_cpu_seconds"
STAGE_SECONDS = "shortlist_chain_stage_seconds"
PUBLISHED_S = 1.2
"""Seconds after which the chain has surely published what it counted."""
COUNTED = {"redis": REDIS, "onnxruntime": ONNX, "python": PYTHON}
FEW, MANY = 1, 64
Load = TypeVar("Load")


def counted(metrics_port: int) -> dict[str, float]:
    """Reads what the chain has counted from Triton's metrics: requests, seconds by part and by stage.

    Raises:
        BenchError: they lack it.
    """
    time.sleep(PUBLISHED_S)
    with urllib.request.urlopen(f"http://{LOOPBACK}:{metrics_port}/metrics", timeout=10) as reply:
        text = reply.read().decode()
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = sample.name.removesuffix("_total")
            what = {SECONDS: COUNTED.get(sample.labels.get("part", ""), ""), REQUESTS: REQUESTS, CPU: CPU}
            what[EXECUTIONS] = EXECUTIONS
            what[STAGE_SECONDS] = sample.labels.get("stage", "")
            if name in what:
                found[what[name]] = found.get(what[name], 0.0) + sample.value
    if missing := {REQUESTS, EXECUTIONS, CPU, REDIS, ONNX, PYTHON} - set(found):
        raise BenchError(f"Triton's metrics do not tell {', '.join(sorted(missing))}")
    return found


def counted_in(bench: Bench, load: Callable[[], Load]) -> tuple[Load, dict[str, float]]:
    """Gives what a load gave, and what the chain counted in it."""
    before = counted(bench.settings.triton_metrics_port)
    loaded = load()
    after = counted(bench.settings.triton_metrics_port)
    return loaded, {what: amount - before.get(what, 0.0) for what, amount in after.items()}


def measure_chain(bench: Bench, clients: int, seconds: int) -> None:
    """Records the shares of parts and stages at a number of clients: by the chain's own clock, and sampled.

    The picture is of the number at which designs are compared. The clock runs in a series of its own, as
    sampling slows the process down.

    Raises:
        BenchError: the process cannot be sampled.
    """
    ours = bench.ours()
    _, spent = counted_in(bench, partial(ours.caller.closed, clients, float(seconds), seed=97))
    requests, name = spent[REQUESTS], _clients(clients)
    parts = {part: spent[part] for part in (REDIS, ONNX, PYTHON)}
    figures = {f"{part}_ms": 1e3 * part_s / requests for part, part_s in parts.items()}
    figures["neither_percent"] = 100 * spent[PYTHON] / sum(parts.values())
    labels = {"by": "clock", "clients": clients}
    bench.record.add(CHAIN, f"{name}, by its own clock", figures, "per request", labels)
    stages = {str(stage): spent[stage] for stage in StageName}
    stages["around the stages"] = sum(parts.values()) - sum(stages.values())
    for stage, stage_s in stages.items():
        share = 100 * stage_s / sum(parts.values())
        figures = {"ms_per_request": 1e3 * stage_s / requests, "share_percent": share}
        bench.record.add(BY_STAGE, f"{stage}, {name}", figures, labels={"stage": stage} | labels)

    stacks = inside(_sampled(ours, clients, seconds))
    if clients == COMPARED_AT:
        write_svg(bench.images / PICTURE, stacks, f"The chain from execute to response, {name}, by time")
    found = shares(stacks)
    figures = {f"{part}_percent": 100 * found[part] for part in (REDIS, ONNX, PYTHON)}
    figures["neither_percent"] = figures[f"{PYTHON}_percent"]
    bench.record.add(CHAIN, f"{name}, sampled", figures, labels=labels | {"by": "samples"})


def measure_overhead(bench: Bench, seconds: int) -> None:
    """Records CPU per request of tritonserver and its stub less ONNX Runtime's, of few and of many."""
    ours, left = bench.ours(), dict[int, float]()
    for clients in (FEW, MANY):
        load = partial(ours.caller.closed, clients, float(seconds), seed=95)
        one, spent = counted_in(bench, partial(measured, ours, load))
        cpu = {kind: 1e3 * s / one.answers for kind, s in by_kind(one.cpu_s).items()}
        onnx = 1e3 * spent[CPU] / spent[REQUESTS]
        left[clients] = cpu[TRITON] + cpu["stubs"] - onnx
        figures = {"tritonserver_ms": cpu[TRITON], "stub_ms": cpu["stubs"], "onnxruntime_ms": onnx}
        figures |= {"left_ms": left[clients], "requests_per_batch": spent[REQUESTS] / spent[EXECUTIONS]}
        bench.record.add(OVERHEAD, _clients(clients), figures, labels={"clients": clients})
    ratio = left[MANY] / left[FEW]
    bench.record.add(OVERHEAD, f"{MANY} to {FEW}", {"ratio": ratio}, labels={"ratio": True})


def _clients(clients: int) -> str:
    return f"{clients} client{'s' if clients > 1 else ''}"


def _sampled(ours: Design, clients: int, seconds: int) -> list[Stack]:
    load = partial(ours.caller.closed, clients, seconds + 1.0, seed=96)
    return sampled(busiest_stub(ours.processes).pid, load, seconds=seconds)
