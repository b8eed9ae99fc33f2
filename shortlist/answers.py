"""What the gateway answers, as Python objects; the meanings are those of its `/docs`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Id = int | str
"""Of a user or an item: a number or a text, as the data set has it."""


@dataclass(frozen=True, slots=True)
class AnsweredItem:
    """One item of an answer; where it is from, `fields` are its display fields. Of items like another,
    `found_by` names the ensemble's sources that gave it."""

    item_id: Id
    score: float
    source: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    found_by: tuple[str, ...] = ()

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> AnsweredItem:
        """Takes it as the JSON has it."""
        fields = _without(document, "item_id", "score", "source", "found_by")
        return cls(
            document["item_id"],
            document["score"],
            document["source"],
            fields,
            tuple(document.get("found_by", ())),
        )


@dataclass(frozen=True, slots=True)
class SourceRank:
    """What one source of candidates says of an item; `rank` is None where it did not give it."""

    source: str
    rank: int | None
    score: float


@dataclass(frozen=True, slots=True)
class Trace:
    """What happened to one retrieved item; ranks count from 1, None where it did not get so far."""

    item_id: Id
    source: str
    retrieval_rank: int
    retrieval_score: float
    removed_by: str | None
    ranking_score: float | None
    ranking_rank: int | None
    slate_rank: int | None
    propensity: float | None
    fields: Mapping[str, Any] = field(default_factory=dict)
    found_by: tuple[SourceRank, ...] = ()

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Trace:
        """Takes it as the JSON has it."""
        own = [name for name in cls.__slots__ if name not in ("fields", "found_by")]
        found_by = tuple(SourceRank(**one) for one in document["found_by"])
        fields = _without(document, *own, "found_by")
        return cls(**{name: document[name] for name in own}, fields=fields, found_by=found_by)


@dataclass(frozen=True, slots=True)
class Answer:
    """The items, best first, who made the slate, and what it lacks; `degraded` is empty when nothing.

    `arm` is `champion`, or the arm of a split that the user belongs to. `timings_ms` are milliseconds by
    stage. `run`, `made_at` and `age_s` are of a stored slate alone.
    `next` is the cursor of the next page. `document` is the whole answer as it came.
    """

    request_id: str
    items: tuple[AnsweredItem, ...]
    source: str
    degraded: tuple[str, ...]
    bundle: str
    arm: str
    timings_ms: Mapping[str, float]
    run: str | None
    made_at: str | None
    age_s: float | None
    explain: tuple[Trace, ...] | None
    next: str | None
    document: Mapping[str, Any] = field(repr=False)

    @property
    def item_ids(self) -> list[Id]:
        """The items' ids, best first."""
        return [item.item_id for item in self.items]

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Answer:
        """Takes it as the JSON has it."""
        explained = document.get("explain")
        return cls(
            request_id=document["request_id"],
            items=tuple(AnsweredItem.read(item) for item in document["items"]),
            source=document["source"],
            degraded=tuple(document["degraded"]),
            bundle=document["bundle"],
            arm=document.get("arm", "champion"),
            timings_ms=document["timings_ms"],
            run=document.get("run"),
            made_at=document.get("made_at"),
            age_s=document.get("age_s"),
            explain=None if explained is None else tuple(Trace.read(item) for item in explained["items"]),
            next=document.get("next"),
            document=document,
        )


@dataclass(frozen=True, slots=True)
class EventsTaken:
    """What became of events: how many are new, how many had been accepted before, and what is wrong with the
    others, each by its `index`, `field` and `message`."""

    accepted: int
    duplicates: int
    refused: int
    errors: tuple[Mapping[str, Any], ...]

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> EventsTaken:
        """Takes it as the JSON has it."""
        return cls(
            document["accepted"], document["duplicates"], document["refused"], tuple(document["errors"])
        )


@dataclass(frozen=True, slots=True)
class ItemHistory:
    """What a user has seen, newest first: as many items as asked for, of `total`."""

    user_id: Id
    total: int
    items: tuple[Mapping[str, Any], ...]
    degraded: tuple[str, ...]

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> ItemHistory:
        """Takes it as the JSON has it."""
        return cls(
            document["user_id"], document["total"], tuple(document["items"]), tuple(document["degraded"])
        )


@dataclass(frozen=True, slots=True)
class ServedBundle:
    """What is served: the bundle, the names that `context` and `filters` may use, the fields shown.

    `document` is all that the gateway tells of it.
    """

    bundle: str
    dataset: str
    items: int
    context: tuple[str, ...]
    filters: Mapping[str, str]
    display: tuple[str, ...]
    document: Mapping[str, Any] = field(repr=False)

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> ServedBundle:
        """Takes it as the JSON has it."""
        own = (document["bundle"], document["dataset"], document["items"], tuple(document["context"]))
        return cls(*own, document["filters"], tuple(document["display"]), document)


def _without(document: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in names}
