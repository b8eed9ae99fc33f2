"""What is measured, phase by phase; each gives its figures, and is not done again once it has.

Of the bundle: features, throughput, notebook, workers, serving, quality. Of a million users: train, load,
tables, scale. Those that build what others measure come first.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.batch.place import Figures, Place
from bench.batch.speed import shards_of, tenths
from bench.load import traffic
from bench.pauses import Pauses, watched_pauses
from bench.scale import phases as growth
from bench.scale.stand import Stand
from bench.servers import BenchError
from contract.slates import Degradation, SlateSource
from deploy.local.settings import LocalSettings

HERE = "bench.batch"
K, N, WORKERS = 100, 50, 2
ANSWERED, RATE, SERVED_USERS, WARM_S = 10, 200.0, 5000, 2.0
ITEMS = 100_000
SHARD_USERS, SHARDS = 2048, 40
"""The job's own users per shard, and how many shards there should be, so that tenths can be told apart."""


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    sample: int = 200
    """Users of the notebook's loop."""
    served_s: float = 20.0
    users_at_scale: int = 1_000_000


QUICK = Plan(sample=40, served_s=4.0, users_at_scale=20_000)


@dataclass(frozen=True)
class Measured:
    """The bundle that is measured, the folders of its training run, and where its servers are."""

    place: Place
    prepared: Path
    saved_models: Path
    plan: Plan

    @classmethod
    def of(cls, local: LocalSettings, folder: Path, plan: Plan) -> Measured:
        """Takes the settings of the checkout, measures its current bundle in `folder`."""
        bundle = local.bundle.resolve()
        place = Place.of(folder / bundle.name, bundle)
        prepared = local.var / "data" / str(place.manifest["dataset"])
        return cls(place, prepared, local.var / "saved_models" / bundle.name, plan)

    def own_prepared(self, place: Place) -> Path:
        """Where the benchmark's own copy of the prepared tables lies."""
        return place.folder / "data" / self.prepared.name

    def materialize(self, place: Place, moment: str) -> Figures:
        """Brings features and seen items to the place's Redis, as of a moment."""
        if not (self.prepared / "dataset.yaml").is_file():
            raise BenchError(f"{self.prepared}: no prepared data; run `make data` for the bundle's data set")
        target = self.own_prepared(place)
        given = {"prepared": self.prepared, "target": target, "moment": moment}
        return place.report("training", f"{HERE}.features", **given)


def features(it: Measured) -> Figures:
    """Materialises features as of the data set's clock, and builds the index that brings the cards."""
    with it.place.serving("redis"):
        figures = it.materialize(it.place, "clock")
        return figures | {"index_s": it.place.run("triton", "-m", "ensemble.publish.index")}


def job(place: Place, workers: int = WORKERS, **variables: str) -> Figures:
    """Runs the job for everyone; its sizes are those of the targets."""
    return place.job("--n", str(N), "--workers", str(workers), SHORTLIST_K=str(K), **variables)


def throughput(it: Measured) -> Figures:
    """Runs the job for everyone, with two workers, and asks what a stored slate takes."""
    with it.place.serving("redis"):
        figures = job(it.place)
        return figures | it.place.bytes_per_slate(figures["record"]["run"])


def notebook(it: Measured) -> Figures:
    """Runs the loop over a sample of users, and holds its slates against those that are published."""
    if not (it.saved_models / "ranker").is_dir():
        raise BenchError(f"{it.saved_models}: not found; train the bundle again, which keeps its SavedModels")
    with it.place.serving("redis"):
        it.place.published()
        return it.place.report(
            "training",
            f"{HERE}.notebook",
            prepared=it.own_prepared(it.place),
            bundle=it.place.settings.bundle,
            saved_models=it.saved_models,
            users=it.plan.sample,
            k=K,
            n=N,
        )


def workers(it: Measured) -> Figures:
    """Runs the job for the same users with one worker and with two."""
    with it.place.serving("redis"):
        runs = {str(count): job(it.place, count) for count in (1, WORKERS)}
    return {"runs": runs, "ratio": runs["2"]["users_per_s"] / runs["1"]["users_per_s"]}


def serving(it: Measured) -> Figures:
    """Asks the gateway for stored slates at a fixed rate; Triton does not run.

    Raises:
        BenchError: an answer is not the stored slate.
    """
    with it.place.serving("redis", "gateway"):
        users = it.place.users_with_slates(it.place.published())
        drawn = np.random.default_rng(0).permutation(users)[:SERVED_USERS].tolist()
        request: dict[str, Any] = {"n": ANSWERED, "fields": {"source": SlateSource.BATCH}}
        port = it.place.settings.port
        asyncio.run(traffic.closed_loop(port, drawn, clients=1, duration_s=WARM_S, **request))
        with watched_pauses() as found:
            run = asyncio.run(
                traffic.open_loop(port, drawn, rate=RATE, duration_s=it.plan.served_s, **request)
            )
    return judged(run, found[0]) | {"rate": RATE, "users": len(drawn)}


