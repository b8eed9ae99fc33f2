"""What every reader of a column's values shares: how it says what is wrong, and how far numbers go."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import yaml

MOST = 1e18
"""The largest number that models take: float32, in which they compute, cannot hold squares of larger ones."""
EXAMPLES = 3

Warn = Callable[[str], None]


class Wrong(Exception):
    """What is wrong with a column, and after a semicolon the remedy."""


def too_large(count: int, example: float) -> Wrong:
    """Says that so many rows hold a number beyond `MOST`."""
    return Wrong(
        f"is beyond the range of float32 in {count} rows (such as {example:g}; models take up to {MOST:g}); "
        "correct them, or add `clip: true` to take the nearest number that fits"
    )


def no_separator(values: pa.ChunkedArray, wanted: str) -> Wrong:
    """Says that a text must be told how it is cut into elements, by what is likely."""
    texts = values.drop_null().slice(0, 1_000).to_pylist()
    counts = {mark: sum(mark in text for text in texts) for mark in "|;,/ "}
    mark = max(counts, key=lambda mark: counts[mark]) if any(counts.values()) else "|"
    return Wrong(
        f"is {values.type}, not {wanted} ({len(values)} rows); say what stands between two elements: "
        f'`separator: "{mark}"`'
    )


def examples(values: pa.ChunkedArray) -> str:
    """Names a few of a column's values."""
    found = list(dict.fromkeys(values.drop_null().slice(0, 10_000).to_pylist()))[:EXAMPLES]
    return ", ".join(str(value)[:40] for value in found)


def positives(values: pa.ChunkedArray) -> str:
    """Writes the key that makes a label of a column's first values, of half of those that it holds."""
    found = list(dict.fromkeys(values.drop_null().slice(0, 10_000).to_pylist()))[: 2 * EXAMPLES]
    plain = [v if isinstance(v, str | bool | int | float) else float(v) for v in found]
    return as_yaml({"positive": plain[: max(1, len(plain) // 2)]}).strip("{}")


def as_yaml(value: object) -> str:
    """Writes a value on one line of YAML."""
    written: str = yaml.safe_dump(
        value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10_000
    )
    return written.strip()
