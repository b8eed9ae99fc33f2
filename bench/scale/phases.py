"""What is done to a stand, phase by phase; each gives its figures, and is not done again once it has.

train, load, index, serve, restart: the last two measure, the first three build what they need.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import redis

from bench.designs import GATEWAY, OURS, Design, GrpcCaller, HttpCaller, our_messages
from bench.load.traffic import Run
from bench.processes import MIB, by_kind, of_ours
from bench.replies import Kind, World, judge_gateway, judge_ours
from bench.scale.stand import ScaleError, Stand, address_of
from bench.series import measured
from contract.keys import bundles_key, index_search_key, item_card_key, item_vector_prefix, seen_key
from deploy.local.stack import down, up
from ensemble.stores.index_watch import index_info

Figures = dict[str, Any]

N = 10
PROJECT = "scale"
ASKED = 20_000
"""Users drawn from all of them, each of whom may be asked for."""
WARM_S, MEASURE_S = 5.0, 20.0
CLIENTS = (1, 4, 16)
SAMPLE_KEYS = 500
TRIES_S = 0.05


def train(stand: Stand) -> Figures:
    """Trains a bundle on a sample of the users and encodes the whole catalogue."""
    return _training(stand, "build")


def load(stand: Stand) -> Figures:
    """Writes the features of every user and item into Redis."""
    with stand.serving("redis"):
        figures = _training(stand, "load")
        return figures | {"redis_mib": stand.memory_mib()["redis"]} | _key_sizes(stand, stand.redis)


def _training(stand: Stand, module: str) -> Figures:
    report = stand.folder / f"{module}.tmp.json"
    sizes = ("--items", str(stand.items), "--users", str(stand.users))
    seconds, _ = stand.run("training", "-m", f"bench.scale.{module}", *sizes, "--report", str(report))
    figures: Figures = json.loads(report.read_text())
    report.unlink()
    return figures | {"seconds": seconds}


def index(stand: Stand) -> Figures:
    """Builds the vector index with the project's own command, which also chooses EF, and measures recall
    anew, on other users and through the feature store and the user tower."""
    with stand.serving("redis"):
        before = stand.memory_mib()["redis"]
        stand.redis.delete(bundles_key(PROJECT))  # what was built before is built again
        seconds, said = stand.run("triton", "-m", "ensemble.publish.index")
        bundle = stand.bundle
        figures: Figures = {"seconds": seconds, "redis_mib": stand.memory_mib()["redis"], "said": said}
        figures["grown_mib"] = figures["redis_mib"] - before
        figures["index_mib"] = float(index_info(stand.redis, bundle)["vector_index_sz_mb"])
        figures["kind"] = stand.manifest["index"]["kind"]
        found = stand.redis.get(index_search_key(bundle))
        figures["chosen"] = json.loads(found) if found else None
        report = stand.folder / "recall.tmp.json"
        stand.run(
            "triton",
            "-m",
            "bench.scale.recall",
            "--users",
            str(stand.users),
            "--report",
            str(report),
        )
        figures["fresh"] = json.loads(report.read_text())
        report.unlink()
        return figures | _key_sizes(stand, stand.redis)


def serve(stand: Stand) -> Figures:
    """Starts everything, times how long until the first full answer, and measures latency and throughput."""
    stand.run("triton", "-m", "ensemble.publish.export")
    users = random.Random(0).sample(range(1, stand.users + 1), min(ASKED, stand.users))
    try:
        began = time.monotonic()
        up(stand.settings, ["redis"])
        figures: Figures = {"redis_whole_s": _until_indexed(stand) - began}
        world = World(stand.settings.redis, PROJECT, frozenset(range(1, stand.items + 1)), tuple(users), N)
        messages = our_messages(stand.manifest["bundle"], users, stand.manifest["context"], N)
        began = time.monotonic()
        up(stand.settings, ["triton"])
        figures["triton_ready_s"] = time.monotonic() - began
        ours = Design(
            OURS, GrpcCaller(address_of(stand.settings), messages), of_ours(stand.settings), judge_ours(world)
        )
        figures["triton_first_full_answer_s"] = _until(lambda: _ask_fully(ours)) - began
        began = time.monotonic()
        up(stand.settings, ["gateway"])
        gateway = Design(
            GATEWAY,
            HttpCaller(stand.settings.port, users, N),
            of_ours(stand.settings),
            judge_gateway(world),
        )
        figures["gateway_first_full_answer_s"] = _until(lambda: _ask_fully(gateway)) - began
        figures["memory_mib_at_start"] = stand.memory_mib()
        for design in (ours, gateway):
            figures[design.name] = _measure(design)
        figures["memory_mib"] = stand.memory_mib()
        return figures
    finally:
        down(stand.settings)


def restart(stand: Stand) -> Figures:
    """Kills nothing: stops Redis and starts it again, and follows how the index comes back."""
    manifest = stand.manifest
    sizes = {
        path.name: path.stat().st_size / MIB for path in (stand.folder / "redis").rglob("*") if path.is_file()
    }
    started = time.monotonic()
    try:
        up(stand.settings, ["redis"])
        answers_s = time.monotonic() - started
        info = index_info(stand.redis, manifest["bundle"])
        there = int(info["num_docs"])
        whole_s = _until_indexed(stand) - started
        return {
            "files_mib": sizes,
            "answers_s": answers_s,
            "items_indexed_then": there,
            "index_whole_s": whole_s,
            "redis_mib": stand.memory_mib()["redis"],
        }
    finally:
        down(stand.settings)


def _measure(design: Design) -> Figures:
    """Clients that wait for their answers, then users who do not: at half of what sixteen clients got."""
    design.caller.closed(2, WARM_S, seed=99)
    figures: Figures = {}
    for clients in CLIENTS:
        figures[str(clients)] = _told(design, partial(design.caller.closed, clients, MEASURE_S, seed=clients))
    rate = figures[str(CLIENTS[-1])]["full_per_s"] / 2
    if rate < 1:
        raise ScaleError(f"{design.name}: sixteen clients get {2 * rate:.2g} full answers per second")
    figures["half"] = {"rate": rate} | _told(design, partial(design.caller.open, rate, MEASURE_S, seed=50))
    return figures


def _told(design: Design, load: Callable[[], Run]) -> Figures:
    one = measured(design, load)
    cpu = {kind: 1e3 * seconds / max(one.answers, 1) for kind, seconds in by_kind(one.cpu_s).items()}
    return one.figures() | {"cpu_ms_per_answer": cpu}


def _ask_fully(design: Design) -> None:
    run = design.caller.closed(1, 1e-4, seed=0)
    kinds = {design.judge(exchange) for exchange in run.exchanges}
    if kinds != {Kind.FULL}:
        raise ScaleError(f"{design.name} answers {', '.join(kinds)}")


def _until(attempt: Callable[[], object], patience_s: float = 1800.0, rest: float = 0.0) -> float:
    """Tries until it works, gives the instant; after each try it rests `rest` times as long as that took.

    Raises:
        ScaleError: it never did.
    """
    until = time.monotonic() + patience_s
    while True:
        began = time.monotonic()
        try:
            attempt()
            return time.monotonic()
        except Exception as error:  # whatever is not ready yet
            if time.monotonic() > until:
                raise ScaleError(f"not there after {patience_s:.0f} s: {error}") from error
            time.sleep(max(TRIES_S, rest * (time.monotonic() - began)))


def _until_indexed(stand: Stand) -> float:
    manifest = stand.manifest

    def check() -> None:
        info = index_info(stand.redis, manifest["bundle"])
        if int(info["indexing"]) or int(info["num_docs"]) < manifest["items"]:
            raise ScaleError(f"{info['num_docs']} of {manifest['items']} items are indexed")

    return _until(check, 3600.0, rest=50.0)  # a look at a graph costs the thread that builds it


def _key_sizes(stand: Stand, client: redis.Redis) -> Figures:
    """Reads what one key of each kind takes in Redis on average, in bytes, of keys drawn at random."""
    draw, bundle, sizes = random.Random(0), stand.bundle, {}
    users = [draw.randint(1, stand.users) for _ in range(SAMPLE_KEYS)]
    items = [draw.randint(1, stand.items) for _ in range(SAMPLE_KEYS)]
    kinds: dict[str, list[str] | list[bytes]] = {
        "seen": [seen_key(PROJECT, user) for user in users],
        "item_vector": [f"{item_vector_prefix(bundle)}{item}" for item in items],
        "item_card": [item_card_key(bundle, item) for item in items],
    }
    for entity, ids in (("user_id", users), ("item_id", items)):
        name = entity.encode()
        head = b"\x01\0\0\0\x02\0\0\0" + len(name).to_bytes(4, "little") + name + b"\x04\0\0\0\x08\0\0\0"
        project = PROJECT.encode()
        kinds[f"features of {entity}"] = [head + i.to_bytes(8, "little") + project for i in ids]
    for kind, keys in kinds.items():
        pipe = client.pipeline(transaction=False)
        for key in keys:
            pipe.memory_usage(key, samples=0)
        found = [size for size in pipe.execute() if size]
        if found:
            sizes[kind] = sum(found) / len(keys)
    return {"bytes_per_key": sizes}


PHASES: dict[str, Callable[[Stand], Figures]] = {
    "train": train,
    "load": load,
    "index": index,
    "serve": serve,
    "restart": restart,
}
