"""Cuts examples into blocks of rows: each a fair part of all, so that a few blocks stand for the whole."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO

import numpy as np

from contract.affinity import LISTS
from contract.arrays import Array, Doubles, Ints
from contract.dataset import DatasetError
from contract.encoders import Encoders
from training.examples.positives import RetrievalExamples
from training.retrieval.config import DrawingConfig
from training.retrieval.sampling import drawing_weights
from training.shards.layout import ENCODERS_FILE, FACTS_OF, ROW, just_before, narrow
from training.shards.wire import BLOCK, CATALOGUE, ENCODERS, END, FACTS, send


def send_examples(
    pipe: IO[bytes],
    dataset: str,
    encoders: Encoders,
    catalogue: Mapping[str, Array],
    pieces: Iterable[RetrievalExamples],
    *,
    block_rows: int,
    lanes: int,
    seed: int,
) -> int:
    """Sends the examples of all pieces through a pipe to `training.shards.pack`; gives their number.

    A piece holds whole users, chosen by chance: the examples of a log that fits no memory come one piece
    after the other, a small log is one piece. Memory holds one piece's log, and of its rows one block.

    Raises:
        DatasetError: a piece has fewer examples than there are lanes.
        BrokenPipeError: nobody reads any more.
    """
    send(pipe, ENCODERS, {ENCODERS: _as_bytes(encoders)}, dataset=dataset)
    send(pipe, CATALOGUE, catalogue)
    rows = users = 0
    rng = np.random.default_rng(seed)
    for piece in pieces:
        if len(piece) < lanes:
            raise DatasetError(
                f"{dataset}: {len(piece)} training examples fill no {lanes} lanes of shards; take more data, "
                "or set SHORTLIST_SHARD_LANES lower"
            )
        facts = {name: getattr(piece, name) for name in FACTS_OF}
        send(pipe, FACTS, facts | {"users": piece.users + users}, span_days=piece.span_days)
        weights = drawing_weights(piece, DrawingConfig(), piece.span_days)
        for block in deal(weights, block_rows, lanes, rng):
            send(pipe, BLOCK, {ROW: block + rows, **narrow(block_columns(piece, block), encoders.fields)})
        rows, users = rows + len(piece), users + piece.user_count
    send(pipe, END, {}, dataset=dataset, lanes=lanes, rows=rows, users=users)
    return rows


def deal(weights: Doubles, block_rows: int, lanes: int, rng: np.random.Generator) -> list[Ints]:
    """Deals rows (R,), the heaviest first, round the blocks; their number is a multiple of `lanes`.

    So each block has about `block_rows` rows, by chance, and as much weight as any other: rows that are drawn
    from one by weight are as if they were drawn from all.
    """
    blocks = lanes * max(1, round(len(weights) / block_rows / lanes))
    order = rng.permutation(len(weights))
    order = order[np.argsort(-weights[order], kind="stable")]
    return [np.sort(order[at::blocks]) for at in range(blocks)]


def block_columns(examples: RetrievalExamples, rows: Ints) -> dict[str, Array]:
    """Gives the users' encoded columns (B,) or (B,S) as of the snapshot, and the lists as of just before."""
    is_fresh = np.zeros(len(rows), np.bool_)
    fresh = examples.batch(rows, ~is_fresh)
    return examples.batch(rows, is_fresh) | {just_before(name): fresh[name] for name in LISTS}


def _as_bytes(encoders: Encoders) -> Array:
    with tempfile.TemporaryDirectory(prefix="shortlist-") as folder:
        file = Path(folder) / ENCODERS_FILE
        encoders.save(file)
        return np.fromfile(file, dtype=np.uint8)
