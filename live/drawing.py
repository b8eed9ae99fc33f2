"""Plots of a report, as SVG within its page: no file beside it, nothing to load."""

from __future__ import annotations

import html
from collections.abc import Sequence

from live.estimates import Estimate

WIDTH, ROW = 760, 26
LETTER = 7.5
"""Pixels that a letter of a name takes, at most."""
COLOURS = ("#5b7fa6", "#c98a4b")


def intervals(rows: Sequence[tuple[str, Estimate]], unit: str) -> str:
    """Draws estimates one below the other, each a point within its interval."""
    known = [(name, one) for name, one in rows if one.value == one.value]
    most = max((one.high for _, one in known), default=0.0) * 1.05 or 1.0
    left = min(WIDTH - 240, 20 + LETTER * max((len(name) for name, _ in known), default=0))
    scale = (WIDTH - left - 90) / most
    drawn = []
    for at, (name, one) in enumerate(known):
        y = ROW * at + ROW / 2
        low, middle, high = (left + value * scale for value in (one.low, one.value, one.high))
        drawn.append(
            f'<text x="{left - 10:.0f}" y="{y + 4:.0f}" text-anchor="end">{html.escape(name)}</text>'
            f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}" stroke="{COLOURS[0]}" stroke-width="3"/>'
            f'<circle cx="{middle:.1f}" cy="{y}" r="5" fill="{COLOURS[0]}"/>'
            f'<text x="{high + 8:.1f}" y="{y + 4:.0f}">{one.value:.4f}</text>'
        )
    return _svg(drawn, ROW * max(1, len(known)), unit)


def histograms(name: str, labels: Sequence[str], former: Sequence[float], now: Sequence[float]) -> str:
    """Draws the shares of bins as pairs of bars: what the bundle knows, then what is served."""
    most = max(*former, *now, 1e-9)
    height, wide = 110.0, (WIDTH - 40) / max(1, len(labels))
    drawn = []
    for at, (label, *shares) in enumerate(zip(labels, former, now, strict=True)):
        caption = f"{label}: {shares[0]:.3f}, now {shares[1]:.3f}"
        for part, share in enumerate(shares):
            bar = height * share / most
            x, y, wide_bar = 20 + wide * (at + 0.42 * part), height - bar, 0.4 * wide
            drawn.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide_bar:.1f}" height="{bar:.1f}" '
                f'fill="{COLOURS[part]}"><title>{html.escape(caption)}</title></rect>'
            )
    return _svg(drawn, height, name)


def _svg(drawn: Sequence[str], height: float, title: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}" role="img">'
        f"<title>{html.escape(title)}</title>{''.join(drawn)}</svg>"
    )
