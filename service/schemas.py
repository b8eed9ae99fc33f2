"""What callers send and get. The descriptions are the API's documentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    StrictBool,
    StrictInt,
    StrictStr,
    WithJsonSchema,
)

from contract.ids import FIRST, LAST, IdDtype, OwnId
from contract.rules.order_rules import RequestRules
from contract.slates import SlateSource
from contract.tensors import (
    FILTER_WIDTHS,
    MAX_EXCLUDED,
    MAX_N,
    NO_CONTEXT,
    PAD_ID,
    RULES_WIDTHS,
    USER_FEATURE_WIDTHS,
)
from contract.watched import Watched

INT64_MAX = 2**63 - 1
Id = Annotated[StrictInt, Field(ge=FIRST, le=LAST)]
"""The number of a user or an item; where callers' ids are text, `OwnIds` has put it in the text's place."""
ContextValue = Annotated[StrictInt, Field(gt=NO_CONTEXT, le=INT64_MAX)]
CURSOR = r"^[A-Za-z0-9_-]+$"
CURSOR_LENGTH = 33_000
MAX_USERS = 64
"""In one request."""
MAX_NAMES = 64
"""Of a context, or of the filters; more than any data set has columns for."""


class SlateWish(BaseModel):
    """What every request for a slate may say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    n: Annotated[StrictInt, Field(ge=1, le=MAX_N)] = Field(10, description="Items wanted.")
    exclude_item_ids: Annotated[list[Id], Field(max_length=MAX_EXCLUDED)] = Field(
        default_factory=list, description="Items that must not be in the answer."
    )
    filters: dict[StrictStr, Any] = Field(
        default_factory=dict,
        max_length=MAX_NAMES,
        description="Column to what an item must have there; it must meet every column named. A list: one of "
        "the values; null among them, no value. An object: `any`, such a list; `gt`, `gte`, `lt`, `lte`, "
        "bounds of a number; `not`, a list or an object that it must not meet. /v1/bundle lists the columns "
        f"under `filters`. At most {FILTER_WIDTHS[-1]:,} bytes of JSON in all.",
    )
    rules: RequestRules | None = Field(
        None,
        description="What is asked of the order, after scoring: boosts, pins, caps, shares and diversity, in "
        "addition to what the settings ask of every slate. An item keeps its score. At most "
        f"{RULES_WIDTHS[-1]:,} bytes of JSON in all.",
    )
    arm: Annotated[StrictStr, Field(max_length=200)] | None = Field(
        None,
        description="Asks this arm of a split, whoever the user is: to look at both slates. /v1/bundle lists "
        "the arms. Left out: the one that the user belongs to.",
    )
    explain: StrictBool = Field(False, description="Also say what was retrieved, what was removed and why.")
    latency_budget_ms: Annotated[StrictInt, Field(ge=1)] | None = Field(
        None,
        description="Milliseconds this request may take, where that is less than the gateway's own budget. "
        "A stored or popular slate is answered when the ensemble is later than that.",
    )
    after: Annotated[StrictStr, Field(pattern=CURSOR, max_length=CURSOR_LENGTH)] | None = Field(
        None,
        description="`next` of an answer to this request, for the items that come behind those shown so far. "
        "It may be sent for an hour.",
    )
    _texts: dict[int, str] = PrivateAttr(default_factory=dict)
    _shown: tuple[int, ...] = PrivateAttr(())

    def of_texts(self, texts: Mapping[int, str]) -> Self:
        """Remembers the own ids, which are text, behind numbers."""
        self._texts.update(texts)
        return self

    def behind(self, shown: Sequence[int], **changed: Any) -> Self:
        """Gives the request for what comes behind these items, which were shown, with some fields changed."""
        excluded = [*self.exclude_item_ids, *shown]
        request = self.model_copy(update={"exclude_item_ids": excluded, **changed})
        request._shown = (*self._shown, *shown)
        return request

    @property
    def shown(self) -> tuple[int, ...]:
        """The items that were shown before, in order."""
        return self._shown

    def own(self, number: int) -> OwnId | None:
        """Gives the user or the item of a number as the caller wrote it; None for nobody."""
        return None if number == PAD_ID else self._texts.get(number, number)


