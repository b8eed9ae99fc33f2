"""`python -m bench.compare_commits OLD [NEW]`: two commits of this project, measured in turns in one run.

Each is checked out as a worktree of its own, set up, and given a bundle trained by its own code on the same
data; both stacks then stand beside each other on free ports, and while one is asked the other waits. What is
there from a run before, environments and bundles, is used again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tritonclient.grpc import InferenceServerClient

from bench.designs import Design, GrpcCaller, HttpCaller, our_messages
from bench.processes import of_ours
from bench.record import Record, say
from bench.replies import World, judge_gateway, judge_ours
from bench.series import COMPARED_AT, Measured, measured
from bench.servers import BenchError, own_ports
from contract.bundles import CURRENT, bundles_folder
from contract.tensors import ANSWER
from deploy.local.settings import LOOPBACK, ROOT, LocalSettings, load_settings, python_of

N, USERS, HALF = 10, 2000, 0.5
WARM_S = 0.5
OLDER_OUTPUTS = ("item_ids", "item_scores", "degraded", "stage_us", "bundle_id")
"""What a slate was asked by before it travelled as one tensor."""
TRITON, GATEWAY = "straight to Triton", "gateway"
READ_USERS = """
import json, sys
import pyarrow.parquet as pq
users = pq.read_table(sys.argv[1], columns=["user_id"])["user_id"].unique().to_pylist()
print(json.dumps(sorted(users)))
"""
READ_PAD_ID = """
try:
    from contract.tensors import PAD_ID
except ImportError:  # of before that folder
    from ensemble.contract import PAD_ID
