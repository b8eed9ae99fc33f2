"""Says on paper what a hundred million items need, from what was measured.

Whoever measures again changes a figure here and runs `python -m bench.scale.paper`: it writes the
steps and their sums into `docs/growth.md`, so that none is left as it was. Steps are rounded as on paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from contract.marked import put_between
from deploy.local.settings import ROOT

MARKS = "paper"
PAGE = ROOT / "docs" / "growth.md"


@dataclass(frozen=True)
class Measured:
    """Figures of this repository's own runs: milliseconds of CPU, bytes."""

    model_ms: float = 2.23  # per answer at 16 clients and a million items, growth.md; so the next two
    tritonserver_ms: float = 0.16
    gateway_ms: float = 0.68
    user_reads_ms: float = 0.15  # of Redis, the features and seen items of one user
    search_ms: float = 0.5  # assumed of 29 among 12.5 million; 0.46 were measured of 100 among a million
    index_ms: float = 0.5  # per item that is added to the graph
    user_feature_bytes: int = 304  # keys of Redis, as MEMORY USAGE tells them; so all below
    seen_bytes: int = 103
    vector_bytes: int = 864
    graph_bytes: int = 869
    card_bytes: int = 87
    item_feature_bytes: int = 358
    waste: float = 1.11  # what the allocator takes for a byte of a key: 810 MiB for a million times 765 bytes


@dataclass(frozen=True)
class Assumed:
    """What is asked for, and what it costs; prices are assumptions, not offers."""

    millions: int = 100  # of items, and of users
    per_s: int = 50_000
    share: float = 0.6  # of a core that a process may take
    copies: int = 2
    shards: int = 8
    k: int = 100
    machine_cores: int = 16
    machine_gb: int = 32
    core_hour: float = 0.04  # dollars
    gb_hour: float = 0.005
    hours: int = 730  # of a month

    def dollars(self, cores: int, gb: int) -> tuple[int, int]:
        """Gives what cores and memory cost a month."""
        return round(cores * self.core_hour * self.hours), round(gb * self.gb_hour * self.hours)


@dataclass(frozen=True)
class Part:
    """One row of the bill."""

    name: str
    cores: int
    gb: int

    def line(self, a: Assumed) -> str:
        """Writes it as a row of the table."""
        of_cores, of_gb = a.dollars(self.cores, self.gb)
        return f"| {self.name} | {self.cores:,} | {self.gb:,} | {of_cores:,} + {of_gb:,} |"


def missed(k: int, shards: int, wanted: int) -> float:
    """Gives the chance that one shard or more holds over `wanted` of the `k` nearest, at most: binomial."""
    p = 1 / shards
    over = sum(math.comb(k, found) * p**found * (1 - p) ** (k - found) for found in range(wanted + 1, k + 1))
    return shards * over