class RecommendRequest(SlateWish):
    """Whom to recommend to, and what to leave out."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"user_id": 7, "n": 5, "exclude_item_ids": [12, 90], "explain": True},
                {"user_id": 7, "n": 5, "source": "batch"},
            ]
        },
    )

    user_id: Id = Field(
        PAD_ID,
        description="The user. One that the models do not know gets an answer too, and is told so. May be "
        "left out where `user_features` are given: nobody in particular.",
    )
    context: dict[StrictStr, ContextValue] = Field(
        default_factory=dict,
        max_length=MAX_NAMES,
        description="What is known of this moment, as integer codes; /v1/bundle lists the names under "
        "`context`.",
    )
    user_features: dict[StrictStr, Any] = Field(
        default_factory=dict,
        max_length=MAX_NAMES,
        description="What is known of a user whom nobody has stored, or not in time, as in an anonymous "
        "session: column to its value. Taken in place of everything that is stored of the user's features; "
        "what is left out counts as not known, and `degraded` says user_features where the models would take "
        "it. `user_recent_item_ids` are the last items, newest first; they count as seen. /v1/bundle lists "
        f"the columns under `user_features`. At most {USER_FEATURE_WIDTHS[-1]:,} bytes of JSON in all.",
    )
    source: Literal["batch"] | None = Field(
        None,
        description="`batch` asks for the slate that was stored ahead of time; the ensemble is not asked, "
        "and neither `context` nor `user_features` are considered. Where there is none, the popular slate is "
        "answered. Left out: the ensemble, then the stored slate, then the popular one.",
    )

    @property
    def like_item_id(self) -> int:
        """No item, `PAD_ID`: what is wanted is for a user."""
        return PAD_ID


class SimilarRequest(SlateWish):
    """An item that others are to be like, and what to leave out."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"item_id": 12, "n": 5}, {"item_id": 12, "user_id": 7, "n": 5}]},
    )

    item_id: Id = Field(
        description="The item. It is not in the answer. One that the bundle does not know gets an answer "
        "too, and is told so."
    )
    user_id: Id = Field(PAD_ID, description="Whose seen items are left out as well; the order is the same.")
    exclude_item_ids: Annotated[list[Id], Field(max_length=MAX_EXCLUDED - 1)] = Field(
        default_factory=list, description="Items that must not be in the answer."
    )

    @property
    def like_item_id(self) -> int:
        """The item."""
        return self.item_id

    @property
    def context(self) -> dict[str, int]:
        """Nothing: the order is by the items alone."""
        return {}

    @property
    def user_features(self) -> dict[str, Any]:
        """Nothing: the order is by the items alone."""
        return {}

    @property
    def source(self) -> None:
        """The ladder from its top."""
        return None


SlateBody = RecommendRequest | SimilarRequest


class Item(BaseModel):
    """One item of a slate. Display fields, such as its name, stand beside these."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, str | None]

    item_id: OwnId
    score: float = Field(
        description="What orders the slate, where no rule does. From the ensemble, and in a stored slate, 0 "
        "to 1: the probability of the target, as fitted on validation; the ranker's own score where that "
        "alone orders, of several labels a scaled sum; no probability where `degraded` has score_candidates. "
        "Of items like another, their likeness. From the popular list its popularity."
    )
    source: SlateSource = Field(
        description="Where this item is from: the slate's own source, or `popular`, where the popular list "
        "fills up a slate that would be short."
    )


class FoundBy(BaseModel):
    """What one source of candidates says of an item."""

    source: str = Field(description="Its name; /v1/bundle lists the sources.")
    rank: int | None = Field(
        description="The item's place among what it gave, from 1; null where it did not give this one."
    )
    score: float = Field(description="What it says of the item, whoever gave it; the scale is its own.")


class ExplainedItem(BaseModel):
    """What happened to one retrieved item. Display fields stand beside these."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, str | None]

    item_id: OwnId
    source: SlateSource = Field(description="Where it is from.")
    retrieval_rank: int = Field(
        description="Its place among all that were retrieved, from 1: the sources take turns by their "
        "shares; or among the most popular; or in a stored slate."
    )
    retrieval_score: float = Field(
        description="Inner product of user and item vector, or popularity, or the score in a stored slate."
    )
    removed_by: str | None = Field(
        description="The rule that removed it: seen, unavailable, excluded, beyond_k, filters."
    )
    ranking_score: float | None = Field(
        description="The ranker's score, 0 to 1: the probability of the target, of several labels a scaled "
        "sum; null where it was not ranked, as in a bundle whose order gives the ranker no weight."
    )
    ranking_rank: int | None = Field(description="1 is the best ranked; null where it was not ranked.")
    slate_rank: int | None = Field(description="Its place in the answer, from 1; null where it is not in it.")
    propensity: float | None = Field(
        description="Probability of its place, given the places before it; 1 without exploration."
    )
    found_by: list[FoundBy] = Field(
        description="The ensemble's sources of candidates that gave it, or say something of it."
    )


