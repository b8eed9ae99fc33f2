"""`make bench-trainers`: each trainer of the two-tower model, its speed and its memory, in one run.

Both train the same task, the data set's own; graph building, reading and evaluation are not counted. Merlin's
runs in one process, TorchRec's in one and in two, on as many cores together. `--publish` puts the table into
docs/scale.md. Times are recorded, never asserted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.record import commit, machine, say
from contract.marked import put_between
from deploy.local.settings import ROOT, python_of

PAGE = ROOT / "docs" / "scale.md"
MARKS = "bench-trainers"
RANKS = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def measure(role: str, launch: list[str], module: str, folder: Path, threads: int) -> dict[str, Any]:
    """Runs one trainer on a task in a process of its role; gives what it measured of itself.

    Raises:
        CalledProcessError: it failed; its reason stands above.
    """
    variables = {"OMP_NUM_THREADS": str(threads), "TF_NUM_INTRAOP_THREADS": str(threads)}
    command = [str(python_of(role)), *launch, "-m", module, str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | variables, stdout=subprocess.PIPE, text=True, check=True
    )
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def table(data: str, measured: dict[str, dict[str, Any]]) -> str:
    """Writes the figures as Markdown; the trainer of one process, TorchRec's, is 1."""
    one = measured["TorchRec, 1 process"]["examples_per_s"]
    lines = [
        f"On {data}, {machine()['cpu']}, commit {commit()}; batches of "
        f"{measured['Merlin, 1 process']['batch_size']:,} examples.",
        "",
        "| trainer | examples a second | to TorchRec in one process | CPU ms per 1,000 examples "
        "| peak memory, MiB, all processes |",
        "|---|---|---|---|---|",
    ]
    for name, figures in measured.items():
        speed, cpu, memory = figures["examples_per_s"], figures["cpu_ms_per_1000"], figures["peak_mib"]
        lines.append(f"| {name} | {speed:,.0f} | {speed / one:.2f} | {cpu:,.0f} | {memory:,} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measures all; 0, or 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--publish", action="store_true", help="write the table into docs/scale.md")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="shortlist-trainers-") as scratch:
        folder, measured = Path(scratch) / "task", {}
        try:
            say("the task ...")
            made = measure("training", [], "bench.trainers.task", folder, 2)
            for name, role, launch, module, threads in (
                ("Merlin, 1 process", "training", [], "bench.trainers.merlin", 2),
                ("TorchRec, 1 process", "torch", [], "bench.trainers.torchrec", 2),
                ("TorchRec, 2 processes", "torch", RANKS, "bench.trainers.torchrec", 1),
            ):
                measured[name] = measure(role, launch, module, folder, threads)
                say(f"{name}: {measured[name]}")
        except subprocess.CalledProcessError as error:
            say(f"failed: {error}")
            return 1
    text = table(made["data"], measured)
    sys.stdout.write(text)
    if chosen.publish:
        put_between(PAGE, MARKS, text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
