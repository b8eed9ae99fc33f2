"""Measures shards: rows written and read a second, beside drawing in memory; then a log larger than memory.

`.venv/dev/bin/python -m bench.shards.run [--rows 3000000] [--limit-mib 256]`. The roles training and torch
run the parts, as `make shards` does. A log is drawn in pieces of users; of the large one, the processes that
cut, that pack, that read and that train may each hold so much private memory beyond their libraries: the
kernel sees to it.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.memory import MIB, limit_mib, status_mib

TRAINING, TORCH = ".venv/training/bin/python", ".venv/torch/bin/python"
EVENTS = 50
"""Of a user."""
ITEMS = 100_000
LANES, BLOCK_ROWS, BATCH = 16, 1024, 1024
SMALL = 250_000
"""Rows that fit into memory."""
BATCHES = 200
STEPS, WIDTH, RATE = 100, 16, 0.01


def cut(rows: int, pieces: int, limit: int) -> None:
    """Draws a log and sends its examples through standard output."""
    from bench.shards.log import catalogue_of_log, encoders_of_log, piece_of_log
    from training.shards.cut import send_examples

    users = rows // EVENTS
    encoders = encoders_of_log(users, ITEMS)
    before = limited(limit)
    bounds = [users * at // pieces for at in range(pieces + 1)]
    drawn = (piece_of_log(encoders, range(*span), EVENTS) for span in itertools.pairwise(bounds))
    catalogue = catalogue_of_log(encoders)
    with sys.stdout.buffer as pipe:
        send_examples(pipe, "log", encoders, catalogue, drawn, block_rows=BLOCK_ROWS, lanes=LANES, seed=0)
    report_memory("cut", before)


def pack(folder: str, limit: int) -> None:
    """Packs what comes through standard input."""
    from training.shards.pack import pack
    from training.shards.wire import receive

    before = limited(limit)
    messages = receive(sys.stdin.buffer)
    first = next(messages)  # both processes are up
    rate("written", lambda: pack(itertools.chain([first], messages), folder))
    report_memory("pack", before)


def read(folder: str, limit: int) -> None:
    """Reads every row once, then draws batches."""
    from training.retrieval.config import DrawingConfig
    from training.shards.read import ExampleShards

    before = limited(limit)
    shards = ExampleShards.open(folder)
    rate("read, every row once", lambda: sum(len(block["row"]) for block in shards.blocks()))
    drawn = shards.batches(BATCH, config=DrawingConfig(), seed=0, withheld_share=0.1, fresh_share=0.5)
    rate("drawn from shards", lambda: sum(len(batch.rows) for batch in itertools.islice(drawn, BATCHES)))
    report_memory("read", before)


def train(folder: str, limit: int) -> None:
    """Trains sharded towers by the trainer's own steps, in a process group of this process alone, and goes on
    from a checkpoint; the towers start at random, as a start from all examples holds them."""
    import numpy as np
    import torch

    from contract import names
    from training.examples.safe_names import safe_fields
    from training.retrieval.config import TorchrecConfig, TwoTowerConfig
    from training.retrieval.tower_design import TowersStart
    from training.shards.read import ExampleShards
    from training.torchrec.batches import logarithms, tensors
    from training.torchrec.checkpoints import Checkpoints, Progress
    from training.torchrec.quiet import quieten
    from training.torchrec.ranks import Ranks, process_group
    from training.torchrec.steps import TowerSteps
    from training.torchrec.train import adam, sharded

    quieten()
    torch.set_num_threads(1)
    before, config = limited(limit), TwoTowerConfig(width=WIDTH)
    shards = ExampleShards.open(folder)
    codes, rng = shards.fields[names.ITEM_ID].cardinality, np.random.default_rng(0)
    history, candidates = (rng.normal(0, 0.1, (codes, WIDTH)).astype(np.float32) for _ in range(2))
    popularity = np.bincount(shards.catalogue[names.ITEM_ID], shards.item_shares(config)[0], codes)
    log_chances = torch.from_numpy(logarithms(popularity))
    start = TowersStart(history, candidates, np.zeros(codes, np.float32), np.zeros(WIDTH, np.float32))
    of_users = {name: field for name, field in shards.fields.items() if name not in shards.catalogue}
    of_items = {name: shards.fields[name] for name in shards.catalogue}
    fields = [*safe_fields(of_users).values()], [*safe_fields(of_items).values()]
    drawn = shards.batches(BATCH, config=config, seed=0, withheld_share=0.1, user_dropout=0.1)

    def new_steps(ranks: Ranks) -> TowerSteps:
        model = sharded(fields, start, config, TorchrecConfig(), ranks, BATCH)
        return TowerSteps(model, adam(model, RATE), ranks, log_chances, config.temperature)

    with process_group() as ranks:
        steps, losses = new_steps(ranks), []

        def make_steps() -> int:
            for batch in itertools.islice(drawn, STEPS):
                losses.append(steps.make(tensors(batch.columns, ranks.device), RATE))
            return STEPS * BATCH

        rate("trained", make_steps)
        say(f"loss {losses[0]:.3f}, at the end {np.mean(losses[-20:]):.3f}")
        began = time.perf_counter()
        checkpoints = Checkpoints(Path(f"{folder}-checkpoints"), ranks)
        checkpoints.save(steps.model, steps.optimizer, Progress("log", step=STEPS))
        written = time.perf_counter()
        last, again = checkpoints.last("log"), new_steps(ranks)
        assert last is not None
        checkpoints.load(last[0], again.model, again.optimizer)
        size = sum(file.stat().st_size for file in last[0].iterdir()) / MIB
        say(
            f"checkpoint: {size:,.0f} MiB, written in {written - began:.1f} s, read by another model in "
            f"{time.perf_counter() - written:.1f} s"
        )
        following = tensors(next(drawn).columns, ranks.device)
        one, other = (which.make(following, RATE) for which in (steps, again))
        say(f"next step: loss {one:.6f}, from the checkpoint {other:.6f}")
        if one != other:
            raise SystemExit("shards   the checkpoint is of another training")
    report_memory("train", before)


def draw_in_memory(rows: int) -> None:
    """Draws batches as the trainer in memory does."""
    from bench.shards.log import catalogue_of_log, encoders_of_log, piece_of_log
    from training.retrieval.config import DrawingConfig
    from training.retrieval.sampling import batches, drawing_chances, newcomer_chances

    encoders = encoders_of_log(rows // EVENTS, ITEMS)
    examples = piece_of_log(encoders, range(rows // EVENTS), EVENTS)
    chances = drawing_chances(examples, DrawingConfig())
    both = (chances, newcomer_chances(examples, chances))
    withheld = round(0.1 * BATCH)
    sizes = (BATCH - withheld, withheld)
    drawn = batches(encoders.fields, examples, catalogue_of_log(encoders), both, sizes, 0, fresh_share=0.5)
    rate("drawn in memory", lambda: sum(len(batch["user_id"]) for batch in itertools.islice(drawn, BATCHES)))


def limited(mib: int) -> float:
    """Sets the limit, where there is one; gives what was resident before, MiB."""
    before = status_mib("VmHWM")
    if mib:
        limit_mib(mib)
    return before


def report_memory(what: str, before: float) -> None:
    """Says how much memory a process took beyond its libraries."""
    say(f"{what}: most resident {status_mib('VmHWM'):,.0f} MiB, {before:,.0f} of it libraries")


def rate(what: str, count: Callable[[], int]) -> None:
    """Says how many rows a second something does."""
    started = time.perf_counter()
    rows = count()
    say(f"{what}: {rows / (time.perf_counter() - started):,.0f} rows/s ({rows:,})")


def say(line: str) -> None:
    """Prints a line beside the pipe."""
    print(f"shards   {line}", file=sys.stderr, flush=True)


def write(folder: Path, rows: int, pieces: int, limit: int) -> None:
    """Writes shards of a log by two processes and a pipe."""
    this = ["-m", "bench.shards.run", "--limit-mib", str(limit)]
    cutting = [TRAINING, *this, "--rows", str(rows), "--part", "cut", "--pieces", str(pieces)]
    with subprocess.Popen(cutting, stdout=subprocess.PIPE) as cutter:
        subprocess.run([TORCH, *this, "--part", "pack", "--folder", folder], stdin=cutter.stdout, check=True)
    if cutter.returncode:
        raise SystemExit("shards   cutting failed; its reason stands above")
    size = sum(file.stat().st_size for file in folder.rglob("*"))
    say(f"shards: {size / rows:,.0f} bytes a row, {size / MIB:,.0f} MiB")


def main() -> None:
    """Measures, or runs one part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=3_000_000, help="of the large log")
    parser.add_argument("--limit-mib", type=int, default=256)
    parser.add_argument("--pieces", type=int, default=20, help="of the large log")
    parser.add_argument("--part", choices=["cut", "pack", "read", "train", "memory"], help=argparse.SUPPRESS)
    parser.add_argument(
        "--folder", type=Path, help="where the shards lie meanwhile (default: a temporary one)"
    )
    chosen = parser.parse_args()
    folder = str(chosen.folder)
    parts = {
        "cut": lambda: cut(chosen.rows, chosen.pieces, chosen.limit_mib),
        "pack": lambda: pack(folder, chosen.limit_mib),
        "read": lambda: read(folder, chosen.limit_mib),
        "train": lambda: train(folder, chosen.limit_mib),
        "memory": lambda: draw_in_memory(chosen.rows),
    }
    if chosen.part:
        return parts[chosen.part]()
    base = Path(tempfile.mkdtemp(prefix="shortlist-", dir=chosen.folder))
    try:
        for rows, pieces, limit in ((SMALL, 1, 0), (chosen.rows, chosen.pieces, chosen.limit_mib)):
            say(
                f"{rows:,} rows"
                + (f", each process held to {limit} MiB beyond its libraries" if limit else "")
            )
            write(base / str(rows), rows, pieces, limit)
            for part in ("read", "train"):
                arguments = ["--part", part, "--folder", str(base / str(rows)), "--limit-mib", str(limit)]
                subprocess.run([TORCH, "-m", "bench.shards.run", *arguments], check=True)
            if not limit:
                memory = ["-m", "bench.shards.run", "--part", "memory", "--rows", str(rows)]
                subprocess.run([TORCH, *memory], check=True)
    finally:
        shutil.rmtree(base)
    return None


if __name__ == "__main__":
    main()
