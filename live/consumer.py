"""Reads the streams and gives each entry its effect once, whatever dies in between."""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from redis import Redis
from redis.exceptions import RedisError, ResponseError, WatchError

from contract.environment import explain_redis
from contract.events import ARCHIVE_GROUP, GROUP
from contract.keys import stream_lease_key
from live.beside import Beside
from live.handler import Handler
from live.leases import Leases
from live.settings import LiveSettings
from live.streams import Entry, Position, after, entries_of, groups_of, parts_of, positions_of, set_position
from live.transaction import Transaction

BLOCK_MS = 250
"""Milliseconds that streams without entries are waited for at a time: leases are tended in between."""
AGAIN_S = 0.5
"""Seconds until Redis is asked again after it failed."""
MOST_BYTES = 256 * 1024
"""Bytes of the entries of a transaction that has several: a change may put hundreds of items, and what takes
longer than the lease fails, and begins anew, for ever. Some 1,500 items, a tenth of a millisecond each."""
MERGE_S = 60.0
"""Seconds between two looks for hours of the archive to merge."""


class Consumer:
    """One of those who work on the streams of a data set's handlers.

    A stream is one consumer's at a time. What an entry changes and the position behind it are committed in
    one transaction, which fails where another took the stream: so an entry has its effect once, in order.
    """

    def __init__(
        self,
        redis: Redis,
        dataset: str,
        handlers: Sequence[Handler],
        settings: LiveSettings,
        say: Callable[[str], None],
    ) -> None:
        self._redis: Any = redis
        self._settings, self._say = settings, say
        self._all = handlers
        self._handlers = {stream: handler for handler in handlers for stream in handler.streams}
        self.leases = Leases(redis, dataset, list(self._handlers), settings.lease_s)
        self.block_ms = BLOCK_MS
        self._positions: dict[str, Position] = {}
        self._archived_s: dict[str, float] = {}
        self._merged_s = time.monotonic()
        self._merger = Beside("merger", say)

    def keep(self, stop: threading.Event) -> None:
        """Works until told to stop; a Redis that fails is said once, and asked again."""
        problem = ""
        while not stop.is_set():
            try:
                self.step()
                problem = ""
            except RedisError as error:
                # What was asked may have been done or not: positions are read anew before anything else is.
                self.leases.lose()
                if (message := explain_redis(error)) != problem:
                    self._say(f"Redis: {message}; trying again")
                    problem = message
                stop.wait(AGAIN_S)
        self.leases.release()

    def step(self) -> int:
        """Does what there is to do, waiting `block_ms` at most for something; gives the number of entries."""
        began_s = time.monotonic()
        for stream in self.leases.tend():
            self._positions[stream] = groups_of(self._redis, stream)[GROUP]
            # One that is taken again, as after each failure, is due when it was: a full Redis waits for it.
            spread = random.random() * self._settings.archive_s
            self._archived_s.setdefault(stream, time.monotonic() - spread)
        self._archive_due()  # first: where Redis is full it makes room
        entries = self._read()
        for handler in self._all:
            mine = [entry for entry in entries if self._handlers[entry.stream] is handler]
            for few in parts_of(mine, self._settings.most_entries, MOST_BYTES):
                if held := [entry for entry in few if entry.stream in self.leases.held]:
                    self._apply(handler, held)
        left_s = self._settings.linger_ms / 1000 - (time.monotonic() - began_s)
        if entries and left_s > 0:
            time.sleep(left_s)
        return len(entries)

    def _read(self) -> list[Entry]:
        held = {stream: self._positions[stream].last for stream in self.leases.held}
        if not held:
            time.sleep(self.block_ms / 1000)
            return []
        found = self._redis.xread(held, count=self._settings.most_entries, block=self.block_ms)
        return [one for stream, some in found for one in entries_of(stream.decode(), some)]

    def _apply(self, handler: Handler, entries: Sequence[Entry]) -> None:
        """Commits what these entries of one handler change, and the positions behind them."""
        counts: dict[str, int] = defaultdict(int)
        last: dict[str, str] = {}
        for entry in entries:
            counts[entry.stream] += 1
            last[entry.stream] = entry.entry_id
        while counts:
            with Transaction(self._redis) as transaction:
                lost = self._lost(transaction, {stream: self._positions[stream] for stream in counts}, GROUP)
                if lost:
                    self.leases.lose(lost)
                    for stream in lost:
                        del counts[stream]
                    entries = [entry for entry in entries if entry.stream in counts]
                    continue
                behind = {
                    stream: Position(last[stream], self._positions[stream].read + count)
                    for stream, count in counts.items()
                }
                handler.apply(entries, transaction)
                for stream, position in behind.items():
                    set_position(transaction, stream, GROUP, position)
                    if handler.archive is None:
                        set_position(transaction, stream, ARCHIVE_GROUP, position)
                        transaction.write("XTRIM", stream, "MINID", after(position.last))
                try:
                    transaction.commit()
                except WatchError:
                    continue  # somebody wrote what was read: all of it anew
            self._positions |= behind
            return

    def _lost(self, transaction: Transaction, positions: Mapping[str, Position], group: str) -> list[str]:
        """Lists the streams that are no longer this consumer's, or not where it believes; watches the others'
        leases, so that the commit fails where one changes hands."""
        leases = [stream_lease_key(stream) for stream in positions]
        tokens = transaction.read([("GET", key) for key in leases])
        replies = transaction.ask([("XINFO GROUPS", stream) for stream in positions])
        token = self.leases.token.encode()
        return [
            stream
            for (stream, position), holder, groups in zip(positions.items(), tokens, replies, strict=True)
            if holder != token or positions_of(groups).get(group) != position
        ]

    def _archive_due(self) -> None:
        """Writes to the archive what has waited for long, of one stream at a time."""
        now_s = time.monotonic()
        for stream in sorted(self.leases.held, key=lambda one: self._archived_s[one]):
            if now_s - self._archived_s[stream] < self._settings.archive_s:
                break
            self._archived_s[stream] = now_s
            if self.archive(stream) == self._settings.archive_entries:
                self._archived_s[stream] -= self._settings.archive_s  # there is more
            return
        if now_s - self._merged_s > MERGE_S:
            self._merged_s = now_s
            for handler in self._all:
                if handler.archive is not None and handler.streams[0] in self.leases.held:
                    fault = f"{handler.archive.folder}: files of an hour that is over are not merged"
                    self._merger.do(partial(handler.archive.merge, time.time()), fault)

    def archive(self, stream: str) -> int:
        """Writes a file of what had its effect and is in none yet, then takes it out of the stream; gives the
        number of entries."""
        archive = self._handlers[stream].archive
        if archive is None:
            return 0
        groups = positions_of(self._redis.xinfo_groups(stream))
        start, end = groups[ARCHIVE_GROUP], groups[GROUP]
        most = self._settings.archive_entries
        found = self._redis.xrange(stream, f"({start.last}", end.last, count=most) if start != end else []
        entries = entries_of(stream, found)
        if not entries:
            return 0
        archive.write(entries)
        with Transaction(self._redis) as transaction:
            if self._lost(transaction, {stream: start}, ARCHIVE_GROUP):
                self.leases.lose([stream])
                return 0
            position = Position(entries[-1].entry_id, start.read + len(entries))
            set_position(transaction, stream, ARCHIVE_GROUP, position)
            transaction.write("XTRIM", stream, "MINID", after(position.last))
            try:
                transaction.commit()
            except (WatchError, ResponseError):
                self.leases.lose([stream])
                return 0
        archive.settle(entries)
        return len(entries)
