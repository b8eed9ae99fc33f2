"""The batch benchmark goes on where it was, tells beginning from end, and publishes what was measured."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from bench.batch import phases, report, run
from bench.batch.speed import FEWEST, Shard, shards_of, tenths
from bench.batch.stored import agreement, as_lists
from bench.batch.watch import (
    ACTORS,
    DRIVER,
    HELPERS,
    KINDS,
    MACHINE,
    OTHER_WORKERS,
    RAYLET,
    Sample,
    Watch,
    kind_of,
    thinned,
)
from bench.load.traffic import Exchange, Run, request_bytes
from bench.pauses import Pauses
from bench.servers import BenchError
from contract.tensors import PAD_ID

FACTS = {
    "machine": {"cpu": "a CPU", "cores": 2, "memory_gib": 24, "system": "Linux", "load": "0.1"},
    "commit": "0123456789abcdef+changes",
    "at": "2026-11-21T08:00:00+00:00",
    "command": "make bench-batch",
    "bundle": "kuairand-1",
    "dataset": "kuairand",
}
JOB = {
    "record": {
        "run": "r",
        "done": 27_285,
        "start_up_s": 9.0,
        "compute_s": 25.0,
        "stage_s": {"encode_user": 10.0, "store": 30.0},
    },
    "wall_s": 40.0,
    "around_s": 6.0,
    "users_per_s": 1091.4,
    "users_per_s_with_start_up": 682.1,
    "cores": dict.fromkeys((*KINDS, MACHINE), 0.1) | {ACTORS: 1.8, "redis": 0.05},
    "peak_mib": 1500.0,
    "peak_mib_by_kind": {DRIVER: 300.0, ACTORS: 1200.0},
    "peak_shared_mib": 3.0,
    "redis_mib": 99.0,
}
SIZES = {"value_bytes_per_user": 469.0, "redis_bytes_per_user": 576.0, "parquet_bytes_per_user": 361.0}
LOOP = {"users": 200, "users_per_s": 5.0, "equal_items": 1.0, "equal_places": 0.995}
SLOWER = JOB | {"users_per_s": 600.0}


def write(folder: Path, **measured: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, figures in measured.items():
        (folder / f"{name}.json").write_text(json.dumps(FACTS | figures))


def test_what_is_finished_is_kept_and_a_phase_that_fails_does_not_end_the_others(tmp_path: Path) -> None:
    done: list[str] = []

    def note(name: str) -> Any:
        def phase(_: None) -> dict[str, Any]:
            done.append(name)
            if name == "notebook" and done.count("notebook") == 1:
                raise BenchError("the machine went away")
            return {"seconds": 1.0}

        return phase

    known = {name: note(name) for name in ("features", "notebook", "serving")}
    facts = {"bundle": "b"}
    assert run.measure(tmp_path, None, known, facts, (), list(known)) == ["notebook: the machine went away"]
    assert done == ["features", "notebook", "serving"]
    assert run.measure(tmp_path, None, known, facts, (), list(known)) == []
    assert done[3:] == ["notebook"]
    assert run.measure(tmp_path, None, known, facts, ("serving",), ("serving", "features")) == []
    assert done[4:] == ["serving"]
    content = json.loads((tmp_path / "features.json").read_text())
    assert content["bundle"] == "b"
    assert {"machine", "commit", "at", "seconds"} <= set(content)


def test_the_first_tenth_is_told_from_the_last() -> None:
    fast, slow = 100, 50
    early = [Shard(at_s=i, users=fast) for i in range(20)]
    late = [Shard(at_s=19 + 2 * (i + 1), users=fast) for i in range(20)]
    found = tenths([*late, *early])
    assert found is not None
    assert found.first == pytest.approx(fast)
    assert found.last == pytest.approx(slow)
    assert found.ratio == pytest.approx(0.5)


def test_too_few_shards_or_no_time_between_them_tell_nothing() -> None:
    assert tenths([Shard(i, 10) for i in range(FEWEST - 1)]) is None
    assert tenths([Shard(1.0, 10) for _ in range(FEWEST)]) is None


def test_a_shard_is_done_when_its_file_was_written(tmp_path: Path) -> None:
    (tmp_path / "slates").mkdir()
    for number, at in enumerate((30.0, 10.0, 20.0)):
        path = tmp_path / "slates" / f"part-{number:05}.parquet"
        path.write_bytes(b"")
        os.utime(path, (at, at))
    assert shards_of(tmp_path, users=25, shard_users=10) == [Shard(30, 10), Shard(10, 10), Shard(20, 5)]


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        (["ray::MapWorker(MapBatches(Scorer))"], ACTORS),
        (["ray::IDLE"], OTHER_WORKERS),
        (["ray::_StatsActor"], OTHER_WORKERS),
        (["/x/ray/core/src/ray/raylet/raylet", "--store_socket_name=/tmp/gcs_server"], RAYLET),
        (["/x/ray/core/src/ray/gcs/gcs_server"], HELPERS),
        (["python", "-u", "/x/ray/_private/workers/default_worker.py"], OTHER_WORKERS),
        (["python", "-u", "/x/ray/dashboard/agent.py"], HELPERS),
        ([], HELPERS),
    ],
)
def test_processes_are_told_apart_by_what_they_do(command: list[str], kind: str) -> None:
    assert kind_of(command) == kind


def test_a_process_is_seen_with_its_memory_and_its_cpu() -> None:
    watch = Watch({"redis": psutil.Process()})
    watch.look(os.getpid())
    figures = watch.figures()
    assert watch.peak().mib[DRIVER] > 5
    assert watch.samples[0].cpu_s[DRIVER] > 0
    assert watch.samples[0].cpu_s["redis"] > 0
    assert figures["peak_mib"] == watch.peak().total
    watch.look(2**22 + 1)  # above the greatest process id
    assert len(watch.samples) == 1


def test_cores_are_those_of_the_time_between() -> None:
    watch = Watch()
    for at, seconds in ((0.0, 0.0), (10.0, 5.0), (20.0, 20.0), (30.0, 20.0)):
        watch.samples.append(Sample(at, {}, {}, 0.0, {ACTORS: seconds}))
    assert watch.cores(9, 21) == {ACTORS: pytest.approx(1.5)}
    assert watch.cores(0, 100) == {ACTORS: pytest.approx(20 / 30)}
    assert watch.cores(11, 12) == {}


def test_thinned_points_keep_the_last() -> None:
    points = [(float(i), float(i)) for i in range(1000)]
    thin = thinned(points, 60)
    assert len(thin) <= 61
    assert thin[0] == points[0]
    assert thin[-1] == points[-1]
    assert thinned([]) == []


def test_stored_slates_become_rows_of_one_width() -> None:
    slates = {1: np.array([5, 6, 7]), 2: np.array([8])}
    assert as_lists(slates, [2, 1, 3], 2).tolist() == [[8, PAD_ID], [5, 6], [PAD_ID, PAD_ID]]


def test_slates_are_compared_by_item_and_by_place() -> None:
    ours = {1: np.array([1, 2, 3, 4]), 2: np.array([5, 6]), 3: np.array([9])}
    theirs = {1: np.array([1, 3, 2, 9]), 2: np.array([5])}
    assert agreement(ours, theirs) == {
        "compared_users": 2,
        "equal_items": pytest.approx(4 / 6),
        "equal_places": pytest.approx(2 / 6),
    }
    assert agreement(ours, {})["equal_items"] == 0


def answer(source: str, items: int = 10, status: int = 200, degraded: tuple[str, ...] = ()) -> Exchange:
    body = {"source": source, "items": [{"item_id": i} for i in range(items)], "degraded": degraded}
    return Exchange(7, 0.0, 0.0, 0.004, status, json.dumps(body).encode())


def test_only_stored_slates_that_are_whole_or_say_otherwise_are_timed() -> None:
    figures = phases.judged(Run([answer("batch")] * 3, seconds=1.0, cpu_s=0.003), Pauses())
    assert figures["answers"] == 3
    assert figures["p99_ms"] == pytest.approx(4.0)
    figures = phases.judged(
        Run([answer("batch"), answer("batch", 9, degraded=("short",))], seconds=1.0), Pauses()
    )
    assert figures["degraded"] == {"short": 1}
    for wrong in (answer("popular"), answer("batch", items=9), answer("batch", status=503)):
        with pytest.raises(BenchError, match=r"user 7: \d+, no stored slate"):
            phases.judged(Run([answer("batch"), wrong], seconds=1.0), Pauses())


def test_a_load_may_ask_for_a_source() -> None:
    body = request_bytes(7, 5, fields={"source": "batch"}).partition(b"\r\n\r\n")[2]
    assert json.loads(body) == {"user_id": 7, "n": 5, "source": "batch"}


def test_the_page_says_what_is_met_and_leaves_out_what_was_not_measured(tmp_path: Path) -> None:
    write(
        tmp_path / "kuairand-1",
        throughput=JOB | SIZES,
        notebook={"predict": LOOP, "loader": LOOP | {"users_per_s": 30.0}, "direct": LOOP},
        workers={"runs": {"1": SLOWER, "2": JOB}, "ratio": 1.5},
    )
    write(
        tmp_path / "scale-1000000",
        scale=JOB | SIZES | {"items": 100_000, "tenths": {"first": 900.0, "last": 810.0, "ratio": 0.9}},
    )
    write(tmp_path / "scale-20000", scale=JOB)
    text = report.markdown(report.read(tmp_path))
    assert "| users per second, the whole job, start-up apart | 1,091 | at least 1,000 | **met** |" in text
    assert "| two workers over one | 1.5 | at least 1.6 | **missed** |" in text
    assert "as published | 36.4 | at least 50 times | **missed** |" in text
    assert "100,000 items: memory of the job at its peak | 1,500 | at most 4,096 MiB | **met** |" in text
    assert "| the last tenth's users/s over the first's | 0.9 | at least 0.8 | **met** |" in text
    assert "`01234567+changes`, 2 cores, `make bench-batch`, 2026-11-21 08:00, load 0.1" in text
    assert "Quality of stored slates" not in text
    assert "| kuairand, 2 workers | 0.1 | 1.8 | 0.1 | 0.1 | 0.1 | 0.05 | 0.1 |" in text


def test_publishing_replaces_the_part_between_the_marks_alone(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    with pytest.raises(ValueError, match="nothing was measured"):
        report.publish(tmp_path, page)
    write(
        tmp_path / "kuairand-1",
        throughput=JOB | SIZES,
        quality={
            "users": 10_017,
            "without_slate": 3,
            "stored": {"recall@10": 0.12071, "ndcg@10": 0.06826},
            "trained": {"recall@10": 0.12071, "ndcg@10": 0.06836},
        },
    )
    report.publish(tmp_path, page)
    text = page.read_text()
    assert text.startswith(f"before\n{report.BEGIN}\n")
    assert text.endswith(f"{report.END}\nafter\n")
    assert "old" not in text
    assert "| quality: largest difference from online | 0.0001 | at most 5e-05 | **missed** |" in text
    page.write_text("no marks")
    with pytest.raises(ValueError, match=r"the lines .* are missing"):
        report.publish(tmp_path, page)
