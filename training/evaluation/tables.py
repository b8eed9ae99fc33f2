"""Writes a bundle's metrics as Markdown tables, for people and for `docs/quality.md`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from contract.bundle import BundleError
from contract.marked import marks, put_between

MARKS = "metrics"

_TITLES = {
    "ranking": "Ranking, with context",
    "ranking_without_context": "Ranking, without context",
    "retrieval": "Retrieval, whole catalogue without seen items",
    "unknown_users": "Retrieval for unknown users: id and history withheld",
    "new_items": "Retrieval of items withheld from training, among the whole catalogue",
    "end_to_end": "End to end: retrieve, filter, rank; context unknown",
    "few_items": "Slates of strangers: id, profile, and all but their newest items withheld",
}
_COLUMNS = {
    "auc": "AUC",
    "gauc": "GAUC",
    "log_loss": "log loss",
    "calibration_error": "calibration error",
    "recall@10": "Recall@10",
    "recall@100": "Recall@100",
    "ndcg@10": "NDCG@10",
    "ndcg@100": "NDCG@100",
    "coverage@10": "coverage@10",
    "gini@10": "Gini@10",
    "diversity@10": "diversity@10",
}


def markdown(metrics_json: str) -> str:
    """Takes the contents of `metrics.json`, gives one table per section, below what must be known of them."""
    metrics: dict[str, Any] = json.loads(metrics_json)
    lines = [
        f"{_measured(metrics)} on {metrics['dataset']}, quality {metrics['quality']}, "
        f"seed {', '.join(map(str, metrics['seeds']))}. Test: {metrics['test']['rows']:,} rows, "
        f"{metrics['test']['users']:,} users with {metrics['test']['relevant']:,} items to find.",
    ]
    if "training" in metrics:
        lines += ["", _training(metrics["training"])]
    for note in metrics.get("notes", []):
        lines += ["", note]
    for section, models in metrics["sections"].items():
        lines += ["", f"**{_TITLES.get(section, section)}**", "", *_table(models)]
    return "\n".join(lines) + "\n"


def _measured(metrics: dict[str, Any]) -> str:
    return f"Bundle `{metrics['bundle']}`" if "bundle" in metrics else f"Protocol {metrics['protocol']}"


def _training(facts: dict[str, Any]) -> str:
    seconds = facts["seconds"]
    each = ", ".join(f"{name.partition(', seed')[0].lower()} {took:.0f} s" for name, took in seconds.items())
    total, peak = sum(seconds.values()), facts["peak_memory_mib"]
    return f"Training of one seed: {total:.0f} s ({each}), at most {peak:,} MiB."


def _table(models: dict[str, dict[str, Any]]) -> list[str]:
    shown = [name for name in _COLUMNS if any(name in row for row in models.values())]
    lines = [
        "| model | " + " | ".join(_COLUMNS[name] for name in shown) + " |",
        "|---" * (len(shown) + 1) + "|",
    ]
    for model, row in models.items():
        lines.append(f"| {model} | " + " | ".join(_cell(row, name) for name in shown) + " |")
    return lines


def _cell(row: dict[str, Any], name: str) -> str:
    if name not in row:
        return ""
    cell = f"{row[name]:.4f}"
    if f"{name}_seeds" in row:
        cell += f" ± {row[f'{name}_seeds']:.4f}"
    if f"{name}_interval" in row:
        low, high = row[f"{name}_interval"]
        cell += f" [{low:.4f}, {high:.4f}]"
    return cell


def replace_block(path: Path, table: str, name: str = MARKS) -> None:
    """Puts a table between the two marks of a name in a Markdown file.

    Raises:
        BundleError: the file has no such marks.
    """
    try:
        put_between(path, name, f"\n{table}")
    except ValueError:
        begin, end = marks(name)
        raise BundleError(f"{path}: has no lines {begin} and {end} to write between") from None
