"""A slate, whoever made it, before its display fields."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from contract.slates import SlateSource


@dataclass(frozen=True, slots=True)
class SourceTrace:
    """What one source of candidates says of an item; the meanings are those of `schemas.FoundBy`."""

    source: str
    rank: int | None
    score: float


@dataclass(frozen=True, slots=True)
class ItemTrace:
    """What happened to one retrieved item; the meanings are those of `schemas.ExplainedItem`."""

    item_id: int
    source: SlateSource
    retrieval_rank: int
    retrieval_score: float
    removed_by: str | None
    ranking_score: float | None = None
    ranking_rank: int | None = None
    slate_rank: int | None = None
    propensity: float | None = None
    found_by: tuple[SourceTrace, ...] = ()


@dataclass(frozen=True, slots=True)
class MovedItem:
    """What a rule of the order did to one item; the meanings are those of `schemas.Move`."""

    item_id: int
    rule: str
    from_place: int | None
    to_place: int | None

    def behind(self, places: int) -> MovedItem:
        """The same, of a list that stands behind so many places."""
        behind = (None if one is None else one + places for one in (self.from_place, self.to_place))
        return MovedItem(self.item_id, self.rule, *behind)


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a stored slate comes from; the meanings are those of `schemas.RecommendResponse`."""

    bundle: str
    run: str
    made_at: str
    age_s: float


@dataclass(frozen=True, slots=True)
class Slate:
    """An ordered answer, without its display fields; the last `filled` items are from the popular list."""

    source: SlateSource
    item_ids: list[int]
    scores: list[float]
    degraded: list[str] = field(default_factory=list)
    stage_ms: dict[str, float] = field(default_factory=dict)
    propensities: list[float] = field(default_factory=list)
    retrieved: list[ItemTrace] | None = None
    moves: list[MovedItem] = field(default_factory=list)
    provenance: Provenance | None = None
    filled: int = 0
    found_by: list[list[str]] | None = None
    """Which sources of candidates gave each item of the ensemble's, where that was asked for."""
    bundle_id: int | None = None
    """Whose slate it is, as the ensemble says: `contract.tensors.bundle_id` of the bundle's name."""

    @property
    def sources(self) -> list[SlateSource]:
        """Says of each item where it is from."""
        own = len(self.item_ids) - self.filled
        return [self.source] * own + [SlateSource.POPULAR] * self.filled

    def removed(self) -> dict[str, int]:
        """Counts the retrieved items that each rule removed."""
        return dict(Counter(one.removed_by for one in self.retrieved or () if one.removed_by))
