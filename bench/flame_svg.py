"""Draws stacks as a flame graph: an SVG whose boxes are as wide as their share, small enough to keep."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

from bench.stacks import ONNX, PYTHON, REDIS, STUB, Stack, shares
from contract.whole_file import whole_file

WIDTH, ROW, TOP, LETTER = 1200.0, 17, 58, 6.6
LEAST = 0.003
"""Share below which a box is left out."""
COLOURS = {
    ONNX: "#e9a23b",
    REDIS: "#d9534f",
    PYTHON: "#7fb069",
    STUB: "#8aa5c4",
}
_LIBRARY = re.compile(r"\(([^()]*/)?([^/()]+\.so)[^()]*\)")


@dataclass
class Box:
    """A frame below its caller: how often it was seen, in which part, and what it called."""

    name: str
    part: str
    count: int = 0
    called: dict[str, Box] = field(default_factory=dict)


def grown(stacks: Sequence[Stack]) -> Box:
    """Joins stacks from their outermost frame on."""
    root = Box("execute to response", PYTHON)
    for stack in stacks:
        root.count += stack.count
        box = root
        for name, part in _shortened(stack):
            box = box.called.setdefault(name, Box(name, part))
            box.count += stack.count
    return root


def _shortened(stack: Stack) -> Iterator[tuple[str, str]]:
    """Names native frames by their library, and ONNX Runtime's by itself, once where they repeat."""
    before = ""
    for frame, part in stack.parts():
        library = _LIBRARY.search(frame)
        name = library[2].partition(".")[0] if library else frame
        if part == ONNX:
            name = ONNX
        if name != before:
            yield name, part
        before = name


def write_svg(path: Path, stacks: Sequence[Stack], title: str) -> None:
    """Writes the picture; hover over a box for its whole name and share."""
    root = grown(stacks)
    boxes = list(_placed(root, root.count, 0.0, 0))
    height = TOP + ROW * (1 + max(depth for *_, depth in boxes)) + 8
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {height}" font-family="monospace" '
        f'font-size="11"><rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="8" y="20" font-size="15">{escape(title)}: {root.count} samples</text>',
    ]
    found = {part: share for part, share in shares(stacks).items() if share}
    for position, (part, share) in enumerate(found.items()):
        colour = COLOURS[part]
        x = 8 + 290 * position
        lines.append(f'<rect x="{x}" y="30" width="12" height="12" fill="{colour}"/>')
        lines.append(f'<text x="{x + 17}" y="40">{escape(part)} {share:.0%}</text>')
    lines += [_drawn(box, root.count, x, depth) for box, x, depth in boxes]
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write("\n".join([*lines, "</svg>\n"]).encode())


def _placed(box: Box, total: int, x: float, depth: int) -> Iterator[tuple[Box, float, int]]:
    yield box, x, depth
    for called in sorted(box.called.values(), key=lambda one: one.name):
        if called.count >= LEAST * total:
            yield from _placed(called, total, x, depth + 1)
        x += WIDTH * called.count / total


def _drawn(box: Box, total: int, x: float, depth: int) -> str:
    width, y = WIDTH * box.count / total, TOP + ROW * depth
    label = (
        box.name if len(box.name) * LETTER < width - 6 else box.name[: max(0, int(width / LETTER) - 2)] + "…"
    )
    text = f'<text x="{x + 3:.1f}" y="{y + 12}">{escape(label)}</text>' if width > 3 * LETTER else ""
    return (
        f"<g><title>{escape(box.name)}: {box.count / total:.1%}</title>"
        f'<rect x="{x:.1f}" y="{y}" width="{max(width - 0.5, 0.3):.1f}" height="{ROW - 1}" '
        f'fill="{COLOURS[box.part]}"/>{text}</g>'
    )
