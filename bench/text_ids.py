"""`python -m bench.text_ids`: what ids that are text cost, beside the same ones as integers, in one run.

A prepared data set is written twice, its ids once as they are and once as text; this commit trains and serves
each, both stacks stand beside each other on free ports, and their gateways are asked in turns. What is there
from a run before is used again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bench.compare_commits import (
    GATEWAY,
    Figures,
    Seconds,
    Side,
    add_ratios,
    compared,
    figures_of,
    git,
    in_turns,
)
from bench.designs import Design, HttpCaller
from bench.processes import of_ours
from bench.record import Record
from bench.replies import World, judge_gateway
from bench.servers import BenchError
from deploy.local.settings import LocalSettings, load_settings, python_of

N, USERS = 10, 2000
WRITE = """
import sys
from pathlib import Path
import pandas as pd
import yaml
prepared, folder, dtype = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
folder.mkdir(parents=True, exist_ok=True)
told = yaml.safe_load((prepared / "dataset.yaml").read_text()) | {"name": f"ids_{dtype}"}
for table in ("users", "items", "interactions"):
    frame = pd.read_parquet(prepared / f"{table}.parquet")
    for column in {"user_id", "item_id"} & set(frame):
        if dtype == "string":
            frame[column] = column[:4] + "-" + frame[column].map("{:08d}".format)
        told[table][column] = {"role": "id", "dtype": dtype}
    frame.to_parquet(folder / f"{table}.parquet", index=False)
(folder / "dataset.yaml").write_text(yaml.safe_dump(told, sort_keys=False))
"""
READ_IDS = """
import json, sys
import pyarrow.parquet as pq
print(json.dumps(pq.read_table(sys.argv[1], columns=[sys.argv[2]])[sys.argv[2]].unique().to_pylist()))
"""


@dataclass(frozen=True)
class IdSide(Side):
    """This commit, serving a data set whose ids are of one dtype; `data` is the data set's folder."""

    @cached_property
    def gateway(self) -> Design:
        """How it is asked."""
        folder = Path(self.data)
        users, items = (
            json.loads(_in_training(READ_IDS, str(folder / f"{table}.parquet"), f"{table[:-1]}_id"))
            for table in ("users", "items")
        )
        sample = tuple(users[:: max(1, len(users) // USERS)])
        world = World(None, folder.name, frozenset(items), sample, N)
        processes = of_ours(LocalSettings(var_dir=self.var))
        return Design(GATEWAY, HttpCaller(self.ports["port"], sample, N), processes, judge_gateway(world))

    def measured(self, seconds: Seconds, seed: int) -> Figures:
        """Measures it once."""
        return figures_of(GATEWAY, self.gateway, seconds, seed)


def _in_training(script: str, *arguments: str) -> str:
    command = [str(python_of("training")), "-c", script, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def compare(given: argparse.Namespace) -> Path:
    """Measures both, and gives the file that the figures were written to.

    Raises:
        BenchError: the data set is not prepared, or one of the two does not build or answer.
    """
    prepared = load_settings().var / "data" / given.data
    if not (prepared / "dataset.yaml").exists():
        raise BenchError(f"{prepared}: not there; run `make data DATA={given.data}`")
    folder, commit = given.folder.resolve(), git("rev-parse", "HEAD")
    sides = []
    for dtype in ("int64", "string"):
        data = folder / f"ids_{dtype}"
        _in_training(WRITE, str(prepared), str(data), dtype)
        sides.append(IdSide(commit, folder / dtype, str(data)))
        sides[-1].prepare(None)
    command = f"python -m bench.text_ids --data {given.data}"
    record = Record(", ".join(side.bundle.resolve().name for side in sides), commit=commit, command=command)
    with sides[0].serving(), sides[1].serving():
        figures = in_turns(sides, given.turns, lambda side, turn: side.measured(given.seconds, turn))
    add_ratios(record, "Ids", ("int64", "string"), *figures)
    return record.write(folder)


def main() -> int:
    """Reads the arguments and runs."""
    parser = argparse.ArgumentParser(prog="python -m bench.text_ids", description=__doc__)
    parser.add_argument("--data", default="synthetic", help="a prepared data set whose ids are integers")
    folder = load_settings().var / "bench" / "ids"
    parser.add_argument("--folder", type=Path, default=folder, help="where the data and the worktrees stay")
    return compared(parser, compare)


if __name__ == "__main__":
    sys.exit(main())
