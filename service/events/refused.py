"""Refuses a document of which no entry is accepted."""

from __future__ import annotations

from service.events.schemas import EventProblem


class EntriesRefused(Exception):
    """Not one entry of a document is accepted; says the first of what is wrong, and how many there are."""

    def __init__(self, name: str, errors: list[EventProblem]) -> None:
        """Takes the field of the document that holds the entries, and what is wrong with these."""
        first = errors[0]
        more = f"; {len(errors) - 1} more, see errors" if len(errors) > 1 else ""
        super().__init__(f"{name}.{first.index}.{first.field} {first.message}{more}")
        self.errors = errors
