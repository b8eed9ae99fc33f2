"""The tables of the section "Offline batch": of which figures each is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.batch.watch import KINDS, MACHINE
from bench.processes import REDIS

Phase = Mapping[str, Any]
Found = Mapping[str, Phase]
"""The figures of every finished phase, by its name."""
DECIMALS = 4
"""Of quality, to which the stored slates are held."""


@dataclass(frozen=True)
class Row:
    """One line of a table: its name, its cells by heading, and the phase that measured it."""

    name: str
    cells: Mapping[str, float | str]
    phase: Phase


@dataclass(frozen=True)
class Section:
    """A table: its title, what must be known to read it, and its rows of what was found."""

    title: str
    text: str
    rows: Callable[[Found], list[Row]]


def targets(found: Found) -> list[Row]:
    """Each target, and what was measured of it."""
    rows = []

    def held(
        what: str, phase: str, value: float | None, bound: float, unit: str, is_least: bool = True
    ) -> None:
        if value is not None:
            is_met = value >= bound if is_least else value <= bound
            wanted = f"{'at least' if is_least else 'at most'} {bound:,g} {unit}".strip()
            verdict = "**met**" if is_met else "**missed**"
            cells: dict[str, float | str] = {"measured": value, "target": wanted, "verdict": verdict}
            rows.append(Row(what, cells, found[phase]))

    if one := found.get("throughput"):
        held("users per second, the whole job, start-up apart", "throughput", one["users_per_s"], 1000, "")
    for way in PUBLISHED:
        if ratio := over_loop(found, way):
            held(f"times the loop over users, {LOOPS[way]}", "notebook", ratio, 50, "times")
    if one := found.get("scale"):
        what = f"{one['record']['done']:,} users, {one['items']:,} items: memory of the job at its peak"
        held(what, "scale", one["peak_mib"], 4096, "MiB", is_least=False)
        tenths = one["tenths"]
        held("the last tenth's users/s over the first's", "scale", tenths and tenths["ratio"], 0.8, "")
    if one := found.get("workers"):
        held("two workers over one", "workers", one["ratio"], 1.6, "")
    if one := found.get("quality"):
        held("quality: largest difference from online", "quality", apart(one), 0.5 * 10**-DECIMALS, "", False)
    if one := found.get("serving"):
        what = f"p99 of a stored slate at {one['rate']:g} requests/s"
        held(what, "serving", one["p99_ms"], 5, "ms", False)
        what = "the same, less what was under way while the machine itself stood still"
        held(what, "serving", one.get("unpaused_p99_ms"), 5, "ms", False)
    return rows


def apart(quality: Phase) -> float:
    """The largest difference between the stored slates' metrics and training's."""
    stored: dict[str, float] = quality["stored"]
    trained: dict[str, float] = quality["trained"]
    return max(abs(stored[name] - value) for name, value in trained.items())


LOOPS = {
    "predict": "both models by Keras' `predict`",
    "loader": "the DLRM through a data frame, a data set and a loader, as published",
    "direct": "both models called directly, the least that TensorFlow takes",
}


PUBLISHED = ("predict", "loader")
"""The ways that notebooks go; the other says how little is left without what Keras and loaders take."""


def over_loop(found: Found, way: str) -> float | None:
    """How many times the loop's users per second the job has; None where one was not measured."""
    if not {"throughput", "notebook"} <= set(found):
        return None
    ratio: float = found["throughput"]["users_per_s"] / found["notebook"][way]["users_per_s"]
    return ratio


def jobs(found: Found) -> dict[str, tuple[Phase, Phase]]:
    """Every run of the job: its name, its figures, and the phase that they are of."""
    runs = {}
    if one := found.get("throughput"):
        runs[f"{one['dataset']}, 2 workers"] = (one, one)
    if one := found.get("workers"):
        for count, figures in one["runs"].items():
            runs[f"{one['dataset']}, {count} worker{'s' if count != '1' else ''}, again"] = (figures, one)
    if one := found.get("scale"):
        runs[f"{one['items']:,} items, 2 workers"] = (one, one)
    return runs


def speeds(found: Found) -> list[Row]:
    """How fast each run was."""
    rows = []
    for name, (job, phase) in jobs(found).items():
        record = job["record"]
        cells: dict[str, float | str] = {
            "users": record["done"],
            "users/s": job["users_per_s"],
            "computing s": record["compute_s"],
            "start-up s": record["start_up_s"],
            "before and after s": job["around_s"],
            "users/s over all of it": job["users_per_s_with_start_up"],
        }
        if tenths := job.get("tenths"):
            cells |= {"first tenth users/s": tenths["first"], "last tenth users/s": tenths["last"]}
        rows.append(Row(name, cells, phase))
    return rows


def stages(found: Found) -> list[Row]:
    """Where the workers' time goes."""
    rows = []
    for name, (job, phase) in jobs(found).items():
        took = job["record"]["stage_s"]
        shares = {f"{stage} %": 100 * seconds / sum(took.values()) for stage, seconds in took.items()}
        per_user = 1e3 * sum(took.values()) / job["record"]["done"]
        rows.append(Row(name, {"ms per user": per_user, **shares}, phase))
    return rows


