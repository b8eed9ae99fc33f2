"""The report as one HTML page: tables, plots, and what is fresh and has drifted."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path

from contract.drift import Reference, shares
from contract.watched import Watched
from contract.whole_file import whole_file
from live.drawing import histograms, intervals
from live.report import ClickReport

STYLE = (
    "body{font:15px/1.5 sans-serif;max-width:820px;margin:2em auto;padding:0 1em;color:#1d2733}"
    "table{border-collapse:collapse}td,th{padding:.2em .8em .2em 0;text-align:left}"
    "svg text{font:13px sans-serif;fill:#1d2733}.late{color:#a33}"
)


def write_page(path: Path, title: str, sections: Sequence[str]) -> None:
    """Writes a page whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = f"<meta charset=utf-8><title>{html.escape(title)}</title><style>{STYLE}</style>"
    page = (
        f"<!doctype html><html lang=en><head>{head}</head><body><h1>{html.escape(title)}</h1>"
        f"{''.join(sections)}</body></html>\n"
    )
    with whole_file(path) as file:
        file.write(page.encode())


def click_sections(report: ClickReport) -> list[str]:
    """Shows what came of what was shown."""
    made = [paragraph(f"{report.total}.")]
    for title, rows in report.rates.items():
        made += [heading(f"Clicks per place, {title}"), intervals([*rows.items()], title)]
    for one in report.others:
        made += [
            heading(f"{one.bundle}, which did not serve: the first {one.places}"),
            paragraph(f"By {one.answers:,} explored answers, {one.snips.effective:,.0f} effective."),
            intervals(one.estimates, f"{one.bundle}, first {one.places}"),
        ]
    if report.degraded:
        made += [heading("What answers lacked"), table(("reason", "answers"), report.degraded.items())]
    return [*made, *(paragraph(remark) for remark in report.remarks)]


def freshness_sections(found: Watched | None, reference: Reference) -> list[str]:
    """Shows what the watch found last: ages, and of each feature the distances and both histograms, the
    farthest first."""
    made = [heading("How fresh it is")]
    if found is None:
        return [*made, paragraph("Nobody watches: run `make up observer`.")]
    made += [paragraph(line) for line in found.lines()]
    if not found.drift:
        return made
    made += [
        heading(f"What the last {found.answers:,} answers are like"),
        paragraph("Of each feature, the shares of its values when the bundle was made, and now beside them."),
    ]
    for name, one in sorted(found.drift.items(), key=lambda each: -each[1].psi):
        known = reference.histograms.get(name)
        text = f"{name}: PSI {one.psi:.3f}, Jensen-Shannon {one.jensen_shannon:.3f}"
        mark = " class=late" if one.is_drifted else ""
        made.append(f"<h3{mark}>{html.escape(text + (', drifted' if one.is_drifted else ''))}</h3>")
        if known is not None and len(known.counts) == len(one.shares):
            made.append(histograms(name, known.labels, shares(known.counts).tolist(), one.shares))
    return made


def heading(text: str) -> str:
    """A title of a section."""
    return f"<h2>{html.escape(text)}</h2>"


def paragraph(text: str) -> str:
    """A few words."""
    return f"<p>{html.escape(text)}</p>"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Cells by row."""
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<table><tr>{''.join(f'<th>{html.escape(cell)}</th>' for cell in head)}</tr>{body}</table>"