class Move(BaseModel):
    """What a rule of the order did to one item. Display fields stand beside these."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, str | None]

    item_id: OwnId
    rule: str = Field(description="boost, which buries as well; pin, cap, share or diversity.")
    from_place: int | None = Field(
        description="Its place by score alone, from 1; null where it was not retrieved."
    )
    to_place: int | None = Field(description="Its place in the answer; null where it is not in it.")


class Explanation(BaseModel):
    """Every item that was retrieved, nearest first; of a stored slate, every item that it held."""

    items: list[ExplainedItem]
    removed: dict[str, int] = Field(description="Rule to the number of items it removed.")
    moves: list[Move] = Field(description="What rules of the order moved, by place; else empty.")


class RecommendResponse(BaseModel):
    """The slate, who made it, and how long each stage took."""

    request_id: str = Field(description="Also in the header x-request-id, and in the log.")
    user_id: OwnId | None = Field(description="As asked; null where no user was named.")
    items: list[Item] = Field(description="Best first; fewer than `n` where fewer are left.")
    source: SlateSource = Field(
        description="`ensemble`; `batch`, a stored slate, where that was asked for or the ensemble did not "
        "answer; `popular` where neither did."
    )
    degraded: list[str] = Field(
        description="What this answer lacks; empty when nothing. unknown_user: no features, so a general "
        "answer. short: fewer than `n` items are left. filter_candidates: the filter stage "
        "failed open. partial_index: items were missing from the vector index, or it was not known "
        "whether some were, as after a restart of Redis. features: columns that the bundle reads are missing "
        "in Redis, or of another type, and counted as null. caps: a cap of the rules is broken, as too few "
        "items keep it. user_features: the request's features lack some "
        "that the models take. sources: a source of candidates failed, and the others answered. "
        "embeddings: rows of ids could not be read, and those of unknown ids stood for them. "
        "unknown_item: the bundle does not know the item, so what most people like. "
        "fewer_candidates: less was considered, to be in "
        "time. score_candidates: ordered without the ranker. display: some display fields are missing. "
        "ensemble_late, ensemble_unavailable, ensemble_busy, ensemble_other_bundle: why the slate is not the "
        "ensemble's. "
        "batch_missing: nothing is stored for this user, or nothing is left of it; told where a stored slate "
        "was asked for. batch_late, batch_unavailable: the stored slate could not be read. seen: seen or "
        "unavailable items could not be removed. filters: the popular list could not be checked against "
        "every filter, and items that could not be checked are left out."
    )
    bundle: str = Field(description="The bundle that answered; of a stored slate, the one that made it.")
    arm: str = Field(
        description="Under which name it was asked: `champion`, or the arm of a split that the user belongs "
        "to."
    )
    timings_ms: dict[str, float] = Field(
        description="Milliseconds: each stage inside the ensemble; `ensemble`, the call as the gateway saw "
        "it; `batch`; `popular`; `display`; `held`, until it was sent, where the ensemble was busy; `total`."
    )
    run: str | None = Field(None, description="The batch run that made a stored slate; only there.")
    made_at: str | None = Field(
        None, description="When a stored slate was made, as ISO 8601 in UTC; only there."
    )
    age_s: float | None = Field(None, description="Seconds since a stored slate was made; only there.")
    next: str | None = Field(
        description="Sent as `after`, gives the items that come next; null where nothing is left, or too "
        "much was shown to go on."
    )
    explain: Explanation | None = Field(None, description="Only where the request asked.")


class ManyRequest(BaseModel):
    """Requests for several users, as of `/v1/recommendations`."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={"examples": [{"requests": [{"user_id": 7, "n": 5}, {"user_id": 8, "n": 5}]}]},
    )

    requests: Annotated[list[RecommendRequest], Field(min_length=1, max_length=MAX_USERS)] = Field(
        description="Each is answered for itself."
    )

    def of_texts(self, texts: Mapping[int, str]) -> Self:
        """Remembers the own ids, which are text, behind numbers."""
        for request in self.requests:
            request.of_texts(texts)
        return self


class ManyResponse(BaseModel):
    """An answer per request, in their order."""

    request_id: str = Field(description="Also in the header x-request-id; each answer's own begins with it.")
    answers: list[RecommendResponse]


class SimilarItem(Item):
    """One of the items like another."""

    found_by: list[str] = Field(
        description="The ensemble's sources that gave it: the vectors, or what goes with the item by a table."
    )


class SimilarResponse(RecommendResponse):
    """The items like another, who made the slate, and how long each stage took.

    From the ensemble, a `score` is the cosine of both items' vectors, -1 to 1, and what a table of the items
    that go together adds to it, where the bundle has one; the ranker is not asked.
    """

    items: list[SimilarItem] = Field(description="Best first; fewer than `n` where fewer are left.")  # type: ignore[assignment]
    item_id: OwnId = Field(description="The item that these are like.")


