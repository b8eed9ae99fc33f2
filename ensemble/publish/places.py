"""Where a bundle's index is written: beside everything else, or spread over nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from redis import Redis
from redis.exceptions import RedisError

from contract.arrays import Ids
from contract.bundle import ITEM_IDS_FILE, Manifest
from contract.environment import explain_redis
from contract.keys import index_nodes_key, item_vector_prefix
from contract.placement import IndexPlacement
from ensemble.stores.index_watch import by_name
from ensemble.stores.nodes import NodeClients, read_placement
from ensemble.stores.vectors import VECTOR_FIELD

SETTING = "SHORTLIST_INDEX_NODES"


class NodeFault(RuntimeError):
    """Names a node, says what is wrong with it, and what to do."""


@contextmanager
def named(address: str) -> Iterator[None]:
    """Names the node that failed.

    Raises:
        NodeFault: in the place of Redis' error.
    """
    try:
        yield
    except RedisError as error:
        message = explain_redis(error, f"start it, or leave it out of {SETTING}")
        raise NodeFault(f"index node {address}: {message}") from error


def check_nodes(clients: NodeClients, nodes: Sequence[str]) -> None:
    """Looks at each node before anything is written.

    Raises:
        NodeFault: one is away, lacks the search module, or is another one by a second name.
    """
    home: Any = clients.redis
    names: dict[str, str] = {home.info("server")["run_id"]: clients.home}
    for node in nodes:
        with named(node):
            redis: Any = clients.of(node)
            who = redis.info("server")["run_id"]
            modules = {by_name(one).get("name") for one in redis.module_list()}
        if modules.isdisjoint(("search", b"search")):
            raise NodeFault(f"index node {node}: has no search module; start it with the module")
        if names.get(who, node) != node:
            raise NodeFault(f"index node {node}: is {names[who]} by another name; name it once in {SETTING}")
        names[who] = node


class Places:
    """One bundle's index on its nodes; `home` is the Redis that holds everything else.

    A node has the hashes of its items, vector and filter columns. Home has the filter columns of every item,
    which the gateway reads, and the vectors of its own items where it is a node itself.
    """

    def __init__(
        self, clients: NodeClients, manifest: Manifest, item_ids: Ids, placement: IndexPlacement
    ) -> None:
        """Takes the bundle's manifest and the ids of its items (I,)."""
        self.clients, self.manifest, self.item_ids, self.placement = clients, manifest, item_ids, placement

    @classmethod
    def found(cls, clients: NodeClients, folder: Path, manifest: Manifest) -> Places:
        """Reads where the index of the bundle in a folder lies."""
        ids = np.load(folder / ITEM_IDS_FILE, allow_pickle=False)
        return cls(clients, manifest, ids, placement_of(clients, manifest.bundle))

    @property
    def home(self) -> Redis:
        """The Redis that holds everything else."""
        return self.clients.redis

    @property
    def is_alone(self) -> bool:
        """Whether the index lies at home alone, and nothing is being moved."""
        return self.placement.all == (self.clients.home,)

    def put(self, placement: IndexPlacement) -> None:
        """Says in Redis where the index lies; of one that lies at home alone nothing is said."""
        self.placement, key = placement, index_nodes_key(self.manifest.bundle)
        if self.is_alone:
            self.home.delete(key)
        else:
            self.home.set(key, placement.encode())

    def whole(self, node: str) -> int:
        """Counts the items of the bundle that a node's index holds where none is missing."""
        if node == self.clients.home and self.manifest.filters:
            return len(self.item_ids)
        return int(self.placement.holds(node, self.item_ids).sum())

    def write(self, pipe: Any, fields: Mapping[int, Mapping[Any, Any]]) -> None:
        """Writes the whole hashes of items to their nodes, and adds to a pipeline what home has of them.

        Raises:
            NodeFault: a node does not take them.
        """
        ids = np.fromiter(fields, np.int64, len(fields))
        prefix, home = item_vector_prefix(self.manifest.bundle), self.clients.home
        is_at_home = self.placement.holds(home, ids)
        for item_id, is_whole in zip(fields, is_at_home.tolist(), strict=True):
            home_fields = {
                name: value for name, value in fields[item_id].items() if is_whole or name != VECTOR_FIELD
            }
            if home_fields:
                pipe.hset(f"{prefix}{item_id}", mapping=home_fields)
        for node in self.placement.written:
            if node != home:
                of_node = self.clients.of(node).pipeline(transaction=False)
                for item_id in ids[self.placement.holds(node, ids)].tolist():
                    of_node.hset(f"{prefix}{item_id}", mapping=fields[item_id])
                with named(node):
                    of_node.execute()


def placement_of(clients: NodeClients, bundle: str) -> IndexPlacement:
    """Reads where a bundle's index lies.

    Raises:
        NodeFault: what is said of it cannot be read.
    """
    try:
        return read_placement(clients.redis, bundle, clients.home)
    except ValueError as error:
        raise NodeFault(f"{index_nodes_key(bundle)}: {error}; delete it and run `make export`") from None
