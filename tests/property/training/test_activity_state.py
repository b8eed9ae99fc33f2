"""The reducer of activity: whatever order events come in, and however often, the state is that of the log."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from feast.type_map import python_values_to_proto_values
from feast.value_type import ValueType
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import example, given, settings
from hypothesis import strategies as st

from contract import names
from contract.activity import ActivityEvent, ActivityReducer, ActivityState
from contract.columns import Column, Role
from contract.feast import encode_time, encode_value, event_time_field, feature_field, state_field
from tests.unit.training.test_activity import prepared

DATASET = prepared([(1, 10, 0.0, 1)]).dataset
USER, ITEM = (ActivityReducer.of(DATASET, entity) for entity in (names.USER, names.ITEM))
RATES = {"is_click": 0.25}
LABEL = st.sampled_from([0, 1, None])


def event(
    at: int, item: int, label: float | None, partition: int | None = None, number: int = 0
) -> ActivityEvent:
    return ActivityEvent(
        at, item, {"is_click": label}, label == 1, partition is not None, partition, (0, number)
    )


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[list[ActivityEvent], list[ActivityEvent], list[ActivityEvent]]:
    """Draws rows of a log, events of two streams in the order they happened, and a delivery of them: another
    order, in which each stream begins again at times, where it was or before."""
    drawn = st.tuples(st.integers(-3, 5), st.integers(1, 4), LABEL)
    log = [event(*row) for row in sorted(draw(st.lists(drawn, max_size=8)), key=lambda row: row[0])]
    happened = draw(st.lists(drawn, max_size=12))
    streams: dict[int, list[ActivityEvent]] = {0: [], 1: []}
    for row in draw(st.permutations(happened)):
        partition = draw(st.integers(0, 1))
        streams[partition].append(event(*row, partition, len(streams[partition])))
    streamed = sorted((e for stream in streams.values() for e in stream), key=lambda e: e.at_us)
    delivered, at = [], {0: 0, 1: 0}
    while any(at[p] < len(stream) for p, stream in streams.items()):
        partition = draw(st.sampled_from([p for p, stream in streams.items() if at[p] < len(stream)]))
        delivered.append(streams[partition][at[partition]])
        at[partition] += 1
        if draw(st.integers(0, 3)) == 0:
            delivered += streams[partition][draw(st.integers(0, at[partition])) : at[partition]]
    return log, streamed, delivered


def look(events: list[ActivityEvent], limit: int) -> dict[str, Any]:
    """Gives a user's features, by going through all events."""
    known = [e.labels["is_click"] for e in events if e.labels["is_click"] is not None]
    by_item = sorted(events, key=lambda e: e.item_id if e.partition is not None else 0)
    ordered = sorted(by_item, key=lambda e: (e.at_us, e.partition is not None))
    newest = ordered[::-1]
    return {
        "user_recent_item_ids": [e.item_id for e in newest][:limit],
        "user_recent_positive_item_ids": [e.item_id for e in newest if e.is_positive][:limit],
        "user_event_count": float(len(events)),
        "user_is_click_rate": (sum(known) + 10 * 0.25) / (len(known) + 10),
    }


@settings(deadline=None, max_examples=40)
@given(deliveries())
def test_the_state_is_that_of_the_log_however_events_are_delivered(
    drawn: tuple[list[ActivityEvent], list[ActivityEvent], list[ActivityEvent]],
) -> None:
    log, streamed, delivered = drawn
    state = USER.fold(ActivityState(), *log)
    one_by_one = state
    for one in delivered:
        one_by_one = ActivityState.decode(USER.fold(one_by_one, one).encode())
    assert USER.features(one_by_one, RATES) == look([*log, *streamed], USER.newest_limit)
    together = USER.fold(state, *delivered)
    assert together.encode() == one_by_one.encode()
    anew = [e._replace(partition=9, position=(1, number)) for number, e in enumerate(streamed)]
    in_order = USER.fold(state, *anew)
    assert replace(in_order, positions={}).encode() == replace(together, positions={}).encode()


@settings(deadline=None, max_examples=40)
@given(deliveries())
def test_an_item_counts_and_keeps_no_list(
    drawn: tuple[list[ActivityEvent], list[ActivityEvent], list[ActivityEvent]],
) -> None:
    log, streamed, delivered = drawn
    state = ActivityState.decode(ITEM.fold(ITEM.fold(ActivityState(), *log), *delivered).encode())
    expected = look([*log, *streamed], 0)
    assert not state.newest.rows.size
    assert ITEM.features(state, RATES) == {
        "item_event_count": expected["user_event_count"],
        "item_is_click_rate": expected["user_is_click_rate"],
    }


def test_a_rate_of_which_nothing_is_known_is_null() -> None:
    assert USER.features(ActivityState(), {})["user_is_click_rate"] is None


@given(st.binary(max_size=80))
@example(b"")
@example(ActivityState().encode()[:-1])
@example(USER.fold(ActivityState(), event(1, 2, 1)).encode()[:-1])
def test_what_is_no_state_is_refused(packed: bytes) -> None:
    with pytest.raises(ValueError, match="activity state"):
        ActivityState.decode(packed)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3), st.floats(width=32, allow_nan=False))
def test_values_are_written_as_feast_does(items: list[int], number: float) -> None:
    columns = DATASET.user_activity_stored
    for name, kind, value in (
        (names.USER_RECENT_ITEM_IDS, ValueType.INT64_LIST, items),
        (names.USER_EVENT_COUNT, ValueType.FLOAT, number),
        (names.USER_EVENT_COUNT, ValueType.FLOAT, None),
    ):
        (proto,) = python_values_to_proto_values([value], kind)
        assert encode_value(columns[name], value) == proto.SerializeToString()


@given(st.lists(st.text(max_size=200), max_size=3), st.integers(-(2**63), 2**63 - 1), st.booleans())
def test_values_of_every_dtype_are_written_as_feast_does(texts: list[str], whole: int, flag: bool) -> None:
    floats = [float(len(text)) for text in texts] + [0.5]
    embedding = Column(role=Role.EMBEDDING, dtype="float32", max_length=len(floats))
    for column, kind, value in (
        (Column(role=Role.LIST, dtype="string"), ValueType.STRING_LIST, texts),
        (Column(role=Role.CATEGORICAL, dtype="string"), ValueType.STRING, "".join(texts)),
        (Column(role=Role.NUMERIC, dtype="int64"), ValueType.INT64, whole),
        (Column(role=Role.AVAILABILITY, dtype="bool"), ValueType.BOOL, flag),
        (embedding, ValueType.FLOAT_LIST, floats),
    ):
        (proto,) = python_values_to_proto_values([value], kind)
        assert encode_value(column, value) == proto.SerializeToString()


@given(st.integers(-(10**9), 10**10))
def test_times_are_written_as_feast_does(seconds: int) -> None:
    assert encode_time(seconds) == Timestamp(seconds=seconds).SerializeToString()


def test_a_row_holds_the_features_the_time_and_the_state() -> None:
    state = ITEM.fold(ActivityState(), event(5_999_999, 1, 1))
    view = names.ITEM_ACTIVITY
    assert ITEM.fields(state, RATES) == {
        **{
            feature_field(view, name): encode_value(DATASET.item_activity[name], value)
            for name, value in ITEM.features(state, RATES).items()
        },
        event_time_field(view): Timestamp(seconds=6).SerializeToString(),
        state_field(view): state.encode(),
    }
