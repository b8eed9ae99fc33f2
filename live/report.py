"""What came of what was shown: clicks by bundle and arm, and what another bundle would have got."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from contract import names
from contract.dataset import Dataset
from contract.event_archive import REQUEST_ID, events_folder, read_archive
from contract.ids import number_of
from contract.shown import Shown
from contract.slates import SlateSource
from live.estimates import Estimate, click_rate, doubly_robust, snips
from live.replay import LoggedAnswer, Replay
from live.shown import read_shown

PLACES = (1, 3, 10)
"""How many places, from the first, another bundle's clicks are estimated of."""
FEW = 100.0
"""An estimate by fewer effective answers is told, and said to be of few."""


@dataclass(frozen=True)
class OffPolicy:
    """What a bundle would have got on the first `places`, and what those got that served."""

    bundle: str
    places: int
    answers: int
    served: Estimate
    snips: Estimate
    doubly_robust: Estimate

    @property
    def estimates(self) -> tuple[tuple[str, Estimate], ...]:
        """What is told of it, with its names."""
        return ("what served", self.served), ("SNIPS", self.snips), ("doubly robust", self.doubly_robust)


@dataclass
class ClickReport:
    """The clicks of a log, and how it was made: `arms` by bundle and arm, `sources` by who made the slate,
    `by_place` of the first places."""

    dataset: str
    answers: int = 0
    clicks: int = 0
    since: str = ""
    until: str = ""
    arms: dict[str, Estimate] = field(default_factory=dict)
    sources: dict[str, Estimate] = field(default_factory=dict)
    by_place: dict[str, Estimate] = field(default_factory=dict)
    degraded: dict[str, int] = field(default_factory=dict)
    others: list[OffPolicy] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def total(self) -> str:
        """Says how many there are, and of which time."""
        span = f", {self.since} to {self.until}" if self.since else ""
        return f"{_count(self.answers, 'answer')}, {_count(self.clicks, 'click')} in them{span}"

    @property
    def rates(self) -> dict[str, Mapping[str, Estimate]]:
        """The clicks per place that are known, by how they are grouped."""
        groups = {"by bundle and arm": self.arms, "by source": self.sources, "by place": self.by_place}
        return {title: rows for title, rows in groups.items() if rows}


def join(dataset: Dataset, var: Path) -> list[LoggedAnswer]:
    """Reads both archives, gives every answer with what was clicked in it, oldest first.

    A click is an event whose target is 1 and that names the answer's request; it counts once.
    """
    clicked: dict[tuple[str, int], set[int]] = defaultdict(set)
    later: dict[int, list[tuple[int, int]]] = defaultdict(list)
    events = read_archive(events_folder(var, dataset.name))
    if events is not None:
        wanted = [names.USER_ID, names.ITEM_ID, dataset.target, REQUEST_ID, dataset.timestamp]
        columns = [events[name].to_pylist() for name in wanted]
        for own_user, own_item, target, request_id, at in zip(*columns, strict=True):
            user = number_of(own_user, dataset.user_id_dtype)
            item = number_of(own_item, dataset.item_id_dtype)
            later[user].append((round(at.timestamp() * 1000), item))
            if request_id and target == 1:
                clicked[request_id, user].add(item)
    return [
        LoggedAnswer(
            note,
            frozenset(clicked.get((note.request_id, note.user_id), ())),
            frozenset(item for at_ms, item in later.get(note.user_id, ()) if at_ms >= note.at_ms),
        )
        for note in read_shown(var, dataset.name)
    ]


