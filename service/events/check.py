"""Whether an event can be taken: compared with what the data set knows of labels, context, ids and time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime

from contract.bundle import Manifest
from contract.errors import WrongField, one_of
from contract.events import Event
from contract.ids import IdDtype, OwnId, number_of
from service.events.schemas import EventBody

AHEAD_S = 300.0
"""Seconds that an event may lie in the future: clocks differ."""
_FIRST_MS = 1e11
"""Above this a number counts milliseconds: as seconds it would lie beyond the year 5000."""
_ISO = "2026-11-29T12:00:00Z"


class WrongEvent(WrongField):
    """A field of an event that cannot be taken; `reason` is a word for the metric."""

    def __init__(self, field: str, message: str, reason: str) -> None:
        super().__init__(field, message)
        self.reason = reason


def read_event(body: EventBody, manifest: Manifest, now_s: float, max_age_s: float) -> tuple[Event, int, int]:
    """Takes what a caller sent, gives the event, and the numbers of its user and its item.

    Raises:
        WrongEvent: a field is wrong; the message says what to send instead.
    """
    user_id = _number("user_id", body.user_id, manifest.user_id_dtype)
    item_id = _number("item_id", body.item_id, manifest.item_id_dtype)
    for name in body.context:
        if name not in manifest.context:
            raise WrongEvent(f"context.{name}", f"is not known: {one_of(manifest.context)}", "context")
    event = Event(
        body.event_id or "",
        *(body.user_id, body.item_id, _instant_us(body.timestamp, now_s, max_age_s), _labels(body, manifest)),
        dict(body.context),
        body.request_id,
    )
    return event if event.event_id else event.named(), user_id, item_id


def _number(field: str, own: OwnId, dtype: IdDtype) -> int:
    try:
        return number_of(own, dtype)
    except ValueError as error:
        raise WrongEvent(field, str(error), "id") from None


def _labels(body: EventBody, manifest: Manifest) -> dict[str, int]:
    labels: dict[str, int] = {}
    if body.type is not None:
        known: Mapping[str, Mapping[str, int]] = manifest.event_types
        if body.type not in known:
            remedy = f"use one of {', '.join(known)}" if known else "it has none: name label columns instead"
            raise WrongEvent("type", f"{body.type!r} is no type of this data set: {remedy}", "type")
        labels |= known[body.type]
    for name, value in body.labels.items():
        if name not in manifest.labels:
            remedy = f"use {', '.join(manifest.labels)}" if manifest.labels else "it has none; train it anew"
            raise WrongEvent(name, f"is neither a field of an event nor a label: {remedy}", "label")
        if value is None:
            continue
        if isinstance(value, bool) or value not in (0, 1):
            raise WrongEvent(name, "must be 0 or 1, or left out where it is not known", "label")
        if labels.setdefault(name, int(value)) != value:
            meaning = f"type {body.type}, which stands for {name}: {labels[name]}"
            raise WrongEvent(name, f"contradicts {meaning}; leave one of the two out", "label")
    if not labels:
        named = [*manifest.labels, *(["type"] if manifest.event_types else [])]
        raise WrongEvent("labels", f"are missing: say what happened, by {' or '.join(named)}", "label")
    return labels


def _instant_us(timestamp: int | float | str | None, now_s: float, max_age_s: float) -> int:
    """Reads an instant, gives it in microseconds of Unix time."""
    if timestamp is None:
        return round(now_s * 1e6)
    at_s = _seconds(timestamp)
    if at_s > now_s + AHEAD_S:
        ahead = f"lies {at_s - now_s:,.0f} s in the future, and may lie {AHEAD_S:.0f}: set the clock"
        raise WrongEvent("timestamp", ahead, "ahead")
    if at_s < now_s - max_age_s:
        old = f"is {now_s - at_s:,.0f} s old, and may be {max_age_s:,.0f}: put it into the interactions table"
        raise WrongEvent("timestamp", old, "old")
    return round(at_s * 1e6)


def _seconds(timestamp: int | float | str) -> float:
    if isinstance(timestamp, str):
        try:
            at = datetime.fromisoformat(timestamp)
        except ValueError:
            raise WrongEvent("timestamp", f"must be ISO 8601, such as {_ISO}", "timestamp") from None
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    if not math.isfinite(timestamp) or abs(timestamp) >= 2**63:
        raise WrongEvent(
            "timestamp", f"must be seconds of Unix time, or ISO 8601, such as {_ISO}", "timestamp"
        )
    if abs(timestamp) >= _FIRST_MS:
        unit = "milliseconds" if abs(timestamp) < 1e14 else "microseconds or less"
        factor = 1e3 if abs(timestamp) < 1e14 else 1e6
        remedy = f"send seconds, such as {timestamp / factor:.3f}"
        raise WrongEvent("timestamp", f"counts {unit}: {remedy}", "milliseconds")
    return float(timestamp)
