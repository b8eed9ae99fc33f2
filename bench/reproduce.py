"""Trains retrieval under other seeds, threads and instruction sets, and says how far its metrics move.

`python -m bench.reproduce [--seeds 5]`, in the training environment, on the data set of `SHORTLIST_DATA`
(`make data` first). Every training is a process of its own: what computes is chosen when libraries load.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from contract.arithmetic import ArithmeticFault, check_matmul
from training.config import load_settings
from training.data.sources.catalog import prepare
from training.examples.ranking import RankingParts
from training.examples.split import held_out
from training.learn import fit_encoders, fit_retriever
from training.pipeline import set_threads
from training.slates.search import evaluate_vectors

Measured = dict[str, float]
METRICS = ("recall@10", "recall@100", "ndcg@10", "ndcg@100")


@dataclass(frozen=True)
class Condition:
    """What of the machine is changed: the environment of the process, its threads, its seeds."""

    name: str
    environment: Mapping[str, str]
    threads: int = 2
    seeds: tuple[int, ...] = (0,)


def conditions(seeds: int) -> tuple[Condition, ...]:
    """The conditions, the project's own settings first, under which the seeds are varied too."""
    return (
        Condition("as `make train` does", {}, seeds=tuple(range(seeds))),
        Condition("OpenBLAS for Cooper Lake", {"OPENBLAS_CORETYPE": "Cooperlake"}),
        Condition("OpenBLAS for Skylake", {"OPENBLAS_CORETYPE": "SkylakeX"}),
        Condition("one thread", {}, threads=1),
        Condition("oneDNN held to AVX2", {"ONEDNN_MAX_CPU_ISA": "AVX2"}),
        Condition("TensorFlow without oneDNN", {"TF_ENABLE_ONEDNN_OPTS": "0"}),
    )


def train_once(seed: int, threads: int) -> Measured:
    """Fits the workflow and retrieval, gives the test part's metrics; `faulty` is 1 if products are wrong."""
    settings = load_settings()
    set_threads(threads)
    prepared = prepare(settings.data, settings.data_dir, settings.var_dir, say=lambda _: None)
    encoders = fit_encoders(prepared, RankingParts.of(prepared).train)
    retriever = fit_retriever(prepared, encoders, settings, seed)
    split = prepared.split
    held = held_out(prepared, split.validate_until, split.test_until)
    per_user = evaluate_vectors(held, *retriever.vectors(held, split.validate_until))
    return {name: float(np.nanmean(per_user[name])) for name in METRICS} | {"faulty": float(is_faulty())}


def is_faulty() -> bool:
    """Whether numpy multiplies matrices wrongly in this process."""
    try:
        check_matmul()
    except ArithmeticFault:
        return True
    return False


def in_process(condition: Condition, seed: int) -> Measured:
    """Trains in a fresh process; its last line is the result."""
    environment = {**os.environ, **condition.environment}
    command = [sys.executable, "-m", "bench.reproduce", "--one", str(seed), str(condition.threads)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    measured: Measured = json.loads(done.stdout.splitlines()[-1])
    return measured


def rows(seeds: int) -> Iterator[tuple[str, int, Measured]]:
    """Trains under every condition, gives each as it is done."""
    for condition in conditions(seeds):
        for seed in condition.seeds:
            yield condition.name, seed, in_process(condition, seed)


def main() -> None:
    """Prints a line per training, then the interval of all whose arithmetic was right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="seeds under the project's own settings")
    parser.add_argument("--one", type=int, nargs=2, metavar=("SEED", "THREADS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(train_once(*arguments.one)))
        return
    say = partial(print, flush=True)
    say(f"| condition | seed | products | {' | '.join(METRICS)} |")
    say("|---" * (3 + len(METRICS)) + "|")
    right: list[Measured] = []
    for name, seed, measured in rows(arguments.seeds):
        products = "wrong" if measured["faulty"] else "right"
        say(f"| {name} | {seed} | {products} | {' | '.join(f'{measured[m]:.4f}' for m in METRICS)} |")
        right += [] if measured["faulty"] else [measured]
    spans = [f"{min(of):.4f} to {max(of):.4f}" for of in ([m[name] for m in right] for name in METRICS)]
    say(f"| all whose products are right | | | {' | '.join(spans)} |")


if __name__ == "__main__":
    main()
