"""How the time from execute to response divides: Redis, ONNX Runtime, and the chain's own Python."""

from __future__ import annotations

import urllib.request
from collections import Counter
from functools import partial

from prometheus_client.parser import text_string_to_metric_families

from deploy.local.settings import LOOPBACK
from tests.benchmarks.designs import Design
from tests.benchmarks.flame import ONNX, PICTURE, PYTHON, REDIS, Stack, inside, sampled, shares
from tests.benchmarks.flame_svg import write_svg
from tests.benchmarks.processes import STUB_OF, by_kind
from tests.benchmarks.record import say
from tests.benchmarks.series import COMPARED_AT, Measured
from tests.benchmarks.servers import BenchError
from tests.benchmarks.side_by_side import Bench

CHAIN, OVERHEAD = "Inside the chain", "CPU without ONNX Runtime"
SECONDS, REQUESTS = "shortlist_chain_seconds", "shortlist_chain_requests"
COUNTED = {"redis": REDIS, "onnxruntime": ONNX, "python": PYTHON}
FEW, MANY = 1, 64


def counted(metrics_port: int) -> dict[str, float]:
    """Reads from Triton's metrics how many requests the chain had, and its seconds in each part."""
    with urllib.request.urlopen(f"http://{LOOPBACK}:{metrics_port}/metrics", timeout=10) as reply:
        text = reply.read().decode()
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = sample.name.removesuffix("_total")
            if name == SECONDS:
                found[COUNTED[sample.labels["part"]]] += sample.value  # type: ignore[assignment]
            elif name == REQUESTS:
                found[REQUESTS] += sample.value  # type: ignore[assignment]
    return dict(found)


def measure_chain(bench: Bench, clients: int, seconds: int) -> None:
    """Records the parts' shares at a number of clients: by the chain's own clock, and sampled.

    The picture is of the number at which designs are compared. The clock runs in a series of its own, as
    sampling slows the process down.
    """
    ours, port = bench.ours(), bench.settings.triton_metrics_port
    before = counted(port)
    ours.caller.closed(clients, float(seconds), seed=97)
    spent = {what: amount - before.get(what, 0.0) for what, amount in counted(port).items()}
    name = f"{clients} client{'s' if clients > 1 else ''}"
    if requests := spent.pop(REQUESTS, 0.0):
        figures = {f"{part}_ms": 1e3 * spent[part] / requests for part in (REDIS, ONNX, PYTHON)}
        figures["neither_percent"] = 100 * spent[PYTHON] / sum(spent.values())
        labels = {"by": "clock", "clients": clients}
        bench.record.add(CHAIN, f"{name}, by its own clock, per request", figures, labels=labels)
    else:
        say(f"not measured: Triton's metrics have no {SECONDS}")
    stacks = inside(_sampled(ours, clients, seconds, idle=True))
    if clients == COMPARED_AT:
        write_svg(bench.images / PICTURE, stacks, f"The chain from execute to response, {name}, by time")
    found = shares(stacks)
    figures = {f"{part}_percent": 100 * found[part] for part in (REDIS, ONNX, PYTHON)}
    figures["neither_percent"] = figures[f"{PYTHON}_percent"]
    bench.record.add(CHAIN, f"{name}, sampled", figures, labels={"by": "samples", "clients": clients})


def measure_overhead(bench: Bench, series: dict[int, Measured], seconds: int) -> None:
    """Records CPU per answer of tritonserver and its stub less ONNX Runtime's, of few clients and of many.

    The CPU is that of the closed loops; ONNX Runtime's share of the stub's is sampled on its own.
    """
    ours, left = bench.ours(), dict[int, float]()
    for clients in (FEW, MANY):
        one = series[clients]
        cpu = {kind: 1e3 * s / one.answers for kind, s in by_kind(one.cpu_s).items()}
        share = shares(_sampled(ours, clients, seconds, idle=False))[ONNX]
        onnx = share * cpu["stubs"]
        left[clients] = cpu["tritonserver"] + cpu["stubs"] - onnx
        figures = {
            "tritonserver_ms": cpu["tritonserver"],
            "stub_ms": cpu["stubs"],
            "onnxruntime_ms": onnx,
            "left_ms": left[clients],
        }
        name = f"{clients} client{'s' if clients > 1 else ''}"
        bench.record.add(OVERHEAD, name, figures, "per answer", {"clients": clients})
    ratio = left[MANY] / left[FEW]
    bench.record.add(OVERHEAD, f"{MANY} to {FEW}", {"ratio": ratio}, labels={"ratio": True})


def _sampled(ours: Design, clients: int, seconds: int, *, idle: bool) -> list[Stack]:
    stubs = [one for kind, members in ours.processes.items() if kind.startswith(STUB_OF) for one in members]
    if not stubs:
        raise BenchError("our Triton has no Python process")
    busiest = max(stubs, key=lambda process: sum(process.cpu_times()[:2]))
    load = partial(ours.caller.closed, clients, seconds + 1.0, seed=96)
    return sampled(busiest.pid, load, idle=idle, seconds=seconds)
