"""The nodes that hold a bundle's index: which they are, which answer, and one question to all at once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from redis import Redis
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from contract.arrays import Ids
from contract.environment import RedisUrl
from contract.keys import index_nodes_key
from contract.placement import IndexPlacement, owners
from ensemble.stores.client import CountedRedis, connect
from ensemble.stores.index_watch import LOOK_MS, IndexWatch

LOG = logging.getLogger(__name__)
ALL_LATE_S = 1.0
"""A node is left out once no answer of it has come in time for so long: a busy one is late at times."""
STALE_S = 10.0
"""Seconds after which what was read of the placement counts for nothing: items may lie elsewhere by now."""
Replies = list[Any]


class NodeClients:
    """A client for each node; one for the node that holds everything else as well is the one given."""

    def __init__(self, redis: Redis, url: RedisUrl, timeout_ms: float) -> None:
        """Takes the client of that Redis, its URL, by which the others are entered too, and how long they are
        waited for."""
        self.redis, self.url, self.timeout_ms = redis, url, timeout_ms
        self._known: dict[str, Redis] = {}

    @property
    def home(self) -> str:
        """The address of the Redis that holds everything else."""
        return self.url.address

    def of(self, address: str, on_connect: Callable[[], None] | None = None) -> Redis:
        """Gives a node's client, the same each time."""
        if address == self.home:
            return self.redis
        if address not in self._known:
            self._known[address] = connect(self.url.at(address), self.timeout_ms, on_connect)
        return self._known[address]


def read_placement(redis: Redis, bundle: str, home: str) -> IndexPlacement:
    """Reads where a bundle's index lies: where nothing is said, at home alone.

    Raises:
        ValueError: what is said cannot be read.
    """
    value: Any = redis.get(index_nodes_key(bundle))
    return IndexPlacement((home,)) if value is None else IndexPlacement.decode(value)