def clicks_of(dataset: Dataset, answers: Sequence[LoggedAnswer]) -> ClickReport:
    """Counts the clicks of a log."""
    report = ClickReport(dataset.name, answers=len(answers))
    if not answers:
        report.remarks.append(
            "nothing was shown yet, or it is not archived: the consumer writes it once a minute"
        )
        return report
    notes = [one.note for one in answers]
    report.since, report.until = (_instant(note.at_ms) for note in (notes[0], notes[-1]))
    report.clicks = sum(one.clicks for one in answers)
    report.arms = _rates(answers, lambda note: f"{note.bundle} · {note.arm}")
    report.sources = _rates(answers, lambda note: note.source)
    for place in range(1, max(PLACES) + 1):
        at = [(one, place - one.note.first_place) for one in answers]
        here = [(one, which) for one, which in at if 0 <= which < len(one.note.item_ids)]
        if here:
            hits = np.array([one.note.item_ids[which] in one.clicked for one, which in here], np.int64)
            owners = np.array([one.note.user_id for one, _ in here], np.int64)
            report.by_place[f"place {place}"] = click_rate(hits, np.ones_like(hits), owners)
    lacks: dict[str, int] = defaultdict(int)
    for note in notes:
        for reason in note.degraded:
            lacks[reason] += 1
    report.degraded = dict(sorted(lacks.items(), key=lambda one: -one[1]))
    if not report.clicks:
        report.remarks.append("no event names the request of an answer: send `request_id` with the events")
    return report


def explored(answers: Sequence[LoggedAnswer], places: int) -> list[LoggedAnswer]:
    """Picks the answers from which another policy can be estimated: plain, the ensemble's own, of so many
    places at least, each drawn by chance."""
    return [
        one
        for one in answers
        if one.note.is_plain
        and one.note.source == SlateSource.ENSEMBLE
        and len(one.note.item_ids) >= places
        and 0 < min(one.note.chances[:places]) < 1
    ]


def estimate_other(report: ClickReport, bundle: str, replay: Replay, answers: Sequence[LoggedAnswer]) -> None:
    """Adds what a bundle would have got, for as many of the first places as the log tells."""
    most = max((len(one.note.item_ids) for one in answers), default=0)
    for places in sorted({min(places, most) for places in PLACES} - {0}):
        some = explored(answers, places)
        if not some:
            report.remarks.append(
                f"{bundle} cannot be estimated on the first {places}: no answer was explored. Serve with "
                "SHORTLIST_EXPLORATION_TEMPERATURE above 0, so that what it would show was shown sometimes"
            )
            continue
        logged = replay.logged(some, places)
        users, hits = logged.owners, logged.clicks.sum(axis=1).astype(np.int64)
        served = click_rate(hits, np.full(len(some), places), users)
        estimate = OffPolicy(bundle, places, len(some), served, snips(logged), doubly_robust(logged))
        report.others.append(estimate)
        if estimate.snips.effective < FEW:
            report.remarks.append(
                f"{bundle}, first {places}: only {estimate.snips.effective:.0f} effective answers of "
                f"{len(some)}, as its slates differ too much from those shown"
            )


def lines_of(report: ClickReport) -> list[str]:
    """Writes the report for a terminal."""
    lines = [f"{report.dataset}: {report.total}"]
    for title, rows in report.rates.items():
        lines += [f"  clicks per place, {title}", *_rows(rows.items())]
    for one in report.others:
        lines += [
            f"  {one.bundle}, did not serve: clicks per place on the first {one.places}, "
            f"by {one.answers:,} answers, {one.snips.effective:,.0f} effective",
            *_rows(one.estimates),
        ]
    lines += [f"  {name}: {_count(count, 'answer')}" for name, count in report.degraded.items()]
    return [*lines, *(f"  {remark}" for remark in report.remarks)]


def _rates(answers: Sequence[LoggedAnswer], key: Callable[[Shown], str]) -> dict[str, Estimate]:
    groups: dict[str, list[LoggedAnswer]] = defaultdict(list)
    for one in answers:
        groups[key(one.note)].append(one)
    return {
        name: click_rate(
            np.array([one.clicks for one in some], np.int64),
            np.array([len(one.note.item_ids) for one in some], np.int64),
            np.array([one.note.user_id for one in some], np.int64),
        )
        for name, some in sorted(groups.items())
    }


def _rows(estimates: Iterable[tuple[str, Estimate]]) -> list[str]:
    return [f"    {name:<52} {one.value:.4f}  [{one.low:.4f}, {one.high:.4f}]" for name, one in estimates]


def _count(number: int, of: str) -> str:
    return f"{number:,} {of}{'' if number == 1 else 's'}"


def _instant(at_ms: int) -> str:
    return f"{np.datetime64(at_ms, 'ms').astype('datetime64[s]')}Z".replace("T", " ")
