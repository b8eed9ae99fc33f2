"""Which node holds which item of an index that is spread over several: rendezvous hashing, and the record
that says how far a move has come. Whoever writes items and whoever moves them place them by the same code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from contract.arrays import Bools, Ids, Ints

_MIX = tuple(map(np.uint64, (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)))
"""Multipliers of SplitMix64's last step (Steele, Lea and Flood 2014)."""


def owners(item_ids: Ids, nodes: Sequence[str]) -> Ints:
    """Takes items (I,) and the nodes' names, gives the place in `nodes` of each item's node, (I,).

    Rendezvous hashing (Thaler and Ravishankar 1998): an item lies where the hash of both is greatest. So a
    node that comes takes 1/N of the items, evenly from all, and one that goes gives up its own alone; the
    order of the names does not matter.
    """
    best = np.zeros(len(item_ids), dtype=np.int64)
    if len(nodes) < 2:
        return best
    most = _hashes(item_ids, nodes[0])
    for at, node in enumerate(nodes[1:], 1):
        hashes = _hashes(item_ids, node)
        is_more = hashes > most
        best[is_more], most[is_more] = at, hashes[is_more]
    return best


def _hashes(item_ids: Ids, node: str) -> npt.NDArray[np.uint64]:
    seed = np.uint64(int.from_bytes(blake2b(node.encode(), digest_size=8).digest(), "little"))
    mixed = item_ids.astype(np.int64).view(np.uint64) ^ seed
    for shift, factor in zip((30, 27), _MIX, strict=True):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * factor
    return mixed ^ (mixed >> np.uint64(31))


@dataclass(frozen=True)
class IndexPlacement:
    """The nodes of an index, each `host:port`. `coming` are the nodes to which items are being moved, `moved`
    how many steps of that are done; `leaving` are nodes that may hold items which lie elsewhere by now."""

    nodes: tuple[str, ...]
    coming: tuple[str, ...] = ()
    leaving: tuple[str, ...] = ()
    moved: int = 0

    def encode(self) -> bytes:
        """Packs it as JSON."""
        content = {"nodes": self.nodes, "coming": self.coming, "leaving": self.leaving, "moved": self.moved}
        return json.dumps(content).encode()

    @classmethod
    def decode(cls, value: bytes) -> IndexPlacement:
        """Unpacks `encode`.

        Raises:
            ValueError: it is something else.
        """
        try:
            content = json.loads(value)
            nodes, coming, leaving = (
                tuple(map(str, content[name])) for name in ("nodes", "coming", "leaving")
            )
            return cls(nodes, coming, leaving, int(content["moved"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"no placement of an index: {error!r}") from None

    @cached_property
    def written(self) -> tuple[str, ...]:
        """The nodes that take what changes."""
        return tuple(dict.fromkeys((*self.nodes, *self.coming)))

    @cached_property
    def all(self) -> tuple[str, ...]:
        """Every node that may hold something."""
        return tuple(dict.fromkeys((*self.written, *self.leaving)))

    def holds(self, node: str, item_ids: Ids) -> Bools:
        """Marks the items (I,) that a node holds, or is about to."""
        held = np.zeros(len(item_ids), dtype=np.bool_)
        for nodes in (self.nodes, self.coming):
            if node in nodes:
                held |= owners(item_ids, nodes) == nodes.index(node)
        return held
