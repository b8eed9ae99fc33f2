"""Where a part of the benchmark runs: a folder, servers on free ports, and the job itself."""

from __future__ import annotations

import json
import random
import subprocess
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import redis

from bench.batch.watch import watched
from bench.processes import MIB, REDIS, of_ours
from bench.record import say
from bench.servers import BenchError, bench_settings, environment, run, serving
from contract.batch_files import SLATES_FOLDER, BatchFiles
from contract.keys import batch_key, slate_prefix
from contract.slates import Published
from deploy.local.settings import ROOT, LocalSettings, python_of

Figures = dict[str, Any]
PATIENCE_S = 3 * 3600.0
SAMPLE_KEYS = 1000
OF_COMMANDS = {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}


@dataclass(frozen=True)
class Place:
    """A folder that holds a Redis of its own and what runs made; `bundle` is what they are made with."""

    settings: LocalSettings

    @classmethod
    def of(cls, folder: Path, bundle: Path) -> Place:
        """Takes free ports; everything that is written lies in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        return cls(bench_settings(folder.resolve(), bundle.resolve()))

    @property
    def folder(self) -> Path:
        """Where everything lies."""
        return self.settings.var

    @property
    def manifest(self) -> dict[str, Any]:
        """The bundle's manifest.

        Raises:
            BenchError: there is no bundle.
        """
        path = self.settings.bundle / "manifest.json"
        try:
            read: dict[str, Any] = json.loads(path.read_text())
        except OSError:
            raise BenchError(f"{path}: no bundle to measure; run `make train promote` first") from None
        return read

    @property
    def redis(self) -> redis.Redis:
        """A client of its Redis."""
        return redis.Redis(**self.settings.redis.connection_kwargs(), protocol=2)

    def serving(self, *names: str) -> AbstractContextManager[None]:
        """Holds the named servers up, and ends all of them."""
        return serving(self.settings, *names)

    def run(self, role: str, *arguments: str, **variables: str) -> float:
        """Runs a command of a role to its end, however long it takes; gives its seconds.

        Raises:
            BenchError: it failed; the message ends with its last lines.
        """
        environment = OF_COMMANDS | variables
        return run(self.settings, role, *arguments, timeout_s=None, **environment).seconds

    def report(self, role: str, module: str, **options: object) -> Figures:
        """Runs one of the benchmark's own modules, gives the figures that it writes."""
        path = self.folder / f"{module.rpartition('.')[2]}.tmp.json"
        given = [
            part
            for name, value in (options | {"report": path}).items()
            for part in (f"--{name.replace('_', '-')}", str(value))
        ]
        self.run(role, "-m", module, *given)
        figures: Figures = json.loads(path.read_text())
        path.unlink()
        return figures

    def job(self, *arguments: str, **variables: str) -> Figures:
        """Runs the batch job once from the start, and watches it.

        Gives the job's own record, its wall time, and its memory and CPU by process, Redis' beside.

        Raises:
            BenchError: it failed, or did not end.
        """
        path, log = self.folder / "job.tmp.json", self.folder / "log" / "job.log"
        path.unlink(missing_ok=True)
        log.parent.mkdir(exist_ok=True)
        command = ["-m", "batch", "run", "--again", "--report", str(path), *arguments]
        (server,) = of_ours(self.settings)[REDIS]
        started = time.monotonic()
        with log.open("ab") as output:
            at = output.tell()
            process = subprocess.Popen(
                [str(python_of("batch")), *command],
                cwd=ROOT,
                env=environment(self.settings) | OF_COMMANDS | variables,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                watch = watched(process, PATIENCE_S, {REDIS: server})
            except TimeoutError as error:
                _end(process)
                raise BenchError(f"the job: {error}") from error
            except BaseException:
                _end(process)
                raise
        wall_s = time.monotonic() - started
        if process.returncode:
            raise BenchError(_failed(log, at))
        record: Figures = json.loads(path.read_text())
        path.unlink()
        figures = {"record": record, "wall_s": wall_s, "redis_mib": server.memory_info().rss / MIB}
        last_s = max(part.stat().st_mtime for part in self._parts(record["run"]))
        figures["cores"] = watch.cores(last_s - record["compute_s"], last_s)
        say(f"{record['done']:,} users in {wall_s:.1f} s")
        return figures | watch.figures() | _speeds(record, wall_s)

    def bytes_per_slate(self, run: str) -> Figures:
        """Asks Redis what a stored slate takes, keys drawn at random, and adds up the run's Parquet files."""
        keys = self._slate_keys(run)
        pipe = self.redis.pipeline(transaction=False)
        for key in random.Random(0).sample(keys, min(SAMPLE_KEYS, len(keys))):
            pipe.memory_usage(key, samples=0)
            pipe.strlen(key)
        found = pipe.execute()
        memory, lengths = found[::2], found[1::2]
        return {
            "redis_bytes_per_user": sum(memory) / len(memory),
            "value_bytes_per_user": sum(lengths) / len(lengths),
            "parquet_bytes_per_user": sum(part.stat().st_size for part in self._parts(run)) / len(keys),
            "sampled_keys": len(memory),
        }

    def users_with_slates(self, run: str) -> list[int]:
        """Lists the users for whom a run stored a slate, ascending."""
        head = len(slate_prefix(run))
        return sorted(int(key[head:]) for key in self._slate_keys(run))

    def _slate_keys(self, run: str) -> list[bytes]:
        keys = list(self.redis.scan_iter(f"{slate_prefix(run)}*", count=10_000))
        if not keys:
            raise BenchError(f"run {run} has no slate in Redis; do this phase again: --again throughput")
        return keys

    def run_folder(self, run: str) -> Path:
        """Where a run's files lie."""
        return BatchFiles(dir=None).runs(self.folder, str(self.manifest["dataset"])) / run

    def _parts(self, run: str) -> list[Path]:
        return sorted((self.run_folder(run) / SLATES_FOLDER).glob("part-*.parquet"))

    def published(self) -> str:
        """The run that is read.

        Raises:
            BenchError: nothing is published.
        """
        value: Any = self.redis.get(batch_key(str(self.manifest["dataset"])))
        lineage = Published.decode(value).lineage
        if not lineage:
            raise BenchError(
                "nothing is published in the benchmark's Redis; do this phase: --again throughput"
            )
        return lineage[0]


def _speeds(record: Figures, wall_s: float) -> Figures:
    """Users per second of the computing alone, and of everything between the command and its end."""
    return {
        "users_per_s": record["done"] / record["compute_s"],
        "users_per_s_with_start_up": record["done"] / wall_s,
        "around_s": wall_s - record["start_up_s"] - record["compute_s"],
    }


def _failed(log: Path, at: int) -> str:
    end = "\n".join(log.read_bytes()[at:].decode(errors="replace").splitlines()[-15:])
    return f"the job failed; the end of {log}:\n{end}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a job and whatever it started: Ray's processes outlive a driver that is killed."""
    try:
        below = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in below:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
