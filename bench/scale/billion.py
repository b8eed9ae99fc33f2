"""Says on paper what a billion users and a hundred million items need of the parts that go past one machine.

As `paper.py`, from what was measured: whoever measures again changes a figure here and runs
`python -m bench.scale.billion`, which writes the steps and their sum into `docs/scale.md`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bench.scale.paper import MARKS, Assumed, Measured, Part, sum_line
from contract.marked import put_between
from deploy.local.settings import ROOT

PAGE = ROOT / "docs" / "scale.md"


@dataclass(frozen=True)
class MeasuredParts:
    """Figures of this repository's own runs: bytes, and milliseconds of CPU."""

    width: int = 128  # numbers of a row of the id tables, and one more in a vector
    # Of usearch over a million items of 64 numbers, by bench/nodes/run.py, docs/scale.md:
    graph_bytes: int = 148  # of its file an item, less its vector: 385.8 MiB
    graph_build_ms: float = 0.73  # an item: 731.7 s
    search_ms: float = 8.1  # at EF 1,600, recall@100 0.968; over a hundred times the items, more
    disk_bytes: int = 30  # LMDB's, a row, beside its numbers: 2.9 GB for 10 million of 65
    events_core_ms: float = (
        0.33  # of consumer, gateway and Redis together, an event: a third of a core at 1,000/s
    )


@dataclass(frozen=True)
class AssumedParts:
    """What is asked for."""

    users_millions: int = 1000
    events_per_user_day: int = 10
    moments: int = 3  # numbers held for each weight in training: itself, and Adam's two
    gpu_gb: int = 80
    gpu_share: float = 0.8


def steps(
    m: Measured, parts: MeasuredParts, a: Assumed, b: AssumedParts
) -> tuple[list[tuple[str, str, str]], list[Part]]:
    """Gives each step, how it is computed and what comes out; and the parts of the bill."""
    busy = round((m.model_ms + m.tritonserver_ms + m.gateway_ms + parts.search_ms) * a.per_s / 1e3)
    machines = math.ceil(busy / a.share / a.machine_cores) + 1
    user_gb = round((m.user_feature_bytes + m.seen_bytes) * m.waste * b.users_millions / 1e3)
    graph = 4 * (parts.width + 1) + parts.graph_bytes
    graph_gb = round(graph * a.millions / 1e3)
    built_h = parts.graph_build_ms * a.millions / 3.6
    row = 4 * parts.width + parts.disk_bytes
    disk_gb = round(row * b.users_millions / 1e3)
    machine_gb = a.machine_gb + graph_gb
    events = b.events_per_user_day * b.users_millions * 1e6 / 86_400
    event_cores = math.ceil(events * parts.events_core_ms / 1e3 / a.share)
    tables_gb = round((b.users_millions + a.millions) * parts.width * 4 * b.moments / 1e3)
    user_nodes = math.ceil(user_gb / a.machine_gb)
    rows = [
        (
            "answering, searching in the process, busy cores",
            f"({m.model_ms:g} + {m.tritonserver_ms:g} + {m.gateway_ms:g} + {parts.search_ms:g}) ms "
            f"x {a.per_s:,}/s",
            f"{busy}: {machines} machines of {a.machine_cores}, one of them to spare",
        ),
        (
            "items: the graph that each machine maps",
            f"(4 x {parts.width + 1} + {parts.graph_bytes}) bytes x {a.millions} million",
            f"{graph_gb} GB of page cache a machine",
        ),
        (
            "items: building it",
            f"{parts.graph_build_ms:g} ms x {a.millions} million",
            f"{built_h:.0f} h of one core, {built_h / a.machine_cores:.1f} h of a machine",
        ),
        (
            "users: features and seen items, in a Redis Cluster",
            f"({m.user_feature_bytes} + {m.seen_bytes}) bytes x {m.waste:g} x {b.users_millions:,} million",
            f"{user_gb} GB: {user_nodes} processes of {a.machine_gb} GB, {a.copies * user_nodes} with copies",
        ),
        (
            "users: the rows of their ids, on each machine's disk",
            f"(4 x {parts.width} + {parts.disk_bytes}) bytes x {b.users_millions:,} million",
            f"{disk_gb} GB; in a process, a cache of as many as fit a GiB: {2**30 // row / 1e6:.1f} million",
        ),
        (
            "events: gateways, consumers and Redis",
            f"{b.events_per_user_day} a user and day = {events:,.0f}/s x {parts.events_core_ms:g} ms "
            f"/ {a.share:g}",
            f"{event_cores} cores",
        ),
        (
            "training: both id tables and Adam's moments, cut by rows",
            f"({b.users_millions:,} + {a.millions}) million x {parts.width} x 4 bytes x {b.moments}",
            f"{tables_gb:,} GB: {math.ceil(tables_gb / b.gpu_gb / b.gpu_share)} GPUs of {b.gpu_gb} GB, "
            f"{b.gpu_share:.0%} full",
        ),
    ]
    bill = [
        Part("Triton with the graph, gateway", machines * a.machine_cores, machines * machine_gb),
        Part("users: Redis Cluster", a.copies * user_nodes, a.copies * user_gb),
        Part("events", event_cores, event_cores * 2),
    ]
    return rows, bill


def markdown() -> str:
    """Writes the steps and the bill as two tables."""
    a = Assumed()
    rows, bill = steps(Measured(), MeasuredParts(), a, AssumedParts())
    lines = ["| step | is | comes to |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows), ""]
    lines += ["| | cores | GB | $ a month |", "|---|---|---|---|", *(part.line(a) for part in bill)]
    return "\n".join([*lines, sum_line("sum", bill, a)])


if __name__ == "__main__":
    put_between(PAGE, MARKS, markdown())
