"""The whole path, tables beside the models against tables in them: two stacks, asked at the same time."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from bench.embeddings.zipf import FIRST_ID, Zipf
from bench.load import traffic
from bench.load.result import Result, count
from bench.memory import MIB, status_mib
from bench.processes import of_ours, stubs_in
from bench.record import say
from bench.servers import BenchError, own_ports, run
from contract.bundle import MANIFEST_FILE, TableSpec, read_manifest
from contract.bundles import bundles_folder
from deploy.local.demo import PATH
from deploy.local.settings import LOOPBACK, LocalSettings
from deploy.local.stack import down, up

SKEW, ITEM_ROWS, N, ASKED = 0.98, 1024, 10, 50_000
"""Share of those who ask who would be in a cache of the most frequent; room for items, of which there are
more; items asked for; requests drawn."""
WARM_S, LOG = 5.0, "embeddings.log"
INSIDE, BESIDE = "tables in the models", "tables beside them"
READS = re.compile(r"embedding_rows_total\{([^}]*)\} ([\d.e+]+)")


def measure(
    folder: Path, users: int, quality: str, rate: float, seconds: float, turns: int, most_mib: int
) -> list[dict[str, Any]]:
    """Builds both stacks in a folder, and asks both at once for the same users, so that whatever else the
    machine does falls on both; gives what each took.

    The cache has room for some of the items alone, and as many bytes for users. The process of the models
    beside their tables may hold `most_mib` of private memory: the kernel refuses more.

    Raises:
        BenchError: something does not build, or a request failed.
    """
    inside = LocalSettings(var_dir=folder / "inside", redis_url=None, **own_ports())
    beside = LocalSettings(var_dir=folder / "beside", redis_url=None, **own_ports())
    environment = {"SHORTLIST_DATA": "synthetic", "SHORTLIST_QUALITY": quality}
    if not inside.bundle.exists():
        for step in PATH[:4]:
            say(f"{INSIDE}: {step.name}")
            run(inside, step.role, *step.arguments, log_name=LOG, timeout_s=None, **environment)
        let_rank(inside.bundle / MANIFEST_FILE)
    if not beside.bundle.exists():
        say(f"{BESIDE}: {users:,} users")
        shutil.copytree(inside.var / "data", beside.var / "data", dirs_exist_ok=True)
        target = bundles_folder(beside.var) / inside.bundle.resolve().name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        given = ("--bundle", str(inside.bundle.resolve()), "--target", str(target), "--users", str(users))
        run(beside, "training", "-m", "bench.embeddings.beside", *given)
        beside.bundle.symlink_to(target.name)
    tables = {table.column: table for table in read_manifest(beside.bundle, verify=False).tables}
    cache_mb = ITEM_ROWS * 4 * tables["item_id"].width / 2**20
    variables = {**environment, "SHORTLIST_EMBEDDINGS__CACHE_MB": str(cache_mb)}
    os.environ.update(variables)  # the servers take them from here
    users_asked = users_to_ask(users, cache_mb, tables["user_id"])
    sides = {INSIDE: inside, BESIDE: beside}
    try:
        for name, settings in sides.items():
            say(f"{name}: features, index, export, servers")
            up(settings, ["redis"])
            for step in PATH[4:]:
                run(settings, step.role, *step.arguments, log_name=LOG, timeout_s=None, **variables)
            up(settings)
        pids = _limited(beside, most_mib)
        rows = _at_once(sides, users_asked, rate, seconds, turns)
        rows[-1]["model_process_mib"] = max(status_mib("VmData", pid) for pid in pids)
        return rows
    finally:
        for settings in sides.values():
            down(settings)


def _limited(settings: LocalSettings, most_mib: int) -> list[int]:
    """Holds every process of Triton's models to so much private memory; gives their ids."""
    if not (stubs := stubs_in(of_ours(settings))):
        raise BenchError("Triton has no process of a model")
    for stub in stubs:
        stub.rlimit(psutil.RLIMIT_DATA, (most_mib * MIB,) * 2)
    return [stub.pid for stub in stubs]


def let_rank(path: Path) -> None:
    """Gives the ranker a weight in a bundle's order, where training gave it none: it is to read rows too."""
    manifest = read_manifest(path.parent)
    if not manifest.is_ranked:
        order = manifest.order.model_copy(update={"ranking": 1.0})
        path.write_text(manifest.model_copy(update={"order": order}).model_dump_json())


def users_to_ask(users: int, cache_mb: float, table: TableSpec) -> list[int]:
    """Draws who asks."""
    rows = 1 << (int(cache_mb * 2**20 / (4 * table.width)).bit_length() - 1)
    ranks = Zipf.with_share(SKEW, rows, users).draw(np.random.default_rng(3), ASKED)
    return [int(one) for one in FIRST_ID + ranks]


def _at_once(
    sides: dict[str, LocalSettings], users: Sequence[int], rate: float, seconds: float, turns: int
) -> list[dict[str, Any]]:
    found: dict[str, list[Result]] = {name: [] for name in sides}
    before = Counter[tuple[str, str]]()
    for turn in range(turns + 1):
        lasts = seconds if turn else WARM_S

        async def ask(turn: int = turn, lasts: float = lasts) -> list[traffic.Run]:
            given: dict[str, Any] = {"rate": rate, "duration_s": lasts, "n": N, "seed": turn}
            ports = [settings.port for settings in sides.values()]
            return await asyncio.gather(*(traffic.open_loop(port, users, **given) for port in ports))

        for name, ran in zip(sides, asyncio.run(ask()), strict=True):
            result = count(ran, lasts)
            if result.errors:
                raise BenchError(f"{name}: {dict(result.errors)}")
            if turn:
                found[name].append(result)
        if not turn:
            before = _reads(sides[BESIDE])
    reads = _reads(sides[BESIDE]) - before
    rows = []
    for name, results in found.items():
        latency = results[0].latency
        for other in results[1:]:
            latency.add(other.latency)
        p50, p99 = (latency.get_value_at_percentile(one) / 1e3 for one in (50, 99))
        sources = sum((one.sources for one in results), Counter[str]())
        rows.append({"name": name, "answers": latency.total_count, "p50_ms": p50, "p99_ms": p99, **sources})
    for column in ("user_id", "item_id"):
        total = sum(times for (table, _), times in reads.items() if table == column)
        rows[-1][f"{column}_hit_rate"] = reads[column, "cache"] / max(total, 1)
    return rows


def _reads(settings: LocalSettings) -> Counter[tuple[str, str]]:
    """Reads which level had how many rows."""
    page = httpx.get(f"http://{LOOPBACK}:{settings.triton_metrics_port}/metrics", trust_env=False).text
    reads = Counter[tuple[str, str]]()
    for labels, value in READS.findall(page):
        label_values = dict(part.split("=") for part in labels.replace('"', "").split(","))
        reads[label_values["table"], label_values["level"]] += int(float(value))
    return reads
