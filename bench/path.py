"""What is measured of ours alone: materialisation, the whole path and its stages, single parts."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import numpy as np

from bench.load.traffic import Exchange
from bench.record import Record, say
from bench.replies import Kind
from bench.series import Measured
from bench.servers import BenchError, run
from contract.tensors import StageName
from deploy.local.settings import LocalSettings
from deploy.local.stack import up

STAGES, FEATURES, PARTS = "Where the time goes", "Materialisation", "Single stages"


def materialize(settings: LocalSettings, record: Record, dataset: str) -> None:
    """Brings the features to the measured Redis, and builds the index and Triton's model repository."""
    say(f"materialising {dataset}")
    made = run(settings, "training", "-m", "training", "features", "--data", dataset)
    done = run(settings, "training", "-m", "feature_repo", "materialize", "--data", dataset)
    arrived = re.findall(r": ([\d,]+) rows in Redis", done.output)
    rows = sum(int(count.replace(",", "")) for count in arrived)
    if not rows:
        raise BenchError(f"materialize said nothing of rows that arrived: {done.output[-500:]}")
    seconds = made.seconds + done.seconds
    figures = {"rows": rows, "seconds": seconds, "rows_per_s": rows / seconds}
    record.add(FEATURES, f"`make materialize DATA={dataset}`", figures, "from the start of the process")
    say("building the vector index, exporting the model repository")
    for module in ("ensemble.publish.index", "ensemble.publish.export"):
        run(settings, "triton", "-m", module)


def serve(settings: LocalSettings) -> None:
    """Starts Triton and the gateway."""
    up(settings, ["triton", "gateway"])


def add_stages(record: Record, one: Measured) -> None:
    """Splits what one client of the gateway waited for: the stages, what is around them in Triton, the rest.

    Raises:
        BenchError: no answer was the ensemble's.
    """
    if not one.kinds[Kind.FULL]:
        raise BenchError(f"no answer to one client is full: {dict(one.kinds)}")
    timings = _timings([exchange for exchange in one.run.exchanges if exchange.status == 200])
    parts = {stage: timings[stage] for stage in map(str, StageName)}
    parts["gRPC and Triton"] = timings["ensemble"] - sum(parts.values())
    parts["gateway and HTTP"] = timings["caller"] - timings["ensemble"]
    for name, ms in parts.items():
        share = ms.sum() / timings["caller"].sum()
        record.add(STAGES, name, {"p50_ms": float(np.median(ms)), "share_percent": 100 * float(share)})


def _timings(exchanges: Sequence[Exchange]) -> dict[str, np.ndarray]:
    """Milliseconds of each part, of the answers that the ensemble made."""
    stages = set(map(str, StageName))
    by_stage: dict[str, list[float]] = {}
    for exchange in exchanges:
        timings = json.loads(exchange.body)["timings_ms"]
        if stages <= set(timings):
            for name, ms in ({"caller": exchange.latency_ms} | timings).items():
                by_stage.setdefault(name, []).append(ms)
    return {name: np.array(ms) for name, ms in by_stage.items()}


def measure_parts(settings: LocalSettings, record: Record, role: str) -> None:
    """Runs a role's microbenchmarks in its own environment."""
    say(f"single stages in the {role} environment")
    result = settings.var / f"{role}.json"
    options = ("--benchmark-json", str(result), "--benchmark-max-time=0.5", "-p", "no:cacheprovider")
    measured = str(settings.bundle)
    run(settings, role, "-m", "pytest", f"bench/{role}", *options, SHORTLIST_BENCH_BUNDLE=measured)
    for one in json.loads(result.read_text())["benchmarks"]:
        stats, extra = one["stats"], one["extra_info"]
        name = one["name"].removeprefix("test_")
        if "rows_per_s" in extra:
            figures = {**extra, "seconds": stats["median"]}
            record.add(FEATURES, name.replace("_", " "), figures, "in one process")
        else:
            figures = {"median_ms": stats["median"] * 1e3, "max_ms": stats["max"] * 1e3}
            record.add(PARTS, f"{one['group']}: {name}", figures)
