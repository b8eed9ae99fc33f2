"""`python -m bench.embeddings.policies`: how often each policy of the cache has what is asked for."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.embeddings.zipf import Zipf, ids_of
from contract.arrays import Bools, Floats, Ids, Ints
from ensemble.stores.embeddings.cache import EMPTY, RowCache
from ensemble.stores.embeddings.level import RowKeys, mixed

WIDTH, BATCH, USERS = 4, 200, 1_000_000
CACHE_ROWS = 8_192
POLICIES = {
    "rarest (served)": (False, "rarest"),
    "oldest": (False, "oldest"),
    "oldest, choosy": (True, "oldest"),
    "rarest, choosy": (True, "rarest"),
    "random": (False, "random"),
    "random, choosy": (True, "random"),
}
Draw = Callable[[np.random.Generator, int], Ids]


class OtherCache(RowCache):
    """A cache of which the `oldest`, the `rarest` or any (`random`) row of a set goes, and that keeps out, if
    it `is_choosy`, who is asked for no more often than who would go."""

    def __init__(self, width: int, capacity: int, evicts: str, *, is_choosy: bool = False) -> None:
        super().__init__(width, capacity)
        self.evicts, self.is_choosy, self._tick = evicts, is_choosy, 0
        self._used = np.zeros(self._ids.shape, dtype=np.int64)

    def _find(self, sets: Ints, keys: RowKeys) -> tuple[Ints, Bools]:
        ways, is_found = super()._find(sets, keys)
        self._tick += 1
        self._used[sets[is_found], ways[is_found]] = self._tick
        return ways, is_found

    def _put(self, at: Ints, sets: Ints, keys: RowKeys, rows: Floats) -> None:
        if self.is_choosy:
            held, worth = self._ids[sets], self._worth(sets)
            goes = np.take_along_axis(held, worth.argmin(axis=1)[:, None], axis=1)[:, 0]
            is_free = (held == EMPTY).any(axis=1) | (held == keys.ids[at][:, None]).any(axis=1)
            is_in = is_free | (self._counted(mixed(keys.ids[at])) > self._counted(mixed(goes)))
            at, sets = at[is_in], sets[is_in]
        super()._put(at, sets, keys, rows)
        self._used[sets, (self._ids[sets] == keys.ids[at][:, None]).argmax(axis=1)] = self._tick

    def _worth(self, sets: Ints) -> Ints:
        held = self._ids[sets]
        if self.evicts == "random":
            return (mixed(held.ravel() ^ self._tick) >> np.uint64(34)).astype(np.int64).reshape(held.shape)
        return super()._worth(sets) if self.evicts == "rarest" else self._used[sets]


def patterns() -> dict[str, Draw]:
    """Who asks, batch by batch."""
    plain = {share: Zipf.with_share(share, CACHE_ROWS, USERS) for share in (0.5, 0.8, 0.95)}

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
            cache, rng = OtherCache(WIDTH, CACHE_ROWS, evicts, is_choosy=is_choosy), np.random.default_rng(0)
            hits = lookups = 0
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
                    hits, lookups = hits + int(had.sum()), lookups + len(had)
            found.append(
                {
                    "pattern": pattern,
                    "policy": policy,
                    "hit_rate": hits / lookups,
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
