"""Runs a design's series, closed and open loop, and records what each cost: time, CPU and memory."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from bench.designs import Design
from bench.load.traffic import Run
from bench.pauses import Pauses, watched_pauses
from bench.processes import STUB_OF, Used, by_kind, used
from bench.record import Record, say
from bench.replies import ANSWERED, Kind, why_failed
from bench.servers import BenchError

CLOSED, OPEN = "Closed loop", "Open loop"
CPU, MEMORY, STUBS = "CPU by process", "Memory by process", "Processes of the other designs' models"
CLIENTS = (1, 4, 16, 64)
SHARES = (0.5, 0.8, 1.2)
GENERATOR = "generator"
COMPARED_AT = 16
"""The number of clients at which designs are compared, as the published figures are."""


@dataclass(frozen=True)
class Plan:
    """How long each series takes: clients -> seconds of the closed loop, seconds of each open loop."""

    closed: Mapping[int, float] = field(default_factory=lambda: dict.fromkeys(CLIENTS, 8.0))
    open_s: float = 8.0
    shares: tuple[float, ...] = SHARES
    warm_s: float = 2.0


@dataclass(frozen=True)
class Measured:
    """A series, judged: its exchanges, what they were, and the design's cost by process."""

    run: Run
    kinds: Counter[Kind]
    latency_ms: tuple[float, ...]
    full_latency_ms: tuple[float, ...]
    cpu_s: dict[str, float]
    after: Used
    pauses: Pauses = field(default_factory=Pauses)
    unpaused_latency_ms: tuple[float, ...] = ()
    """Of the answers that were not under way while the machine stood still."""

    @property
    def answers(self) -> int:
        """Requests that were answered, whatever with."""
        return sum(self.kinds[kind] for kind in ANSWERED)

    @property
    def answers_per_s(self) -> float:
        """Answers until the last one came."""
        return self.answers / self.run.seconds

    @property
    def full_per_s(self) -> float:
        """Full answers until the last one came."""
        return self.kinds[Kind.FULL] / self.run.seconds

    @property
    def cpu_ms(self) -> float:
        """Milliseconds of CPU per answer of all the design's processes, Redis among them; the generator's
        apart."""
        servers_s = sum(cpu for kind, cpu in self.cpu_s.items() if kind != GENERATOR)
        return 1e3 * servers_s / self.answers if self.answers else 0.0

    def figures(self) -> dict[str, float]:
        """What the tables show."""
        if not self.latency_ms:
            raise BenchError(f"no answer at all: {why_failed(self.run.exchanges)}")
        p50, p95, p99 = np.percentile(self.latency_ms, [50, 95, 99])
        result = {"answers_per_s": self.answers_per_s, "full_per_s": self.full_per_s}
        result |= {"cpu_ms_per_answer": self.cpu_ms}
        result |= {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "max_ms": max(self.latency_ms)}
        if 0 < len(self.full_latency_ms) < len(self.latency_ms):
            result["full_p99_ms"] = float(np.percentile(self.full_latency_ms, 99))
        if self.pauses.is_known and self.unpaused_latency_ms:
            result |= {"pauses": len(self.pauses.spans), "longest_pause_ms": self.pauses.longest_ms}
            result["unpaused_p99_ms"] = float(np.percentile(self.unpaused_latency_ms, 99))
        return result | {
            kind.value: self.kinds[kind] for kind in Kind if self.kinds[kind] or kind is Kind.FULL
        }


def measured(design: Design, load: Callable[[], Run]) -> Measured:
    """Runs one series and judges its replies after the clock.

    Raises:
        BenchError: an answer is wrong.
    """
    before = used(design.processes)
    with watched_pauses() as found:
        run = load()
    after = used(design.processes)
    pauses, begun = found[0], run.started_s
    kinds = [design.judge(exchange) for exchange in run.exchanges]
    judged = list(zip(run.exchanges, kinds, strict=True))
    answered = tuple(exchange.latency_ms for exchange, kind in judged if kind in ANSWERED)
    full = tuple(exchange.latency_ms for exchange, kind in judged if kind is Kind.FULL)
    unpaused = tuple(
        one.latency_ms
        for one, kind in judged
        if kind in ANSWERED and not pauses.touch(begun + one.due_s, begun + one.done_s)
    )
    cpu_s = {kind: after.cpu_s[kind] - before.cpu_s[kind] for kind in before.cpu_s}
    cpu_s[GENERATOR] = run.cpu_s
    return Measured(run, Counter(kinds), answered, full, cpu_s, after, pauses, unpaused)


