"""What a run of schemathesis found, read from its own report and from the statuses that its hooks counted."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Found:
    """One run: how much was asked, how it was answered, and everything that was wrong."""

    version: str
    seconds: float
    examples: int
    operations: int
    statuses: dict[str, int]
    wrong: tuple[str, ...]

    @classmethod
    def read(cls, report: Path, statuses: Path) -> Found:
        """Reads the two files of one run."""
        content: dict[str, Any] = json.loads(report.read_text())
        wrong = [f"{one['title']}: {one['count']}" for one in (*content["failures"], *content["errors"])]
        operations = content["operations"]
        if not content["complete"] or operations["tested"] < operations["total"]:
            wrong.append(f"{operations['tested']} of {operations['total']} operations were asked")
        return cls(
            version=content["schemathesis_version"],
            seconds=content["running_time"],
            examples=content["test_cases"]["generated"],
            operations=operations["tested"],
            statuses=dict(sorted(json.loads(statuses.read_text()).items())),
            wrong=tuple(wrong),
        )

    def markdown(self) -> str:
        """A table with one row per operation: how often each status was answered."""
        rows: dict[str, list[str]] = {}
        others = 0
        for key, count in self.statuses.items():
            operation, _, status = key.rpartition(" ")
            if status == "405":
                others += count
            else:
                rows.setdefault(operation, []).append(f"{status}: {count:,}")
        rows["any other method"] = [f"405: {others:,}"]
        lines = ["| operation | answers by status |", "|---|---|"]
        return "\n".join(lines + [f"| `{name}` | {', '.join(cells)} |" for name, cells in rows.items()])
