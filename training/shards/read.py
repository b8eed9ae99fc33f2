"""Reads shards as training's batches, for a trainer in the role torch.

    shards = ExampleShards.open("var/shards/kuairand")          # or an address that fsspec reaches
    known, newcomers = shards.item_shares(config)        # for the correction of in-batch negatives
    for batch in shards.batches(1024, config=config, seed=0, rank=rank, ranks=ranks, start=step):
        batch.columns["user_id"]                         # int64 (1024 / ranks,)

Batch number n is the same whenever and however often it is asked for: `start` resumes exactly, without any
state but the number of steps done. All ranks together see the rows that one rank alone sees, at every step.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from streaming.base.shuffle import get_shuffle

from contract import names
from contract.arrays import Array, Bools, Doubles, Ints
from contract.encoders import OOV_CODE, Encoders, Field
from training.examples.facts import ExampleFacts
from training.retrieval.config import DrawingConfig
from training.retrieval.sampling import drawing_weights, newcomer_chances, unknown_columns
from training.shards.files import BlockFiles
from training.shards.layout import (
    ENCODERS_FILE,
    HEADER_FILE,
    ROW,
    ArrayFile,
    ShardError,
    ShardsHeader,
    is_just_before,
    just_before,
    widen,
)
from training.shards.place import Place

CHUNK = 1 << 20
"""Facts that are looked at at once."""


@dataclass(frozen=True, eq=False)
class ShardBatch:
    """One rank's examples of one step: known users' first, then those whose user is withheld."""

    rows: Ints
    """Which examples they are, (B,), places among the facts."""
    columns: dict[str, Array]
    """Encoded columns of users and items, (B,), lists and embeddings (B,S): int64 or float32."""


class ExampleShards:
    """Opened shards: what is small in memory, facts and catalogue mapped, blocks when their turn comes."""

    def __init__(self, place: Place, scratch: tempfile.TemporaryDirectory[str]) -> None:
        """Takes where they lie, and a folder for what is fetched, which goes with the object."""
        self._place, self._scratch = place, scratch
        self.header = ShardsHeader.model_validate_json(self._file(HEADER_FILE).read_text())
        self.encoders = Encoders.load(self._file(ENCODERS_FILE))
        self.catalogue: dict[str, Array] = {array.name: self._map(array) for array in self.header.catalogue}
        """Encoded columns of all items (I,), lists (I,L), in the order of their table."""
        facts = {array.name: self._map(array) for array in self.header.facts}
        items = len(next(iter(self.catalogue.values())))
        self.facts = ExampleFacts(**facts, user_count=self.header.users, item_count=items)

    @classmethod
    def open(cls, address: str) -> ExampleShards:
        """Opens a folder, or an address: all but the blocks is fetched at once.

        Raises:
            ShardError: there are none, they are damaged, or they are not reached.
        """
        place = Place(address)
        try:
            return cls(place, tempfile.TemporaryDirectory(prefix="shortlist-shards-"))
        except (ValueError, KeyError, OSError) as error:
            said = str(error).splitlines()[0]
            raise ShardError(
                f"{address}: damaged, or of another version; write the shards anew ({said})"
            ) from None

    def __len__(self) -> int:
        return self.header.rows

    @property
    def fields(self) -> Mapping[str, Field]:
        """The fields of all columns."""
        return self.encoders.fields

    def item_shares(self, config: DrawingConfig) -> tuple[Doubles, Doubles]:
        """Gives the chance of each item (I,) to be a drawn example's, and one's whose user is withheld."""
        known, newcomers = np.zeros(self.facts.item_count), np.zeros(self.facts.item_count)
        for start in range(0, len(self), CHUNK):
            facts = self.facts.of(slice(start, start + CHUNK))
            weights = drawing_weights(facts, config, self.header.span_days)
            late = np.where(facts.is_timed & facts.is_target, weights, 0.0)
            known += np.bincount(facts.items, weights, facts.item_count)
            newcomers += np.bincount(facts.items, late, facts.item_count)
        known /= known.sum()
        return known, newcomers / newcomers.sum() if newcomers.any() else known

    def blocks(self) -> Iterator[dict[str, Array]]:
        """Gives every example once, block by block: encoded user columns (B,), lists (B,S), and `row` (B,).

        A list comes twice: as of the last snapshot, and, named `just_before(name)`, as of just before.

        Raises:
            ShardError: a block is damaged or not reached.
        """
        files = self._files(1)
        for number in range(len(files)):
            yield {name: widen(values) for name, values in files.block(number).items()}

    def batches(
        self,
        batch_size: int,
        *,
        config: DrawingConfig,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
        start: int = 0,
        withheld_share: float = 0.0,
        fresh_share: float = 0.0,
        user_dropout: float = 0.0,
    ) -> Iterator[ShardBatch]:
        """Draws batches without end, from number `start` on: of `batch_size` examples of all ranks together,
        those of `rank`. The next blocks are read meanwhile.

        An example is drawn as often as `drawing_weights` says; about `withheld_share` of each batch has its
        user withheld, `fresh_share` is as of just before, and `user_dropout` lacks the user's id alone. An
        epoch draws about as many as there are.

        Raises:
            ShardError: ranks or batch do not fit the lanes; a block is damaged or not reached.
        """
        self.check_fit(batch_size, ranks)
        lanes = self.header.lanes
        shares = (withheld_share, fresh_share, user_dropout)
        drawing = _Drawing(self, config, seed, batch_size // lanes, *shares)
        mine = range(rank * lanes // ranks, (rank + 1) * lanes // ranks)
        return drawing.batches(self._files(2 * len(mine)), mine, start)

    def check_fit(self, batch_size: int, ranks: int) -> None:
        """Looks whether so many ranks can read batches of so many examples, of all ranks together.

        Raises:
            ShardError: ranks or batch do not fit the lanes.
        """
        self.header.check_ranks(ranks)
        lanes = self.header.lanes
        if batch_size % lanes:
            raise ShardError(
                f"a batch of {batch_size} does not fit {lanes} lanes: take "
                f"{max(lanes, round(batch_size / lanes) * lanes)}"
            )

    def _files(self, most_files: int) -> BlockFiles:
        folder = Path(tempfile.mkdtemp(dir=self._scratch.name))
        return BlockFiles(self._place, folder, most_files)

    def _file(self, name: str) -> Path:
        return self._place.at_hand(name, Path(self._scratch.name))

    def _map(self, array: ArrayFile) -> Array:
        mapped: Array = np.memmap(self._file(array.file), np.dtype(array.dtype), "r", shape=array.shape)
        return mapped


@dataclass(frozen=True, eq=False)
class _Drawn:
    """What a lane gives to the batches of one of its blocks: rows of the block, a batch each (N,B)."""

    block: Mapping[str, Array]
    known: Ints
    withheld: Ints
    is_fresh: Bools
    """Of the known, then of the withheld (N,B)."""
    is_dropped: Bools
    """Of the known (N,B)."""


@dataclass(frozen=True, eq=False)
class _Drawing:
    """Draws from blocks. Each lane's share of a batch is from one of its blocks, and follows from the seed,
    the epoch and the block alone, so that no batch depends on the ranks."""

    shards: ExampleShards
    config: DrawingConfig
    seed: int
    per_lane: int
    withheld_share: float
    fresh_share: float
    user_dropout: float

    def batches(self, files: BlockFiles, lanes: range, start: int) -> Iterator[ShardBatch]:
        """Gives the batches of some lanes, from number `start` on."""
        per_block = max(1, len(self.shards) // len(files) // self.per_lane)
        group, skipped = divmod(start, per_block)
        order = _Order(files.sizes, self.shards.header.lanes, self.seed)

        def draw(group: int) -> list[_Drawn]:
            epoch, blocks = order.blocks(group)
            return [
                self._draw(files.block(int(blocks[lane])), [epoch, int(blocks[lane])], per_block)
                for lane in lanes
            ]

        with ThreadPoolExecutor(1) as ahead:
            coming = ahead.submit(draw, group)
            while True:
                drawn = coming.result()
                group += 1
                coming = ahead.submit(draw, group)
                for at in range(skipped, per_block):
                    yield self._batch(drawn, at)
                skipped = 0

    def _draw(self, block: Mapping[str, Array], at: list[int], batches: int) -> _Drawn:
        rng = np.random.default_rng([self.seed, *at])
        facts = self.shards.facts.of(block[ROW])
        weights = drawing_weights(facts, self.config, self.shards.header.span_days)
        withheld = round(self.withheld_share * self.per_lane)
        sizes = (batches, self.per_lane - withheld), (batches, withheld)
        return _Drawn(
            block=block,
            known=_resample(weights, sizes[0], rng),
            withheld=_resample(newcomer_chances(facts, weights), sizes[1], rng),
            is_fresh=rng.random((batches, self.per_lane)) < self.fresh_share,
            is_dropped=rng.random(sizes[0]) < self.user_dropout,
        )

    def _batch(self, drawn: list[_Drawn], at: int) -> ShardBatch:
        known = [(lane.block, lane.known[at], lane.is_fresh[at, : lane.known.shape[1]]) for lane in drawn]
        withheld = [
            (lane.block, lane.withheld[at], lane.is_fresh[at, lane.known.shape[1] :]) for lane in drawn
        ]
        users, others = _joined(known), _joined(withheld)
        rows = np.concatenate([users.pop(ROW), others.pop(ROW)])
        unknown = unknown_columns(self.shards.fields, others)
        users[names.USER_ID][np.concatenate([lane.is_dropped[at] for lane in drawn])] = OOV_CODE
        columns = {name: np.concatenate([values, unknown[name]]) for name, values in users.items()}
        items = self.shards.facts.items[rows]
        columns |= {name: np.asarray(values[items]) for name, values in self.shards.catalogue.items()}
        return ShardBatch(rows, columns)


class _Order:
    """Says which block each lane reads when: every block once in an epoch, by the engine's shuffle."""

    def __init__(self, sizes: Ints, lanes: int, seed: int) -> None:
        self._sizes, self._lanes, self._seed = sizes, lanes, seed
        self._epoch, self._blocks = -1, np.empty((lanes, 0), dtype=np.int64)

    def blocks(self, group: int) -> tuple[int, Ints]:
        """Gives the epoch of the n-th blocks of all lanes, and those blocks (lanes,)."""
        epoch, at = divmod(group, int(self._sizes.sum()) // self._lanes)
        if epoch != self._epoch:
            shuffled = get_shuffle("py1s", self._sizes, self._lanes, self._seed, epoch)
            self._epoch, self._blocks = epoch, shuffled.reshape(self._lanes, -1)
        return epoch, self._blocks[:, at]


def _resample(weights: Doubles, shape: tuple[int, int], rng: np.random.Generator) -> Ints:
    """Draws places in proportion to weights (R,): each as often as it is due, or once more or less.

    Source: Douc et al. 2005, Comparison of Resampling Schemes, 2.4: systematic.
    """
    count = shape[0] * shape[1]
    ends = np.cumsum(weights)
    drawn = np.searchsorted(ends, (np.arange(count) + rng.random()) / max(count, 1) * ends[-1], side="right")
    return rng.permutation(np.minimum(drawn, len(weights) - 1)).reshape(shape)


def _joined(parts: list[tuple[Mapping[str, Array], Ints, Bools]]) -> dict[str, Array]:
    """Takes blocks, rows of each (B,), and whether each is as of just before (B,); gives their columns."""
    columns = {}
    for name in parts[0][0]:
        if is_just_before(name):
            continue
        values = [block[name][rows] for block, rows, _ in parts]
        if just_before(name) in parts[0][0]:
            fresh = [block[just_before(name)][rows] for block, rows, _ in parts]
            values = [
                np.where(is_fresh[:, None], new, old)
                for (_, _, is_fresh), new, old in zip(parts, fresh, values, strict=True)
            ]
        columns[name] = widen(np.concatenate(values))
    return columns
