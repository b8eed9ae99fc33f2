"""`python -m bench.embeddings.policies`: how often each policy of the cache has what is asked for."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.embeddings.zipf import Zipf, ids_of
from contract.arrays import Ids
from ensemble.stores.embeddings.cache import RowCache
from ensemble.stores.embeddings.level import RowKeys

WIDTH, BATCH, USERS = 4, 200, 1_000_000
ROOM = 8_192
POLICIES = {
    "rarest (served)": (False, "rarest"),
    "oldest": (False, "oldest"),
    "oldest, choosy": (True, "oldest"),
    "rarest, choosy": (True, "rarest"),
    "random": (False, "random"),
    "random, choosy": (True, "random"),
}
Draw = Callable[[np.random.Generator, int], Ids]


def patterns() -> dict[str, Draw]:
    """Who asks, batch by batch."""
    plain = {share: Zipf.with_share(share, ROOM, USERS) for share in (0.5, 0.8, 0.95)}

    def drifting(rng: np.random.Generator, batch: int) -> Ids:
        return ids_of(plain[0.8].draw(rng, BATCH) + batch * 20)  # who was frequent is so no more

    def scanned(rng: np.random.Generator, batch: int) -> Ids:
        swept = USERS * 2 + batch * BATCH + np.arange(BATCH // 4)  # a quarter comes once and never again
        return ids_of(np.concatenate([plain[0.8].draw(rng, BATCH - len(swept)), swept]))

    drawn: dict[str, Draw] = {
        f"Zipf {zipf.exponent:.2f}": lambda rng, _, zipf=zipf: ids_of(zipf.draw(rng, BATCH))  # type: ignore[misc]
        for zipf in plain.values()
    }
    return drawn | {"Zipf 0.8 drifting": drifting, "Zipf and a scan": scanned}


def measure(batches: int) -> list[dict[str, object]]:
    """Fills every cache from empty, and counts hits in the second half; microseconds of reads and writes."""
    found = []
    rows = np.zeros((BATCH, WIDTH), dtype=np.float32)
    for pattern, draw in patterns().items():
        for policy, (is_choosy, evicts) in POLICIES.items():
            cache, rng = RowCache(WIDTH, ROOM, is_choosy=is_choosy, evicts=evicts), np.random.default_rng(0)
            hits = asked = 0
            read_s = write_s = 0.0
            for batch in range(batches):
                keys = RowKeys.trained(draw(rng, batch))
                started = time.perf_counter()
                had = cache.read(keys).is_found
                read_s += time.perf_counter() - started
                missing = np.flatnonzero(~had)
                started = time.perf_counter()
                cache.write(keys.some(missing), rows[: len(missing)])
                write_s += time.perf_counter() - started
                if batch >= batches // 2:
                    hits, asked = hits + int(had.sum()), asked + len(had)
            found.append(
                {
                    "pattern": pattern,
                    "policy": policy,
                    "hit_rate": hits / asked,
                    "read_us": read_s / batches * 1e6,
                    "write_us": write_s / batches * 1e6,
                }
            )
            print(f"{pattern}: {policy}: {found[-1]}", flush=True)
    return found


def main() -> None:
    """Measures, and writes what was found as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=8_000, help="of 200 ids each")
    parser.add_argument("--report", type=Path, required=True)
    chosen = parser.parse_args()
    chosen.report.write_text(json.dumps(measure(chosen.batches), indent=1) + "\n")


if __name__ == "__main__":
    main()
