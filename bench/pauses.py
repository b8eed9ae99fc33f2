"""When the machine itself stood still: instants at which none of its cores ran what was due on it.

A virtual machine is stopped now and then by its host, for tens of milliseconds. Whoever is measured then is
late through no doing of its own; without this, a 99th percentile says more of the host than of the service.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

STEP_S = 0.002
"""Between two looks at the clock; costs a thousandth of a core each."""
LEAST_S = 0.01
PRIORITY = 50
"""Of the system's real-time class: ahead of every ordinary process, so that only the machine delays it."""
Span = tuple[float, float]


@dataclass(frozen=True)
class Pauses:
    """Begin and end of each, in seconds of `time.perf_counter`; none is known where nobody may look so
    closely."""

    spans: tuple[Span, ...] = ()
    is_known: bool = False

    @property
    def longest_ms(self) -> float:
        """The longest one, milliseconds."""
        return max(((end - begin) * 1e3 for begin, end in self.spans), default=0.0)

    def touch(self, begin: float, end: float) -> bool:
        """Whether one of them lies in a span, in part or whole."""
        return any(pause_begin < end and begin < pause_end for pause_begin, pause_end in self.spans)


def in_common(spans: Iterable[Sequence[Span]]) -> tuple[Span, ...]:
    """Gives when every core stood still, from when each did; spans of a core ascend and do not overlap."""
    cores = iter(spans)
    common = list(next(cores, ()))
    for core in cores:
        both = [(max(a, c), min(b, d)) for a, b in common for c, d in core]
        common = [(begin, end) for begin, end in both if end - begin >= LEAST_S]
    return tuple(common)


@contextmanager
def watched_pauses() -> Iterator[list[Pauses]]:
    """Watches each core while the body runs; then the list holds what was found."""
    found: list[Pauses] = []
    watchers: list[tuple[SpawnProcess, Connection[Any, Any]]] = []
    context = multiprocessing.get_context("spawn")
    for core in sorted(os.sched_getaffinity(0)):
        ours, theirs = context.Pipe()
        watcher = context.Process(target=_watch, args=(core, theirs), daemon=True)
        watcher.start()
        watchers.append((watcher, ours))
    is_known = all([ours.recv() for _, ours in watchers])
    try:
        yield found
    finally:
        for _, ours in watchers:
            ours.send(None)
        spans = [ours.recv() for _, ours in watchers]
        for watcher, _ in watchers:
            watcher.join()
        found.append(Pauses(in_common(spans), True) if is_known else Pauses())


def _watch(core: int, connection: Connection[Any, Any]) -> None:
    """Notes when this core did not come back in time; says first whether it may look so closely."""
    os.sched_setaffinity(0, {core})
    is_ahead = False
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
        is_ahead = True
    connection.send(is_ahead)
    spans: list[Span] = []
    last = time.perf_counter()
    while not connection.poll():
        time.sleep(STEP_S)
        now = time.perf_counter()
        if now - last - STEP_S >= LEAST_S:
            spans.append((last + STEP_S, now))
        last = now
    connection.send(spans)
