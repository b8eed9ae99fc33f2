"""Draws `docs/images/house.svg` from the code: rooms as boxes, imports between them as lines.

`make picture` writes it; a test compares it with the code. A room is a folder of a package, or the package's
own files. Within a package a room stands above every room that it imports; no line points up, as that test
refuses circles.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from xml.sax.saxutils import escape

import grimp

PICTURE = Path(__file__).parent / "images" / "house.svg"
FLOORS = (
    ("deploy",),
    ("batch", "live"),
    ("service", "training", "ensemble", "feature_repo"),
    ("contract", "shortlist"),
)
"""Top floor first; packages of one floor stand side by side and do not import each other."""
BOX, ROW, GAP, MARGIN, HEAD = 128, 46, 14, 18, 30
OWN = "·"
"""Stands for the files of a package that lie in no folder."""
FLAT = ("contract", "feature_repo", "live")
"""Packages without folders: each file is a room."""

Room = tuple[str, str]


def room_of(module: str) -> Room:
    """Takes a module's dotted name, gives its package and its folder there."""
    parts = module.split(".")
    return parts[0], parts[1] if len(parts) > 2 or parts[0] in FLAT else OWN


def rooms(packages: Iterable[str]) -> tuple[dict[Room, int], dict[tuple[Room, Room], int]]:
    """Counts the files of each room, and the imports from each room to each other."""
    graph = grimp.build_graph(*packages, include_external_packages=False, cache_dir=None)
    files: dict[Room, int] = defaultdict(int)
    imports: dict[tuple[Room, Room], int] = defaultdict(int)
    for module in sorted(graph.modules):
        if graph.find_children(module):
            continue
        files[room_of(module)] += 1
        for imported in graph.find_modules_directly_imported_by(module):
            if "." in imported and room_of(imported) != room_of(module):
                imports[room_of(module), room_of(imported)] += 1
    return dict(files), dict(imports)


def circles(imports: Mapping[tuple[Room, Room], int]) -> list[list[Room]]:
    """Lists the circles among rooms of one package, each once, as the rooms in their order.

    A package's own files (its settings, its start) are read and joined by every room, and count for none.
    """
    after: dict[Room, set[Room]] = defaultdict(set)
    for one, other in imports:
        if one[0] == other[0] and OWN not in (one[1], other[1]):
            after[one].add(other)
    found: list[list[Room]] = []
    done: set[Room] = set()

    def walk(room: Room, path: list[Room]) -> None:
        if room in path:
            found.append(path[path.index(room) :])
        elif room not in done:
            for other in sorted(after[room]):
                walk(other, [*path, room])
            done.add(room)

    for room in sorted(after):
        walk(room, [])
    return found


def levels(
    package: str, files: Mapping[Room, int], imports: Mapping[tuple[Room, Room], int]
) -> list[list[str]]:
    """Orders a package's rooms, top level first: each above all that it imports; its own files last."""
    names = [name for place, name in files if place == package and name != OWN]
    below = {
        name: {b[1] for a, b in imports if a == (package, name) and b[0] == package and b[1] != OWN}
        for name in names
    }
    height: dict[str, int] = {}

    def of(name: str, path: tuple[str, ...] = ()) -> int:
        if name not in height and name not in path:
            height[name] = 1 + max((of(other, (*path, name)) for other in below[name]), default=-1)
        return height.get(name, 0)

    for name in names:
        of(name)
    rows = [
        sorted(n for n in names if height[n] == h) for h in range(max(height.values(), default=-1), -1, -1)
    ]
    return [*rows, [OWN]] if (package, OWN) in files else rows


def draw(files: Mapping[Room, int], imports: Mapping[tuple[Room, Room], int]) -> str:
    """Gives the picture as SVG."""
    layout = {package: levels(package, files, imports) for floor in FLOORS for package in floor}
    wide = {package: max(len(row) for row in rows) for package, rows in layout.items()}
    width = {p: wide[p] * (BOX + GAP) - GAP + 2 * MARGIN for p in layout}
    tall = {p: len(rows) * (ROW + GAP) - GAP + MARGIN + HEAD for p, rows in layout.items()}
    total = max(sum(width[p] for p in floor) + GAP * 2 * (len(floor) - 1) for floor in FLOORS)
    frames, boxes, at = [], [], {}
    y = MARGIN
    for floor in FLOORS:
        x = MARGIN + (total - sum(width[p] for p in floor) - GAP * 2 * (len(floor) - 1)) / 2
        for package in floor:
            height = max(tall[p] for p in floor)
            frames.append(
                f'<rect x="{x:.0f}" y="{y}" width="{width[package]}" height="{height}" rx="10" class="wing"/>'
                f'<text x="{x + MARGIN:.0f}" y="{y + 20}" class="name">{package}/</text>'
            )
            for place, row in enumerate(layout[package]):
                start = x + (width[package] - len(row) * (BOX + GAP) + GAP) / 2
                for position, name in enumerate(row):
                    left, top = start + position * (BOX + GAP), y + HEAD + place * (ROW + GAP)
                    at[package, name] = (left + BOX / 2, top)
                    said = "own files" if name == OWN else name
                    counted = f"{files[package, name]} files" if package not in FLAT else ""
                    boxes.append(
                        f'<rect x="{left:.0f}" y="{top}" width="{BOX}" height="{ROW}" rx="6" class="room"/>'
                        f'<text x="{left + BOX / 2:.0f}" y="{top + (20 if counted else 28)}" class="title">'
                        f"{escape(said)}</text>"
                        f'<text x="{left + BOX / 2:.0f}" y="{top + 37}" class="small">{counted}</text>'
                    )
            x += width[package] + GAP * 2
        y += max(tall[p] for p in floor) + GAP * 3
    lines = []
    for (one, other), count in sorted(imports.items()):
        if one[0] == other[0] and OWN not in (one[1], other[1]):
            (x1, y1), (x2, y2) = at[one], at[other]
            bend = (y1 + ROW + y2) / 2
            lines.append(
                f'<path d="M{x1:.0f} {y1 + ROW} C{x1:.0f} {bend:.0f} {x2:.0f} {bend:.0f} {x2:.0f} {y2}" '
                f'class="line" stroke-width="{min(3.0, 0.6 + count / 5):.1f}"/>'
            )
    style = (
        "text{font-family:sans-serif;fill:#1d2733}.name{font-size:15px;font-weight:bold}.title{font-size:13px;"
        "text-anchor:middle}.small{font-size:11px;text-anchor:middle;fill:#5c6b7a}.wing{fill:#f4f6f8;stroke:#b8c4cf}"
        ".room{fill:#fff;stroke:#5b7fa6}.line{fill:none;stroke:#5b7fa6;opacity:.55}"
    )
    size = f'width="{total + 2 * MARGIN:.0f}" height="{y}" viewBox="0 0 {total + 2 * MARGIN:.0f} {y}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}><title>The rooms of the code, their imports</title>'
        f'<style>{style}</style><rect width="100%" height="100%" fill="#fff"/>\n'
        + "\n".join([*frames, *lines, *boxes])
        + "\n</svg>\n"
    )


def main() -> None:
    """Writes the picture."""
    PICTURE.write_text(draw(*rooms(package for floor in FLOORS for package in floor)))


if __name__ == "__main__":
    main()
