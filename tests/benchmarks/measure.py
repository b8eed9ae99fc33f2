"""What `make bench` measures, one function each: it records rows, and raises where an answer is wrong."""

from __future__ import annotations

import json
import re
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from deploy.local.settings import ROOT, LocalSettings
from deploy.local.stack import up
from ensemble import contract
from tests.benchmarks.ask import Gateway, OurTriton, StockTriton, Timed, seen_items, together
from tests.benchmarks.record import Record, say
from tests.benchmarks.servers import BenchError, run, stock_server

N, K = 10, 100
WARM_UP = 100
CLIENTS, TOGETHER_S = 16, 10.0
TURNS = 5
"""Blocks in which ours and the stock ensemble take turns, so that a busy minute falls on both."""
PATH, STAGES, STOCK = "The whole path", "Where the time goes", "Against the stock ensemble"
RUNS, LOAD = "Models that one stock request runs", "Sixteen clients"
FEATURES, PARTS = "Materialisation", "Single stages"
AGREES = 1e-4


def serve(settings: LocalSettings, record: Record, dataset: str) -> None:
    """Serves the bundle: its features and index in the measured Redis, Triton and the gateway."""
    say(f"materialising {dataset}")
    done = run(settings, "training", "-m", "training", "materialize", "--data", dataset)
    arrived = re.findall(r": ([\d,]+) rows in Redis", done.output)
    rows = sum(int(count.replace(",", "")) for count in arrived)
    if not rows:
        raise BenchError(f"materialize said nothing of rows that arrived: {done.output[-500:]}")
    figures = {"rows": rows, "seconds": done.seconds, "rows_per_s": rows / done.seconds}
    record.add(FEATURES, f"`make materialize DATA={dataset}`", figures, "from the start of the process")
    say("building the vector index, exporting the model repository")
    for module in ("ensemble.index", "ensemble.export"):
        run(settings, "triton", "-m", module)
    up(settings, ["triton", "gateway"])


def measure_path(settings: LocalSettings, record: Record, users: list[int], requests: int) -> None:
    """One client of the gateway, then sixteen at once."""
    seen = seen_items(settings.redis_port, users)
    gateway, timed = Gateway(settings.port, N, seen), Timed()
    for user in islice(cycle(users), WARM_UP):
        gateway.ask(user, Timed())
    say(f"{requests} requests to the gateway, one client")
    for user in islice(cycle(users), requests):
        gateway.ask(user, timed)
    if timed.popular + timed.lacking > requests // 100:
        told = f"{timed.popular} are the popular slate, {timed.lacking} lack display fields"
        raise BenchError(f"too many of {requests} answers are not whole: {told}")
    record.add(PATH, f"POST /v1/recommendations, 1 client, n={N}, K={K}", timed.percentiles())
    add_stages(record, timed)

    say(f"{CLIENTS} clients for {TOGETHER_S:g} s")
    series = [Timed() for _ in range(CLIENTS)]
    callers = [Gateway(settings.port, N, seen) for _ in series]
    asks = [lambda user, c=caller, t=one: c.ask(user, t) for caller, one in zip(callers, series, strict=True)]
    seconds = together(asks, users, TOGETHER_S)
    merged = Timed([ms for one in series for ms in one.ms])
    figures = {"requests_per_s": len(merged.ms) / seconds} | merged.percentiles()
    popular, lacking = sum(one.popular for one in series), sum(one.lacking for one in series)
    note = (
        f"clients on the same cores; of {len(merged.ms)} answers {popular} popular, {lacking} without names"
    )
    record.add(LOAD, "POST /v1/recommendations", figures, note)


def add_stages(record: Record, timed: Timed) -> None:
    """Splits what the caller waited for: the stages, what is around them in Triton, the gateway."""
    told = {stage: np.array(ms) for stage, ms in timed.stages_ms.items()}
    parts = {stage: told[stage] for stage in map(str, contract.Stage)}
    parts["gRPC and Triton"] = told["ensemble"] - sum(parts.values())
    parts["gateway and HTTP"] = told["caller"] - told["ensemble"]
    for name, ms in parts.items():
        share = ms.sum() / told["caller"].sum()
        record.add(STAGES, name, {"p50_ms": float(np.median(ms)), "share_percent": 100 * float(share)})