def cpu(found: Found) -> list[Row]:
    """Which processes held the cores while slates were computed."""
    rows = []
    for name, (job, phase) in jobs(found).items():
        cores: Mapping[str, float] = job["cores"]
        if cores:  # a run of a second is not seen at work
            rows.append(Row(name, {kind: cores.get(kind, 0.0) for kind in (*KINDS, REDIS, MACHINE)}, phase))
    return rows


def memory(found: Found) -> list[Row]:
    """What the job held at its peak."""
    rows = []
    for name, (job, phase) in jobs(found).items():
        kinds = {kind: job["peak_mib_by_kind"].get(kind, 0.0) for kind in KINDS}
        cells = {"all": job["peak_mib"], **kinds, "of it shared memory": job["peak_shared_mib"]}
        rows.append(Row(name, {**cells, "Redis, apart": job["redis_mib"]}, phase))
    return rows


def sizes(found: Found) -> list[Row]:
    """What a stored slate takes."""
    rows = []
    for name, (job, phase) in jobs(found).items():
        if "redis_bytes_per_user" in job:
            cells = {
                "value": job["value_bytes_per_user"],
                "with its key in Redis": job["redis_bytes_per_user"],
                "in Parquet": job["parquet_bytes_per_user"],
            }
            rows.append(Row(name, cells, phase))
    return rows


def loops(found: Found) -> list[Row]:
    """The loop over users, beside the job."""
    if not (one := found.get("notebook")):
        return []
    rows = []
    for way, what in LOOPS.items():
        loop = one[way]
        cells: dict[str, float | str] = {"users": loop["users"], "users/s": loop["users_per_s"]}
        if ratio := over_loop(found, way):
            cells["the job is faster, times"] = ratio
        cells["equal items %"] = 100 * loop["equal_items"]
        cells["in equal places %"] = 100 * loop["equal_places"]
        rows.append(Row(what, cells, one))
    return rows


def quality(found: Found) -> list[Row]:
    """Metrics of the stored slates beside training's."""
    if not (one := found.get("quality")):
        return []
    rows = []
    for name, key in (("stored slates", "stored"), ("the bundle's `metrics.json`", "trained")):
        cells: dict[str, float | str] = {
            metric: f"{value:.{DECIMALS}f}" for metric, value in one[key].items()
        }
        users = {"users": one["users"]} | (
            {"without a slate": one["without_slate"]} if key == "stored" else {}
        )
        rows.append(Row(name, users | cells, one))
    return rows


def serving(found: Found) -> list[Row]:
    """Latency of stored slates through the gateway."""
    if not (one := found.get("serving")):
        return []
    figures = {name.replace("_ms", " ms"): one[name] for name in ("p50_ms", "p95_ms", "p99_ms", "max_ms")}
    for name in ("unpaused_p99_ms", "pauses", "longest_pause_ms"):
        if name in one:
            figures[name.replace("_ms", " ms").replace("_", " ")] = one[name]
    lacking = ", ".join(f"{count} {word}" for word, count in one["degraded"].items())
    cells = {"answers": one["answers"], **figures, "degraded": lacking or "none"}
    return [Row(f'`source: "batch"`, {one["rate"]:g} requests/s', cells, one)]


SECTIONS = (
    Section("Targets", "", targets),
    Section(
        "Speed",
        "`users/s` counts from when the first worker has opened the bundle to when the last slate is in "
        "Redis and in Parquet. Start-up is Ray's and the workers'; before and after it lie Python's own "
        "start, reading whom to compute, and the end of Ray's processes.",
        speeds,
    ),
    Section(
        "Time by stage",
        "Seconds of the workers, added up. `store` writes slates to Redis and to Parquet.",
        stages,
    ),
    Section(
        "Cores by process",
        "Cores in use, on average, while slates were computed. Ray's helpers are its control process and "
        "agents; other workers are its own tasks and workers that wait. The whole machine is everything that "
        "ran, the benchmark's own looking and whatever else there was.",
        cpu,
    ),
    Section(
        "Memory",
        "MiB at the job's peak: the proportional set size of all its processes, so that what they share, "
        "such as the object store, the mapped vectors and libraries, counts once.",
        memory,
    ),
    Section("Bytes per stored slate", "50 items; Redis by `MEMORY USAGE`, of keys drawn at random.", sizes),
    Section(
        "A loop over users",
        "The published notebook's way, written by us: one user after the other, K = 100 candidates, a slate "
        "of 50, on SavedModels of the same training run. Its slates are held against the job's.",
        loops,
    ),
    Section(
        "Quality of stored slates",
        "Features and seen items as of the start of the test part, evaluated by training's own code. Every "
        "item counts as available, as it does there: availability is of today.",
        quality,
    ),
    Section(
        "Serving a stored slate",
        "Open loop: latency counts from when a request was due. Ten items of a stored slate, seen and "
        "unavailable ones removed, through the gateway; Triton does not run.",
        serving,
    ),
)
"""In the order of the page."""
