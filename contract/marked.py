"""Tables in pages, each between two marks of its name."""

from __future__ import annotations

from pathlib import Path

from contract.whole_file import whole_file


def marks(name: str) -> tuple[str, str]:
    """Gives the lines between which what bears the name stands."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def put_between(page: Path, name: str, text: str) -> None:
    """Writes a page anew with `text` between its marks of that name; all else stays.

    Raises:
        ValueError: the marks are not there.
    """
    begin, end = marks(name)
    head, found, rest = page.read_text().partition(begin)
    _, ended, tail = rest.partition(end)
    if not (found and ended):
        raise ValueError(f"{page}: the lines {begin} and {end} are missing; put them where the tables go")
    with whole_file(page) as file:
        file.write(f"{head}{begin}\n{text}\n{end}{tail}".encode())