print(PAD_ID)
"""
Figures = dict[str, float]


@dataclass(frozen=True)
class Seconds:
    """How long each series of a turn takes: the closed loops of many and of one, and the open loop."""

    many: float = 5.0
    one: float = 3.0
    half: float = 6.0


@dataclass(frozen=True)
class Side:
    """One commit: its worktree, its data set, and the ports of its servers."""

    commit: str
    folder: Path
    data: str
    ports: Mapping[str, int] = field(default_factory=own_ports)

    @property
    def var(self) -> Path:
        """The folder of all that it makes."""
        return self.folder / "var"

    @property
    def bundle(self) -> Path:
        """The bundle that it serves."""
        return bundles_folder(self.var) / CURRENT

    def make(self, *targets: str) -> None:
        """Runs commands of its own Makefile, their output in a log of its own.

        Raises:
            BenchError: one failed.
        """
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SHORTLIST_")}
        environment |= {k: v for k, v in os.environ.items() if k == "SHORTLIST_DATA_DIR"}
        ports = {f"SHORTLIST_{name.upper()}": str(port) for name, port in self.ports.items()}
        log = self.folder.with_suffix(".log")
        say(f"{self.folder.name}: make {' '.join(targets)}")
        with log.open("a") as output:
            command = ["make", *targets, f"DATA={self.data}"]
            done = subprocess.run(
                command, cwd=self.folder, env=environment | ports, stdout=output, stderr=subprocess.STDOUT
            )
        if done.returncode:
            raise BenchError(f"{self.folder.name}: make {' '.join(targets)} failed; see {log}")

    def prepare(self, bundle: Path | None) -> None:
        """Checks it out, sets it up, and trains a bundle, where that is not done; or takes the bundle given.

        Raises:
            BenchError: it does not build.
        """
        check_out(self.commit, self.folder)
        self.make("setup")
        if bundle is not None:
            self.make("data")
            self.bundle.parent.mkdir(parents=True, exist_ok=True)
            self.bundle.unlink(missing_ok=True)
            self.bundle.symlink_to(bundle.resolve())
        elif not self.bundle.exists():
            self.make("train")
            if "\npromote:" in (self.folder / "Makefile").read_text():  # older ones promote as they train
                self.make("promote")

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Holds its servers up, with its features and index in its own Redis."""
        try:
            self.make("materialize", "export", "up")
            yield
        finally:
            self.make("down")

    def users(self) -> tuple[int, ...]:
        """Lists some users with a history, evenly drawn."""
        table = self.var / "data" / self.data / "interactions.parquet"
        command = [str(python_of("training")), "-c", READ_USERS, str(table)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        users = json.loads(output)
        return tuple(users[:: max(1, len(users) // USERS)])

    def pad_id(self) -> int:
        """Asks it what is no item."""
        command = [str(self.folder / ".venv" / "triton" / "bin" / "python"), "-c", READ_PAD_ID]
        return int(
            subprocess.run(command, cwd=self.folder, check=True, capture_output=True, text=True).stdout
        )

    @cached_property
    def designs(self) -> dict[str, Design]:
        """How it is asked: straight to Triton, and through the gateway."""
        manifest = json.loads((self.bundle / "manifest.json").read_text())
        items, users = frozenset(np.load(self.bundle / "item_ids.npy").tolist()), self.users()
        world = World(None, manifest["dataset"], items, users, N)
        address = f"{LOOPBACK}:{self.ports['triton_grpc_port']}"
        client: Any = InferenceServerClient(address)
        (model,) = {one.name for one in client.get_model_repository_index().models if one.state == "READY"}
        metadata = client.get_model_metadata(model, as_json=True)
        inputs, outputs = ({one["name"] for one in metadata[kind]} for kind in ("inputs", "outputs"))
        requested = [name for name in (ANSWER.name, *OLDER_OUTPUTS) if name in outputs]
        pad_id = self.pad_id()
        messages = our_messages(model, users, manifest["context"], N, requested, inputs, pad_id)
        processes = of_ours(LocalSettings(var_dir=self.var))
        behind = {kind: found for kind, found in processes.items() if kind != "gateway"}
        return {
            TRITON: Design(TRITON, GrpcCaller(address, messages), behind, judge_ours(world, pad_id)),
            GATEWAY: Design(
                GATEWAY, HttpCaller(self.ports["port"], users, N), processes, judge_gateway(world)
            ),
        }

    def turn(self, seconds: Seconds, seed: int) -> Figures:
        """Measures it once, each way."""
        figures: Figures = {}
        for way, design in self.designs.items():
            figures |= figures_of(way, design, seconds, seed)
        return figures


AnySide = TypeVar("AnySide", bound=Side)


def figures_of(way: str, design: Design, seconds: Seconds, seed: int) -> Figures:
    """Measures a design once: many clients, one, and half of what the many got."""
    ask = design.caller
    ask.closed(COMPARED_AT, WARM_S, seed=seed)
    many = _answered(design, partial(ask.closed, COMPARED_AT, seconds.many, seed))
    one = _answered(design, partial(ask.closed, 1, seconds.one, seed))
    half = _answered(design, partial(ask.open, HALF * many.full_per_s, seconds.half, seed))
    return {
        f"{way}, {COMPARED_AT} clients: full answers/s": many.full_per_s,
        f"{way}, {COMPARED_AT} clients: CPU ms an answer": many.cpu_ms,
        f"{way}, 1 client: CPU ms an answer": one.cpu_ms,
        f"{way}, 1 client: p50 ms": float(np.percentile(one.latency_ms, 50)),
        f"{way}, half of its capacity: p99 ms": float(np.percentile(half.latency_ms, 99)),
    }


def _answered(design: Design, load: Callable[[], Any]) -> Measured:
    one = measured(design, load)
    if not one.latency_ms:
        raise BenchError(f"{design.name}: no answer at all; see the log of its servers")
    return one


def in_turns(
    sides: Sequence[AnySide], turns: int, measure: Callable[[AnySide, int], Figures]
) -> tuple[list[Figures], ...]:
    """Measures two sides so often, one after the other, in changing order; gives what each got."""
    figures: dict[Path, list[Figures]] = {side.folder: [] for side in sides}
    for turn in range(turns):
        for side in sides if turn % 2 == 0 else reversed(sides):
            found = measure(side, turn)
            figures[side.folder].append(found)
            say(f"turn {turn + 1}, {side.folder.name}: " + ", ".join(f"{v:.4g}" for v in found.values()))
    return tuple(figures.values())


def add_ratios(
    record: Record,
    section: str,
    names: tuple[str, str],
    old: Sequence[Figures],
    new: Sequence[Figures],
) -> None:
    """Records each figure's median of both sides, and the ratio new to old: its median, least and most of
    the turns."""
    for name in old[0]:
        of_old, of_new = ([turn[name] for turn in turns] for turns in (old, new))
        ratios = [b / a for a, b in zip(of_old, of_new, strict=True)]
        figures = {names[0]: float(np.median(of_old)), names[1]: float(np.median(of_new))}
        spread = {"least": min(ratios), "most": max(ratios)}
        record.add(section, name, figures | {"ratio": float(np.median(ratios))} | spread)


def compare(given: argparse.Namespace) -> Path:
    """Measures both commits, and gives the file that the figures were written to.

    Raises:
        BenchError: there is no such commit, or one of them does not build or answer.
    """
    folder = given.folder.resolve()
    commits = [git("rev-parse", "--verify", f"{name}^{{commit}}") for name in (given.old, given.new)]
    old, new = (Side(commit, folder / commit[:12], given.data) for commit in commits)
    if old == new or commits[0] == commits[1]:
        raise BenchError(f"{given.old} and {given.new} are the same commit; give two")
    for side, bundle in ((old, given.old_bundle), (new, given.new_bundle)):
        side.prepare(bundle)
    record = Record(
        f"{old.bundle.resolve().name}, {new.bundle.resolve().name}",
        commit=f"{commits[0][:10]}, {commits[1][:10]}",
        command=f"python -m bench.compare_commits {given.old} {given.new}",
    )
    with old.serving(), new.serving():
        figures = in_turns((old, new), given.turns, lambda side, turn: side.turn(given.seconds, turn))
    add_ratios(record, "Commits", ("old", "new"), *figures)
    return record.write(folder)


def git(*arguments: str) -> str:
    """Runs git on this checkout, gives what it says.

    Raises:
        BenchError: it failed.
    """
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


def check_out(commit: str, folder: Path) -> None:
    """Makes a worktree of a commit, where there is none yet.

    Raises:
        BenchError: there is no such commit.
    """
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        git("worktree", "add", "--force", "--detach", str(folder), commit)


def compared(parser: argparse.ArgumentParser, compare: Callable[[argparse.Namespace], Path]) -> int:
    """Adds what every comparison in turns is told, reads the arguments and runs; 1 with one line where it
    cannot."""
    parser.add_argument("--turns", type=int, default=5, help="how often each is measured")
    parser.add_argument("--quick", action="store_true", help="two short turns, to try it")
    given = parser.parse_args()
    given.seconds = Seconds(1.0, 1.0, 1.0) if given.quick else Seconds()
    given.turns = 2 if given.quick else given.turns
    try:
        say(f"wrote {compare(given)}")
    except BenchError as error:
        print(f"bench    {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def main() -> int:
    """Reads the arguments and runs."""
    parser = argparse.ArgumentParser(prog="python -m bench.compare_commits", description=__doc__)
    parser.add_argument("old", help="a commit, branch or tag")
    parser.add_argument("new", nargs="?", default="HEAD", help="another (default: HEAD)")
    parser.add_argument("--data", default="kuairand", help="the data set of both")
    parser.add_argument("--old-bundle", type=Path, help="a bundle that OLD can serve, instead of training")
    parser.add_argument("--new-bundle", type=Path, help="a bundle that NEW can serve, instead of training")
    folder = load_settings().var / "bench" / "commits"
    parser.add_argument("--folder", type=Path, default=folder, help="where the worktrees stay")
    return compared(parser, compare)


if __name__ == "__main__":
    sys.exit(main())
