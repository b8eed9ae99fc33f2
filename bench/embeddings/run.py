"""`make bench-embeddings`: what embeddings beyond one memory cost, in one run; docs/scale.md tells of it."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from bench.embeddings import gateway
from bench.record import Record, say
from bench.servers import BenchError, own_ports, run, serving
from deploy.local.ports import PortTaken
from deploy.local.settings import LocalSettings, load_settings
from deploy.local.stack import StackError

LIMIT_MIB = 1024
LOOKUPS, POLICIES, WHOLE = "Lookups", "Policies of the cache", "The whole path"
PARTS = ("policies", "lookups", "gateway")
PUBLISHED = (
    "HugeCTR's hierarchical parameter server, on an A100, all rows in the GPU's cache: inside one process "
    "0.61 ms for 32 samples and 1.55 ms for 4,096; as a step of its own in Triton 0.85 and 23.4 ms"
)


def measure(settings: LocalSettings, record: Record, chosen: argparse.Namespace) -> None:
    """Measures every part that was chosen.

    Raises:
        BenchError, StackError, PortTaken: one could not be.
    """
    folder, report = settings.var, settings.var / "report.json"
    users, seconds = str(chosen.users), str(chosen.seconds)

    def child(module: str, *arguments: str) -> list[dict[str, Any]]:
        run(
            settings,
            "triton",
            "-m",
            f"bench.embeddings.{module}",
            *arguments,
            "--report",
            str(report),
            timeout_s=None,
        )
        found: list[dict[str, Any]] = json.loads(report.read_text())
        return found

    if "policies" in chosen.only:
        for row in child("policies", "--batches", str(chosen.batches)):
            _add(record, POLICIES, f"{row.pop('pattern')}: {row.pop('policy')}", row)
    if "lookups" in chosen.only:
        given = ("--folder", str(folder), "--users", users, "--seconds", seconds)
        say(f"writing {chosen.users:,} rows")
        for row in child("lookups", "build", *given):
            _add(record, LOOKUPS, row.pop("name"), row)
        limited = ("--limit-mib", str(LIMIT_MIB))
        with serving(settings, "redis"):
            url = ("--redis", settings.redis.get_secret_value())
            for part in (
                ("memory",),
                ("levels", *limited),
                ("levels", *limited, *url),
                ("levels", *limited, "--cold"),
            ):
                for row in child("lookups", part[0], *given, *part[1:]):
                    name = f"{row.pop('name')}, {row.pop('wanted'):.0%} wanted, {row.pop('size')}"
                    _add(record, LOOKUPS, name, row)
        for left in ("rows.npy", "disk"):
            shutil.rmtree(folder / left, ignore_errors=True)
            (folder / left).unlink(missing_ok=True)
    if "gateway" in chosen.only:
        load = (chosen.rate, 4 * chosen.seconds)
        rows = gateway.measure(folder, chosen.users, chosen.quality, *load, turns=4, most_mib=LIMIT_MIB)
        for row in rows:
            _add(record, WHOLE, row.pop("name"), row)
        ratios = {f"{name}_ratio": rows[1][name] / rows[0][name] for name in ("p50_ms", "p99_ms")}
        _add(record, WHOLE, "beside to inside", ratios)


def _add(record: Record, group: str, name: str, figures: dict[str, Any]) -> None:
    record.add(group, name, {key: float(value) for key, value in figures.items()})


def main() -> int:
    """Reads the arguments, measures, writes the record; 1 where something could not be measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=10_000_000, help="rows on the disk")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each series")
    parser.add_argument("--batches", type=int, default=8_000, help="of 200 ids, for each policy")
    parser.add_argument("--rate", type=float, default=30.0, help="requests per second of the whole path")
    parser.add_argument("--quality", default="default", choices=("tiny", "default"), help="of the bundle")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--folder", type=Path, help="default: var/bench/embeddings")
    chosen = parser.parse_args()
    folder = (chosen.folder or load_settings().var / "bench" / "embeddings").resolve()
    settings = LocalSettings(var_dir=folder, redis_url=None, **own_ports())
    record = Record(bundle="synthetic", command="make bench-embeddings")
    try:
        measure(settings, record, chosen)
    except (BenchError, StackError, PortTaken) as error:
        print(f"bench    {error}", file=sys.stderr)
        return 1
    say(f"published elsewhere: {PUBLISHED}")
    say(f"wrote {record.write(folder / 'records')}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