def judged(run: traffic.Run, pauses: Pauses) -> Figures:
    """Counts what came back, and gives percentiles of the latency from when each was due; also of those
    alone that were not under way in a pause of the machine.

    Raises:
        BenchError: one failed, or its answer is no stored slate, or holds fewer items without saying so.
    """
    lacking: Counter[str] = Counter()
    for exchange in run.exchanges:
        answer = json.loads(exchange.body) if exchange.status == 200 else {}
        flags = answer.get("degraded", ())
        is_whole = len(answer.get("items", ())) == ANSWERED or Degradation.SHORT in flags
        if answer.get("source") != SlateSource.BATCH or not is_whole:
            text = exchange.body[:300].decode(errors="replace")
            raise BenchError(f"user {exchange.user_id}: {exchange.status}, no stored slate: {text}")
        lacking.update(flags)
    latency = [exchange.latency_ms for exchange in run.exchanges]
    p50, p95, p99 = np.percentile(latency, [50, 95, 99]).tolist()
    begun = run.started_s
    unpaused = [e.latency_ms for e in run.exchanges if not pauses.touch(begun + e.due_s, begun + e.done_s)]
    still: Figures = {}
    if pauses.is_known and unpaused:
        still = {"pauses": len(pauses.spans), "longest_pause_ms": pauses.longest_ms}
        still["unpaused_p99_ms"] = float(np.percentile(unpaused, 99))
    return still | {
        "answers": len(latency),
        "answers_per_s": len(latency) / run.seconds,
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "max_ms": max(latency),
        "degraded": dict(lacking),
        "generator_ms": 1e3 * run.cpu_s / len(latency),
    }


def quality(it: Measured) -> Figures:
    """Computes the slates as of the start of the test part, and evaluates them as training does."""
    place = Place.of(it.place.folder / "quality", it.place.settings.bundle)
    with place.serving("redis"):
        facts = it.materialize(place, "test-start")
        record = job(place)["record"]
        figures = place.report(
            "training",
            f"{HERE}.quality",
            prepared=it.own_prepared(place),
            bundle=place.settings.bundle,
        )
    return figures | {"as_of": facts["as_of"], "run": record["run"]}


@dataclass(frozen=True)
class Grown:
    """A catalogue of 100,000 items and very many users: the growth benchmark's world and bundle."""

    stand: Stand

    @classmethod
    def of(cls, folder: Path, users: int) -> Grown:
        """Takes free ports; everything lies in `folder/scale-USERS`."""
        return cls(Stand.of(ITEMS, users, folder / f"scale-{users}"))

    @property
    def place(self) -> Place:
        """Its servers."""
        return Place(self.stand.settings)


def train(it: Grown) -> Figures:
    """Trains a bundle on a sample of the users, and encodes the catalogue."""
    return growth.train(it.stand)


def load(it: Grown) -> Figures:
    """Writes the features of every user and item into Redis."""
    return growth.load(it.stand)


def tables(it: Grown) -> Figures:
    """Writes the world's tables, from which the job takes its users."""
    return it.place.report("training", f"{HERE}.world", items=it.stand.items, users=it.stand.users)


def scale(it: Grown) -> Figures:
    """Runs the job for all of them, and follows its memory and its pace."""
    shard_users = max(1, min(SHARD_USERS, it.stand.users // SHARDS))
    with it.place.serving("redis"):
        before = it.stand.memory_mib()["redis"]
        figures = job(it.place, SHORTLIST_BATCH_SHARD_USERS=str(shard_users))
        run = figures["record"]["run"]
        figures |= it.place.bytes_per_slate(run) | {"redis_mib_before": before}
        found = tenths(shards_of(it.place.run_folder(run), figures["record"]["done"], shard_users))
    speeds = {"first": found.first, "last": found.last, "ratio": found.ratio} if found else None
    return figures | {"tenths": speeds, "users": it.stand.users, "items": it.stand.items}


OF_BUNDLE: dict[str, Callable[[Measured], Figures]] = {
    "features": features,
    "throughput": throughput,
    "notebook": notebook,
    "workers": workers,
    "serving": serving,
    "quality": quality,
}
AT_SCALE: dict[str, Callable[[Grown], Figures]] = {
    "train": train,
    "load": load,
    "tables": tables,
    "scale": scale,
}