class Node:
    """One node as a search sees it. One that fails is not asked again before the watch, which looks beside
    the requests, has had an answer of it."""

    def __init__(
        self, address: str, redis: Redis, watch: IndexWatch, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Takes the client of the searches, and the watch of what the node holds."""
        self.address, self.redis, self.watch = address, redis, watch
        self.items = watch.items
        """Items that it is asked for; home knows of others as well."""
        self.is_away = self._has_failed = False
        self._clock, self._in_time_s = clock, clock()

    @property
    def is_whole(self) -> bool:
        """Whether every item of the node can be found, as far as is known."""
        return not self._has_failed and self.watch.is_whole

    def answered(self) -> None:
        """Notes an answer in time."""
        self._in_time_s = self._clock()

    def failed(self, error: Exception) -> None:
        """Notes that none came: it has to be looked at, and is not asked meanwhile, unless it was merely
        late."""
        self._has_failed = True
        self.watch.doubt()
        is_late = isinstance(error, RedisTimeoutError) and self._clock() - self._in_time_s < ALL_LATE_S
        if not is_late and not self.is_away:
            LOG.warning("index node %s is left out: %s", self.address, error)
            self.is_away = True

    def meet(self) -> None:
        """Connects to it, which puts its index in doubt, and looks before it is asked."""
        self._has_failed = True
        self.look()

    def look(self) -> None:
        """Looks whether it answers again, then at what it holds."""
        if self._has_failed:
            try:
                self.redis.ping()
            except (RedisError, OSError):
                self.is_away = True
                return
            if self.is_away:
                LOG.info("index node %s answers again", self.address)
            self._has_failed = self.is_away = False
            self.answered()
        self.watch.look()


def ask_all(
    nodes: Sequence[Node], commands: Sequence[tuple[Any, ...]], timeout_s: float
) -> list[Replies | Exception]:
    """Sends the same commands to all nodes, then reads: they work at the same time. Gives of each its
    replies, or why there are none."""
    packed: list[bytes] | None = None
    sent: list[Any] = []
    for node in nodes:
        pool = node.redis.connection_pool
        connection: Any = None
        try:
            connection = pool.get_connection("FT.SEARCH")
            packed = connection.pack_commands(commands) if packed is None else packed
            connection.send_packed_command(packed)
            sent.append(connection)
        except (RedisError, OSError) as error:
            if connection is not None:
                connection.disconnect()
                pool.release(connection)
            sent.append(error)
    until_s = time.perf_counter() + timeout_s
    return [_replies(*pair, len(commands), until_s) for pair in zip(nodes, sent, strict=True)]


def _replies(node: Node, connection: Any, count: int, until_s: float) -> Replies | Exception:
    if isinstance(connection, Exception):
        return connection
    try:
        if not connection.can_read(timeout=max(0.0, until_s - time.perf_counter())):
            raise RedisTimeoutError("no reply in time")
        return [connection.read_response() for _ in range(count)]
    except ResponseError as error:  # the replies to the other commands are still to come
        connection.disconnect()
        return error
    except (RedisError, OSError) as error:
        connection.disconnect()
        return error
    finally:
        node.redis.connection_pool.release(connection)


class IndexNodes:
    """The nodes of a bundle's index, as the record in Redis says, followed while it changes. As a whole it is
    watched as one index is: `is_whole`, `share`, `found`, `doubt`, `look`."""

    def __init__(
        self,
        redis: CountedRedis,
        url: RedisUrl,
        bundle: str,
        item_ids: Ids,
        watch: IndexWatch,
        timeout_ms: float,
        has_columns: bool = True,
    ) -> None:
        """Takes the requests' client, the URL behind it, the bundle and its items' ids, the watch of the
        index there, how long a node is waited for, and whether the items have filter columns, which stay at
        home."""
        self.redis, self.bundle, self.item_ids, self.watch = redis, bundle, item_ids, watch
        self.timeout_s, self._has_columns = timeout_ms / 1000, has_columns
        self._clients = NodeClients(redis, url, timeout_ms)
        self._home = Node(url.address, redis, watch)
        self._nodes: dict[str, Node] = {url.address: self._home}
        self._placement: IndexPlacement | None = None
        self._followed_s = 0.0
        self.current: tuple[Node, ...] = ()
        """The nodes that are asked; none before the record was read."""

    @property
    def is_alone(self) -> bool:
        """Whether there is one node, that of everything else, or none is known."""
        return self.current in ((), (self._home,))

    @property
    def is_whole(self) -> bool:
        """Whether every item can be found; asked before and after each search."""
        if self.is_alone:
            return self.watch.is_whole
        is_fresh = time.monotonic() - self._followed_s < STALE_S and not self.watch.is_evicting
        return is_fresh and all(node.is_whole for node in self.current)

    @property
    def found(self) -> int:
        """Items that the nodes held at the last look."""
        if self.is_alone:
            return self.watch.found
        return round(sum(node.watch.share * node.items for node in self.current if not node.is_away))

    @property
    def share(self) -> float:
        """The part of the items that the nodes held at the last look, 0 to 1; of one that is away, none."""
        if self.is_alone:
            return self.watch.share
        return self.found / max(1, len(self.item_ids))

    @property
    def away(self) -> tuple[str, ...]:
        """The nodes that are not asked now."""
        return tuple(node.address for node in self.current if node.is_away)

    def doubt(self) -> None:
        """Takes back that any is whole."""
        for node in self.current or (self._home,):
            node.watch.doubt()

    def look(self) -> None:
        """Follows the record, then looks at each node."""
        try:
            self.follow(self.watch.redis)
        except (RedisError, OSError) as error:
            LOG.warning("where the index lies was not read: %s", error)
        nodes = self.current or (self._home,)
        if self._home not in nodes:
            self.watch.look_for_evictions()
        for node in nodes:
            node.look()

    def follow(self, redis: Redis) -> None:
        """Takes over which nodes are asked.

        Raises:
            RedisError: Redis does not answer.
        """
        began_s = time.monotonic()
        try:
            placement = read_placement(redis, self.bundle, self._home.address)
        except ValueError as error:
            LOG.error("%s: %s; run `make export`", index_nodes_key(self.bundle), error)
            return
        if self._placement is None or placement.nodes != self._placement.nodes:
            lies = owners(self.item_ids, placement.nodes)
            current = tuple(
                self._node(address, int(np.count_nonzero(lies == at)))
                for at, address in enumerate(placement.nodes)
            )
            for node in current:
                if node not in self.current and (self.current or node is not self._home):
                    node.meet()
            self.current = current
            LOG.info("the index lies on %s", ", ".join(placement.nodes))
        self._placement, self._followed_s = placement, began_s

    def _node(self, address: str, own: int) -> Node:
        """Gives a node, which is asked for so many items."""
        is_home = address == self._home.address
        items = len(self.item_ids) if is_home and self._has_columns else own
        if address not in self._nodes:
            watched = connect(self._clients.url.at(address), LOOK_MS)
            watch = IndexWatch(watched, self.bundle, items)
            redis = self._clients.of(address, watch.doubt)
            self._nodes[address] = Node(address, redis, watch)
        node = self._nodes[address]
        node.items = own
        if node.watch.items != items:  # who moved them has seen that they are there
            node.watch.items, node.watch.found = items, max(node.watch.found, items)
        return node