ScoreRange = Annotated[
    tuple[float, float],
    WithJsonSchema({"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}),
]
"""Described as a plain array: not every reader of OpenAPI knows `prefixItems`."""


class BundleSource(BaseModel):
    """One source of a bundle's candidates."""

    model_config = ConfigDict(from_attributes=True)

    name: str = Field(description="As `found_by` names it.")
    kind: str = Field(
        description="nearest: by vectors. item_to_item: what goes with the user's items, or with "
        "the item that others are to be like. popular, new: the same for everyone."
    )
    share: float = Field(description="Of the candidates, how many are its best.")


class BundleArm(BaseModel):
    """Who is answered by which bundle."""

    arm: str = Field(description="As answers name it: `champion`, or the bundle of an arm beside it.")
    bundle: str
    share: float = Field(description="Of the users.")


class FreshnessResponse(BaseModel):
    """How old what is served is, and whether it drifts."""

    found: Watched | None = Field(
        description="What the watch found in the last minute; null where nobody watches."
    )
    lines: list[str] = Field(description="The same, said for people.")


class BundleFacts(BaseModel):
    """The part of a manifest that callers and the page act on."""

    model_config = ConfigDict(from_attributes=True)

    bundle: str = Field(pattern=r"^[a-z0-9_-]+$", description="Name of the bundle.")
    dataset: str = Field(description="Name of the data set it was trained on.")
    created_at: str
    git_commit: str
    seed: int
    versions: dict[str, str] = Field(description="Libraries it was trained with.")
    items: int = Field(description="Items in the catalogue.")
    context: tuple[str, ...] = Field(description="Names that a request's `context` may use.")
    labels: tuple[str, ...] = Field(description="Labels that an event may have, each 0 or 1.")
    event_types: dict[str, dict[str, int]] = Field(
        description="Words that an event's `type` may be, and the labels that each stands for."
    )
    filters: dict[str, str] = Field(
        description="Columns that a request's `filters` may use, and their dtype."
    )
    user_features: dict[str, str] = Field(
        description="Columns that a request's `user_features` may use, and their dtype; of lists, list[...]."
    )
    display: tuple[str, ...] = Field(description="Fields shown with an item.")
    display_name: str | None = Field(description="The one of them that people read, if there is one.")
    sources: tuple[BundleSource, ...] = Field(description="Where the ensemble's candidates come from.")
    is_ranked: bool = Field(description="Whether the ranker counts in the order; where not, it is not run.")
    score_range: ScoreRange = Field(description="Bounds of a retrieval score.")
    user_id_dtype: IdDtype = Field(description="What a user's id is: int64, a number, or string.")
    item_id_dtype: IdDtype = Field(description="What an item's id is: int64, a number, or string.")
    sample_user_ids: tuple[OwnId, ...] = Field(description="A few known users to try.")


class BundleResponse(BundleFacts):
    """What is served: the champion's bundle, and who is answered by another."""

    arms: list[BundleArm] = Field(description="The champion first.")
    shadow: str | None = Field(description="The bundle that is asked beside the champion, and not shown.")


class SeenQuery(BaseModel):
    """How much of a user's seen items is wanted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: Annotated[int, Field(ge=1, le=200)] = Field(20, description="Items wanted.")


class SeenResponse(BaseModel):
    """A user's seen items, newest first; these are never recommended to them."""

    user_id: OwnId
    total: int = Field(description="How many are kept for this user.")
    items: list[dict[str, Any]] = Field(
        description="item_id and display fields, newest first, at most `limit`; where ids are text, without "
        "items that this bundle does not have."
    )
    degraded: list[str] = Field(description="`display` where display fields are missing.")


class Dependency(BaseModel):
    """Whether one dependency works."""

    is_ready: bool
    detail: str
    check_ms: float


class Readiness(BaseModel):
    """Whether the gateway can give full answers.

    While it is not ready it still answers, from the popular list.
    """

    is_ready: bool
    dependencies: dict[str, Dependency]


class Health(BaseModel):
    """The process is alive."""

    status: str = "ok"


class FieldProblem(BaseModel):
    """One wrong field."""

    field: str
    message: str


class Problem(BaseModel):
    """A problem document of RFC 9457."""

    type: str
    title: str
    status: int
    detail: str = Field(description="What is wrong and what to do.")
    instance: str | None = Field(None, description="urn:request: and the request id.")
    errors: list[FieldProblem] | None = Field(None, description="The wrong fields, where fields are wrong.")
    code: str | None = Field(None, description="bad_request, contract or dependency, where a stage failed.")
    stage: str | None = Field(None, description="The stage that failed.")
    dependency: str | None = Field(None, description="The server that did not answer.")
