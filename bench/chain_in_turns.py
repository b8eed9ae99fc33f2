"""`python -m bench.chain_in_turns OLD`: CPU of the chain of another commit and of the working tree, in turns.

The stack must run. Both chains serve its bundle, each in a process of its own without Triton, and are given
the same users batch by batch, in an order that changes; so a busy minute falls on both. The other commit
runs in this one's environment, and must build its chain as this one does.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from bench.compare_commits import check_out, git
from bench.load.load import LoadError, user_ids
from bench.servers import BenchError
from contract.bundle import BundleError, read_manifest
from deploy.local.settings import ROOT, LocalSettings, load_settings, python_of

SIZES, RUNS, WARM, USERS = (1, 2, 4, 8, 16), 200, 10, 2000
CHILD = ROOT / "bench" / "chain_child.py"
Chain = subprocess.Popen[str]


@contextmanager
def chain_of(folder: Path, settings: LocalSettings) -> Iterator[Chain]:
    """Starts the chain of a checked out commit.

    Raises:
        BenchError: it does not come up.
    """
    environment = os.environ | settings.environment() | {"PYTHONPATH": str(folder)}
    command = [str(python_of("triton")), "-P", str(CHILD)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes) as chain:  # type: ignore[call-overload]
        try:
            if _line(chain) != "ready":
                raise BenchError(f"{folder}: its chain does not start in this environment")
            yield chain
        finally:
            chain.terminate()


def measured(chain: Chain, users: Sequence[int]) -> tuple[float, str]:
    """Asks for some users at once; gives microseconds of CPU, and a digest of the slates.

    Raises:
        BenchError: the chain ended.
    """
    assert chain.stdin is not None
    chain.stdin.write(" ".join(map(str, users)) + "\n")
    chain.stdin.flush()
    took, _, digest = _line(chain).partition(" ")
    if not digest:
        raise BenchError("a chain ended; does it build as this one does?")
    return float(took), digest


def compare(old: str, runs: int) -> None:
    """Prints a line per size of a batch.

    Raises:
        BenchError: a commit is unknown, or a chain does not answer.
        BundleError: there is no bundle.
        LoadError: nobody is known.
    """
    settings = load_settings()
    users = user_ids(settings.redis, read_manifest(settings.bundle, verify=False).dataset, USERS, 0)
    folder = settings.var / "bench" / "commits" / git("rev-parse", "--short", old)
    check_out(old, folder)
    draw = random.Random(0)
    with chain_of(folder, settings) as before, chain_of(ROOT, settings) as now:
        print("| users at once | OLD, us of CPU a user | now | ratio | slates that differ |")
        print("|---|---|---|---|---|")
        for size in SIZES:
            took: dict[Chain, list[float]] = {before: [], now: []}
            differ = 0
            for _ in range(WARM + runs):
                some, digests = draw.choices(users, k=size), set()
                for chain in draw.sample([before, now], 2):
                    us, digest = measured(chain, some)
                    took[chain].append(us / size)
                    digests.add(digest)
                differ += len(digests) - 1
            first, second = (median(took[chain][WARM:]) for chain in (before, now))
            print(
                f"| {size} | {first:.0f} | {second:.0f} | {second / first:.2f} | {differ} of {WARM + runs} |"
            )


def _line(chain: Chain) -> str:
    assert chain.stdout is not None
    return chain.stdout.readline().strip()


def main() -> int:
    """Reads the arguments and runs; 1 with one line where it cannot."""
    parser = argparse.ArgumentParser(prog="python -m bench.chain_in_turns", description=__doc__)
    parser.add_argument("old", help="a commit, branch or tag")
    parser.add_argument("--runs", type=int, default=RUNS, help=f"batches of each size (default: {RUNS})")
    given = parser.parse_args()
    try:
        compare(given.old, given.runs)
    except (BenchError, BundleError, LoadError) as error:
        print(f"bench    {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
