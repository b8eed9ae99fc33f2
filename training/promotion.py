"""Which bundle is served: `bundles/current` moves here alone, past a gate, and a log says how it moved.

Training makes a bundle and leaves `current` alone. What is promoted must not be worse than what is served, on
the same test part, by more than a margin. The log stands beside the bundles, whose own files never change.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from contract.bundle import MANIFEST_FILE, METRICS_FILE, BundleError, read_manifest
from contract.bundles import CURRENT, LATEST
from training.export.write import linked, point

LOG_FILE = "promotions.jsonl"
METRIC = "ndcg@10"
"""Of the slates as they are served: what the gate compares."""


class Promotion(BaseModel):
    """One line of the log: `current` went from `former` to `bundle`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    at: str
    action: Literal["promote", "rollback"]
    bundle: str
    former: str | None
    forced: bool = False
    """Whether the gate had refused it."""
    reason: str

    def __str__(self) -> str:
        forced = ", forced" if self.forced else ""
        return f"{self.at}  {self.action}{forced}  {self.former or 'none'} -> {self.bundle}: {self.reason}"


def promote(
    bundles: Path, name: str | None, margin: float, *, force: bool = False, is_check: bool = False
) -> Promotion | None:
    """Makes a bundle current, by default the one trained last; None where it is already. `is_check`: says
    what would be done.

    `margin` is the share of the current bundle's NDCG@10 that may be lost.

    Raises:
        BundleError: there is no such bundle, it is damaged, or the gate refuses it and `force` is not set;
            `current` stays as it is.
    """
    name = name or linked(bundles, LATEST)
    if name is None:
        raise BundleError(f"{bundles}: no bundle was trained here; run `make train`")
    if Path(name).name != name or (bundles / name).is_symlink():
        raise BundleError(f"BUNDLE={name}: is not the name of a bundle; `make bundles` lists them")
    dataset = read_manifest(bundles / name).dataset
    former = linked(bundles, CURRENT)
    if former == name:
        return None
    passes, reason = judge(bundles, name, dataset, margin)
    if not (passes or force):
        raise BundleError(
            f"{bundles / name}: not promoted, current stays {former}: {reason}; "
            "train a better one, or override with FORCE=1"
        )
    return _move(bundles, "promote", name, former, reason, forced=not passes, is_check=is_check)


def rollback(bundles: Path, *, is_check: bool = False) -> Promotion:
    """Makes the bundle current that was so before the one that is; the next promotion alone undoes it.
    `is_check`: says what would be done.

    Raises:
        BundleError: there is none before, or it is gone or damaged.
    """
    history = served(bundles)
    if len(history) < 2:
        raise BundleError(f"{bundles}: nothing was promoted before what is current; see `make bundles`")
    former, name = history[-1], history[-2]
    read_manifest(bundles / name)
    return _move(bundles, "rollback", name, former, "asked for", is_check=is_check)


def judge(bundles: Path, name: str, dataset: str, margin: float) -> tuple[bool, str]:
    """Compares a bundle with the last one of its data set that was promoted; says whether it passes, and why.

    One that cannot be read cannot be served either, and is no rival. One measured on another test part
    cannot be compared, unless it was measured again on this one, and stays.
    """
    rival = _rival(bundles, dataset)
    if rival is None:
        return True, f"no other bundle of {dataset} was promoted before"
    new, old = (json.loads((bundles / each / METRICS_FILE).read_text()) for each in (name, rival))
    again = measured_again_file(bundles, rival, _test(new) or "")
    if _test(new) != _test(old) and again.is_file():
        old = json.loads(again.read_text())
    if _test(new) is None or _test(new) != _test(old):
        return False, f"it cannot be compared with {rival}, which was measured on another test part"
    ours, theirs = slate_quality(new), slate_quality(old)
    if ours is None or theirs is None:
        return True, f"the test part holds nothing to compare it with {rival} by"
    least = theirs * (1 - margin)
    return ours >= least, f"{METRIC} {ours:.4f}, {rival} has {theirs:.4f}, the least allowed is {least:.4f}"


def measured_again_file(bundles: Path, name: str, test: str) -> Path:
    """Where it stands how a bundle did on another test part than its own, by that part's fingerprint."""
    return bundles.parent / "evaluations" / f"{name}-{test[:12]}.json"


def slate_quality(metrics: dict[str, Any]) -> float | None:
    """Takes the contents of `metrics.json`, gives NDCG@10 of the served slates; None if nobody was asked."""
    rows = metrics["sections"].get("end_to_end", {})
    value = rows.get(metrics.get("served"), {}).get(METRIC)
    return None if value is None else float(value)


def read_log(bundles: Path) -> list[Promotion]:
    """Reads how `current` moved, oldest first.

    Raises:
        BundleError: a line is not one of this log's.
    """
    path = bundles / LOG_FILE
    lines = path.read_text().splitlines() if path.is_file() else []
    try:
        return [Promotion.model_validate_json(line) for line in lines]
    except ValidationError as error:
        raise BundleError(f"{path}: not a log of promotions; restore or delete it: {error}") from None


def served(bundles: Path) -> list[str]:
    """Lists what was promoted and not rolled back since, oldest first; the last one is current."""
    history: list[str] = []
    for move in read_log(bundles):
        if move.former and history[-1:] != [move.former]:
            history.append(move.former)
        if move.action == "rollback":
            history = history[:-1]
        if history[-1:] != [move.bundle]:
            history.append(move.bundle)
    current = linked(bundles, CURRENT)
    return history if current is None or history[-1:] == [current] else [*history, current]


def listing(bundles: Path) -> list[str]:
    """Gives a line per bundle, by name: when it was made, its NDCG@10, what points to it; then the log."""
    marks = {link: linked(bundles, link) for link in (CURRENT, LATEST)}
    lines = []
    for path in sorted(bundles.glob(f"[!.]*/{MANIFEST_FILE}")):
        folder = path.parent
        if folder.is_symlink():
            continue
        try:
            made = read_manifest(folder, verify=False).created_at
            quality = slate_quality(json.loads((folder / METRICS_FILE).read_text()))
        except BundleError as error:
            lines.append(str(error))
            continue
        measured = "" if quality is None else f"{METRIC} {quality:.4f}"
        pointed = ", ".join(link for link, name in marks.items() if name == folder.name)
        lines.append(f"{folder.name}  {made}  {measured}  {pointed}".rstrip())
    return [*(lines or [f"{bundles}: no bundle; run `make train`"]), *map(str, read_log(bundles))]


def _rival(bundles: Path, dataset: str) -> str | None:
    for name in reversed(served(bundles)):
        try:
            if read_manifest(bundles / name, verify=False).dataset == dataset:
                return name
        except BundleError:
            continue
    return None


def _test(metrics: dict[str, Any]) -> str | None:
    fingerprint: str | None = metrics["test"].get("fingerprint")
    return fingerprint


def _move(
    bundles: Path,
    action: Literal["promote", "rollback"],
    name: str,
    former: str | None,
    reason: str,
    *,
    forced: bool = False,
    is_check: bool = False,
) -> Promotion:
    at = datetime.now(UTC).isoformat(timespec="seconds")
    move = Promotion(at=at, action=action, bundle=name, former=former, forced=forced, reason=reason)
    if is_check:
        return move
    point(bundles, name, CURRENT)
    # One write to the end of the file: lines of two promotions at once do not mix.
    log = os.open(bundles / LOG_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(log, f"{move.model_dump_json()}\n".encode())
    finally:
        os.close(log)
    return move