def steps(m: Measured, a: Assumed) -> tuple[list[tuple[str, str, str]], list[Part]]:
    """Gives each step, how it is computed and what comes out; and the parts of the bill: answering, users,
    items with a process per copy, items with threads."""
    busy = round((m.model_ms + m.tritonserver_ms + m.gateway_ms) * a.per_s / 1e3)
    machines = math.ceil(busy / a.share / a.machine_cores)
    user_gb = round((m.user_feature_bytes + m.seen_bytes) * m.waste * a.millions / 1e3)
    readers = math.ceil(m.user_reads_ms * a.per_s / 1e3 / a.share)
    item_bytes = m.vector_bytes + m.graph_bytes + m.card_bytes + m.item_feature_bytes
    item_gb = round(item_bytes * m.waste * a.millions / 1e3)
    shard_millions, shard_gb = a.millions / a.shards, math.ceil(item_gb / a.shards)
    mean, deviation = a.k / a.shards, math.sqrt(a.k / a.shards * (1 - 1 / a.shards))
    wanted = round(mean + 5 * deviation)
    searching = round(a.per_s * a.shards * m.search_ms / 1e3)
    cores = math.ceil(searching / a.share)
    each = math.ceil(cores / a.shards)
    copied_gb, threads_gb = a.shards * each * shard_gb, a.copies * item_gb
    rows = [
        (
            "answering, busy cores",
            f"({m.model_ms:g} + {m.tritonserver_ms:g} + {m.gateway_ms:g}) ms x {a.per_s:,}/s",
            f"{busy}",
        ),
        (
            "answering, machines",
            f"{busy} / {a.share:g} = {busy / a.share:.0f} cores, {a.machine_cores} a machine",
            f"{machines}, and one to spare",
        ),
        (
            "users, memory",
            f"({m.user_feature_bytes} + {m.seen_bytes}) bytes x {m.waste:g} x {a.millions} million",
            f"{user_gb} GB, {a.copies * user_gb} GB with copies",
        ),
        (
            "users, processes",
            f"{m.user_reads_ms:g} ms x {a.per_s:,}/s / {a.share:g}",
            f"{readers} of {user_gb / readers:.1f} GB, {a.copies * readers} with copies",
        ),
        (
            "items, memory",
            f"({m.vector_bytes} + {m.graph_bytes:,} + {m.card_bytes} + {m.item_feature_bytes}) bytes "
            f"x {m.waste:g} x {a.millions} million",
            f"{item_gb} GB",
        ),
        (
            "items, one index built from nothing",
            f"{m.index_ms:g} ms x {a.millions} million",
            f"{m.index_ms * a.millions / 3.6:.0f} h",
        ),
        (
            f"items, a shard of {a.shards}",
            f"{shard_millions:g} million items",
            f"{shard_gb} GB, built in {m.index_ms * shard_millions / 3.6:.1f} h",
        ),
        (
            f"of the {a.k} nearest, asked of each shard",
            f"{mean:g} + 5 x {deviation:.1f}",
            f"{wanted}: too few for one request in {round(1 / missed(a.k, a.shards, wanted), -3):,.0f}",
        ),
        (
            "searching, cores",
            f"{a.per_s:,}/s x {a.shards} x {m.search_ms:g} ms = {searching} busy, / {a.share:g}",
            f"{cores}, {each} a shard",
        ),
        (
            "searching, a copy of its shard in each process",
            f"{a.shards} x {each} x {shard_gb} GB",
            f"{copied_gb:,} GB",
        ),
    ]
    parts = [
        Part("Triton, gateway", (machines + 1) * a.machine_cores, (machines + 1) * a.machine_gb),
        Part("users: Redis Cluster", a.copies * readers, a.copies * user_gb),
        Part("items, as it is: one process per core and copy of a shard", cores, copied_gb),
        Part(f"items, with threads over each of {a.copies} copies of a shard", cores, threads_gb),
    ]
    return rows, parts


def markdown(m: Measured, a: Assumed) -> str:
    """Writes the steps and the bill as two tables."""
    rows, parts = steps(m, a)
    lines = ["| step | is | comes to |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows), ""]
    lines += ["| | cores | GB | $ a month |", "|---|---|---|---|"]
    lines += [part.line(a) for part in parts]
    shared, (as_it_is, threads) = parts[:2], parts[2:]
    lines += [
        sum_line("sum, as it is", (*shared, as_it_is), a),
        sum_line("sum, with threads", (*shared, threads), a),
    ]
    return "\n".join(lines)


def sum_line(name: str, parts: Sequence[Part], a: Assumed) -> str:
    """Writes the sum of the parts, and its dollars, as a row."""
    cores, gb = sum(part.cores for part in parts), sum(part.gb for part in parts)
    dollars = round(sum(a.dollars(cores, gb)), -2)
    return f"| **{name}** | {cores:,} | {gb:,} | **{dollars:,}** |"


if __name__ == "__main__":
    put_between(PAGE, MARKS, markdown(Measured(), Assumed()))
