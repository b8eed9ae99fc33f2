"""Reads, then writes all or nothing: nothing at all where somebody changed meanwhile what was read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any

from redis import Redis

Key = str | bytes
Command = tuple[Any, ...]


class Transaction:
    """Redis' WATCH, MULTI and EXEC. Used within a `with`; `commit` may be called once, at its end."""

    def __init__(self, redis: Redis) -> None:
        self.redis: Any = redis
        self._pipe: Any = redis.pipeline(transaction=True)
        self._writes: list[Command] = []
        self._then: list[Callable[[], object]] = []

    def __enter__(self) -> Transaction:
        """Begins."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves out what was not committed."""
        self._pipe.reset()

    def watch(self, keys: Iterable[Key]) -> None:
        """Lets `commit` fail where one of these changes from now on."""
        if known := list(keys):
            self._pipe.watch(*known)

    def read(self, commands: Sequence[Command]) -> list[Any]:
        """Asks all of this in one round trip; the second word of each is its key, which is watched before."""
        self.watch(dict.fromkeys(command[1] for command in commands))
        return self.ask(commands)

    def ask(self, commands: Sequence[Command]) -> list[Any]:
        """As `read`, of what may change meanwhile."""
        pipe: Any = self.redis.pipeline(transaction=False)
        for command in commands:
            pipe.execute_command(*command)
        replies: list[Any] = pipe.execute()
        return replies

    def write(self, *command: Any) -> None:
        """Adds a command to what will be written."""
        self._writes.append(command)

    def then(self, do: Callable[[], object]) -> None:
        """Adds what is to be done once all is written; nothing where it is not."""
        self._then.append(do)

    def commit(self) -> list[Any]:
        """Writes everything, does what comes then, gives the replies.

        Raises:
            WatchError: what was read has changed; nothing is written.
        """
        self._pipe.multi()
        for command in self._writes:
            self._pipe.execute_command(*command)
        replies: list[Any] = self._pipe.execute()
        for do in self._then:
            do()
        return replies
