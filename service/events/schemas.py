"""Events as callers send them, and what they are told. The descriptions are the API's documentation."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr

from service.schemas import MAX_NAMES, ContextValue, FieldProblem

MAX_EVENTS = 500
"""In one request."""
MAX_ID = 128
"""Characters of an `event_id` or a `request_id`."""


class EventBody(BaseModel):
    """One user did something with one item.

    Beside these fields it may have the label columns of the data set by their names, each 0 or 1: what
    happened, or did not. `/v1/bundle` lists them under `labels`.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    user_id: StrictInt | StrictStr = Field(description="The user.")
    item_id: StrictInt | StrictStr = Field(description="The item.")
    type: StrictStr | None = Field(
        None,
        description="A word that stands for labels, such as click; /v1/bundle lists them under "
        "`event_types`.",
    )
    context: dict[StrictStr, ContextValue] = Field(
        default_factory=dict,
        max_length=MAX_NAMES,
        description="What was known of the moment, as integer codes, as a recommendation is asked with.",
    )
    timestamp: StrictInt | StrictFloat | StrictStr | None = Field(
        None,
        description="When it happened: seconds of Unix time, or ISO 8601, in UTC where it names no zone. "
        "Default: now.",
    )
    request_id: Annotated[StrictStr, Field(min_length=1, max_length=MAX_ID)] | None = Field(
        None, description="Of the answer that showed the item to the user."
    )
    event_id: Annotated[StrictStr, Field(min_length=1, max_length=MAX_ID)] | None = Field(
        None,
        description="Your own name for it, one for each event of a user: what is sent again under the same "
        "name counts once. Default: made of the content, so an event without a timestamp is another one each "
        "time.",
    )

    @property
    def labels(self) -> dict[str, Any]:
        """The fields beside the declared ones."""
        return self.__pydantic_extra__ or {}


class EventsRequest(BaseModel):
    """What happened, oldest first where that matters."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [{"events": [{"user_id": 7, "item_id": 12, "type": "click", "event_id": "a1"}]}]
        },
    )

    events: Annotated[list[EventBody], Field(min_length=1, max_length=MAX_EVENTS)]
    atomic: StrictBool = Field(
        False, description="All or none: where one is wrong, no other is accepted either."
    )


class EventProblem(FieldProblem):
    """What is wrong with one event, and what to do."""

    index: int = Field(description="Its place among `events`, from 0.")


class EventsResponse(BaseModel):
    """What became of the events. Accepted ones lie in a stream of Redis, and none of them is lost."""

    request_id: str
    accepted: int = Field(description="Events that are new.")
    duplicates: int = Field(description="Events that had been accepted before.")
    refused: int = Field(description="Events that are wrong.")
    errors: list[EventProblem] = Field(description="What is wrong with those.")