def closed_series(
    record: Record, design: Design, plan: Plan, beside: Callable[[], None] = lambda: None
) -> dict[int, Measured]:
    """Measures the closed loops of a design; `beside` runs before and after the one that is compared."""
    done = {}
    for clients, duration_s in plan.closed.items():
        calm(design, plan)
        say(f"{design.name}: {clients} clients for {duration_s:g} s")
        if clients == COMPARED_AT:
            beside()
        one = measured(design, partial(design.caller.closed, clients, duration_s, seed=clients))
        if clients == COMPARED_AT:
            beside()
        done[clients] = one
        labels = {"design": design.name, "clients": clients}
        record.add(CLOSED, _name(design, clients), one.figures(), _why(one), labels)
        add_cpu(record, design, clients, one)
    memory = done[max(done)].after.memory_mib
    figures = by_kind(memory) | {"total": sum(memory.values())}
    record.add(MEMORY, design.name, figures, labels={"design": design.name})
    add_stubs(record, design, done[COMPARED_AT], memory)
    return done


def calm(design: Design, plan: Plan) -> None:
    """Lets a design warm up, or recover from the series before, with one client."""
    design.caller.closed(1, plan.warm_s, seed=99)


def capacity_of(closed: Mapping[int, Measured]) -> float:
    """The most full answers per second of the closed loops.

    Raises:
        BenchError: there was none.
    """
    capacity = max(one.full_per_s for one in closed.values())
    if not capacity:
        raise BenchError("no answer was full, so there is no capacity to take shares of")
    return capacity


def open_series(record: Record, design: Design, plan: Plan, capacity: float) -> dict[float, Measured]:
    """Measures the open loops of a design, at shares of a capacity in requests per second."""
    done = {}
    for share in plan.shares:
        calm(design, plan)
        rate = share * capacity
        say(f"{design.name}: {rate:.0f} requests per second for {plan.open_s:g} s")
        one = measured(design, partial(design.caller.open, rate, plan.open_s, seed=int(100 * share)))
        done[share] = one
        labels = {"design": design.name, "share": share}
        due = {"due": len(one.run.exchanges), "due_per_s": len(one.run.exchanges) / plan.open_s}
        figures = due | one.figures()
        record.add(OPEN, f"{design.name}, {share:.0%}", figures, _why(one), labels)
    return done


def add_cpu(record: Record, design: Design, clients: int, one: Measured) -> None:
    """Records milliseconds of CPU per answer by process, and the generator's share of all cores."""
    per_answer = {"all_servers_ms": one.cpu_ms}
    per_answer |= {f"{kind}_ms": 1e3 * cpu / one.answers for kind, cpu in by_kind(one.cpu_s).items()}
    share = 100 * one.run.cpu_s / one.run.seconds / (os.cpu_count() or 1)
    figures = per_answer | {"generator_percent_of_all_cores": share}
    record.add(CPU, _name(design, clients), figures, labels={"design": design.name, "clients": clients})


def add_stubs(record: Record, design: Design, one: Measured, memory: Mapping[str, float]) -> None:
    """Records each model's process, where a design has more than one."""
    stubs = [kind for kind in one.cpu_s if kind.startswith(STUB_OF)]
    for kind in stubs if len(stubs) > 1 else ():
        figures = {"cpu_ms_per_answer": 1e3 * one.cpu_s[kind] / one.answers, "memory_mib": memory[kind]}
        name = f"{design.name}, {kind.removeprefix(STUB_OF)}"
        record.add(STUBS, name, figures, labels={"design": design.name})


def _name(design: Design, clients: int) -> str:
    return f"{design.name}, {clients} client{'s' if clients > 1 else ''}"


def _why(one: Measured) -> str:
    return f"failed: {reason}" if (reason := why_failed(one.run.exchanges)) else ""