def measure_stock(
    settings: LocalSettings, record: Record, stock: Path, users: list[int], context: list[str], requests: int
) -> None:
    """Ours and the stock ensemble in turns, both over gRPC, the same users, one client."""
    asks = requests // TURNS
    item_ids = np.load(stock / "item_ids_by_code.npy")
    seen = seen_items(settings.redis_port, users)
    say("starting the stock ensemble: TensorFlow in three processes, about a minute")
    with stock_server(settings, stock) as address:
        theirs = StockTriton(address, item_ids, N)
        ours = OurTriton(f"127.0.0.1:{settings.triton_grpc_port}", context, N, seen)
        compared = [compare(ours, theirs, user) for user in users[:20]]
        agreed = float(np.mean(np.concatenate(compared)))
        if not agreed > 0.5:
            raise BenchError(f"only {agreed:.0%} of the stock ensemble's scores are those of ours")
        our_time, stock_time, before = Timed(), Timed(), theirs.runs()
        for turn in range(TURNS):
            say(f"ours and the stock ensemble, turn {turn + 1} of {TURNS}")
            block = list(islice(cycle(users), turn * asks, (turn + 1) * asks))
            for user in islice(cycle(block), 5 * asks):
                ours.ask(user, our_time)
            for user in block:
                theirs.ask(user, stock_time)
        runs = {model: (count - before[model]) / len(stock_time.ms) for model, count in theirs.runs().items()}
    note = f"{agreed:.0%} of its scores equal ours within {AGREES:g}"
    record.add(STOCK, "ours, gRPC to Triton, 1 client", our_time.percentiles())
    record.add(STOCK, "stock Merlin Systems 23.8, gRPC to Triton, 1 client", stock_time.percentiles(), note)
    slower = stock_time.percentiles()["p50_ms"] / our_time.percentiles()["p50_ms"]
    record.add(STOCK, "stock / ours", {"p50_ms": slower}, "times slower at p50")
    for model, per_request in sorted(runs.items()):
        record.add(RUNS, model, {"runs_per_request": per_request})


def compare(ours: OurTriton, theirs: StockTriton, user: int) -> list[bool]:
    """Whether each of the stock slate's scores is the one that our chain gives, of items that it ranks."""
    mine, answered = ours.scores(user), theirs.ask(user, Timed())
    return [abs(mine[item] - score) < AGREES for item, score in answered.items() if item in mine]


def build_stock(settings: LocalSettings, saved_models: Path, dataset: str, users: int) -> Path:
    """Builds the stock ensemble from the same bundle, its rows in the same Redis.

    Raises:
        BenchError: the training run's SavedModels are not there, or it does not build.
    """
    if not (saved_models / "ranker").is_dir():
        raise BenchError(f"{saved_models}: not found; train the bundle again, which keeps its SavedModels")
    say("building the stock ensemble from the same bundle")
    stock = settings.var / "stock"
    arguments = {
        "bundle": settings.bundle,
        "saved-models": saved_models,
        "features": settings.var / "data" / dataset / "features",
        "target": stock,
        "redis": settings.redis,
        "users": users,
        "k": K,
        "n": N,
    }
    options = [part for name, value in arguments.items() for part in (f"--{name}", str(value))]
    run(settings, "training", "-m", "tests.benchmarks.stock.build", *options, PYTHONPATH=str(ROOT))
    return stock


def measure_parts(settings: LocalSettings, record: Record, role: str) -> None:
    """Runs a role's microbenchmarks in its own environment."""
    say(f"single stages in the {role} environment")
    result = settings.var / f"{role}.json"
    options = ("--benchmark-json", str(result), "--benchmark-max-time=0.5", "-p", "no:cacheprovider")
    variables = {"SHORTLIST_BENCH_BUNDLE": str(settings.bundle)}
    run(settings, role, "-m", "pytest", f"tests/benchmarks/{role}", *options, **variables)
    for one in json.loads(result.read_text())["benchmarks"]:
        stats, extra = one["stats"], one["extra_info"]
        name = one["name"].removeprefix("test_")
        if "rows_per_s" in extra:
            record.add(
                FEATURES, name.replace("_", " "), {**extra, "seconds": stats["median"]}, "in one process"
            )
        else:
            figures = {"median_ms": stats["median"] * 1e3, "max_ms": stats["max"] * 1e3}
            record.add(PARTS, f"{one['group']}: {name}", figures)
