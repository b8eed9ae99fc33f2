"""Items as callers put them, and what is told of a user. The descriptions are the API's documentation."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictStr

from contract.ids import OwnId
from contract.items import MOST_TEXT

MAX_ITEMS = 500
"""In one request."""
MAX_COLUMNS = 1000


class ItemsRequest(BaseModel):
    """Items, each whole: what is there of an item is replaced."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    items: Annotated[
        list[Annotated[dict[StrictStr, Any], Field(max_length=MAX_COLUMNS)]],
        Field(min_length=1, max_length=MAX_ITEMS),
    ] = Field(
        description="Each is an object with `item_id` and the columns of the items' table in dataset.yaml; "
        "one that is left out is null, and an item whose availability is null is available. A text "
        f"has at most {MOST_TEXT:,} characters."
    )


class Accepted(BaseModel):
    """What was asked for lies in a stream of Redis, and is done within a second or two."""

    request_id: str
    accepted: int = Field(description="Items, or users, that it is about.")


class HeldEvents(BaseModel):
    """What is held of one kind: in Redis still, or in the archive's files."""

    waiting: list[dict[str, Any]]
    archived: list[dict[str, Any]]


class UserResponse(BaseModel):
    """All that is held of a user."""

    request_id: str
    user_id: OwnId
    features: dict[str, Any] = Field(description="As models read them; empty for a user without any.")
    seen: list[OwnId] = Field(description="Items that were seen, newest first.")
    slates: list[dict[str, Any]] = Field(description="Stored slates, by the batch run that made them.")
    events: HeldEvents = Field(description="What the user did.")
    shown: HeldEvents = Field(description="What the user was shown.")
