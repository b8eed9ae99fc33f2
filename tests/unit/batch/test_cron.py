"""Cron expressions are read as cron reads them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from batch.schedule.cron import cron_trigger, next_time, weekday_names

SATURDAY = datetime(2026, 11, 21, 12, 30, tzinfo=UTC)


def following(expression: str, zone: str = "UTC", after: datetime = SATURDAY) -> str:
    found = next_time(cron_trigger(expression, zone), after)
    assert found is not None
    return f"{found.astimezone(UTC):%a %Y-%m-%d %H:%M}"


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("0 3 * * *", "Sun 2026-11-22 03:00"),
        ("*/20 * * * *", "Sat 2026-11-21 12:40"),
        ("30 12 * * *", "Sat 2026-11-21 12:30"),
        ("0 3 * * 0", "Sun 2026-11-22 03:00"),
        ("0 3 * * 7", "Sun 2026-11-22 03:00"),
        ("0 3 * * 1", "Mon 2026-11-23 03:00"),
        ("0 3 * * MON-FRI", "Mon 2026-11-23 03:00"),
        ("0 3 * * fri-sun", "Sun 2026-11-22 03:00"),
        ("0 3 1 * *", "Tue 2026-12-01 03:00"),
        ("0 3 1 * 3", "Wed 2026-11-25 03:00"),  # either day suffices
        ("0 3 22 * 3", "Sun 2026-11-22 03:00"),
        ("0 0 29 2 *", "Tue 2028-02-29 00:00"),
    ],
)
def test_the_next_time_is_that_of_cron(expression: str, expected: str) -> None:
    assert following(expression) == expected


def test_the_time_zone_counts() -> None:
    assert following("0 3 * * *", "Europe/Berlin") == "Sun 2026-11-22 02:00"


def test_an_hour_that_summer_time_leaves_out_does_not_stop_the_schedule() -> None:
    trigger = cron_trigger("30 2 * * *", "Europe/Berlin")
    instant, times = datetime(2027, 3, 26, 12, tzinfo=UTC), []
    for _ in range(4):
        found = next_time(trigger, instant)
        assert found is not None
        times.append(found.astimezone(UTC))
        instant = found.astimezone(UTC) + timedelta(seconds=1)
    days = [time.date().day for time in times]
    assert days == sorted(set(days))
    assert max(days) >= 30


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("*/2", "sun,tue,thu,sat"),
        ("1-5", "mon,tue,wed,thu,fri"),
        ("5-7", "sun,fri,sat"),
        ("sun,3", "sun,wed"),
        ("4/2", "thu,sat"),
    ],
)
def test_weekdays_count_from_sunday(field: str, expected: str) -> None:
    assert weekday_names(field) == expected


@pytest.mark.parametrize(
    ("expression", "zone", "said"),
    [
        ("0 3 * *", "UTC", "4 fields, cron has 5"),
        ("61 * * * *", "UTC", "61"),
        ("x * * * *", "UTC", "x"),
        ("0 3 * * 8", "UTC", "weekday '8'"),
        ("0 3 * * 3-1", "UTC", "weekday '3-1'"),
        ("0 3 * * */0", "UTC", "weekday"),
        ("0 3 * * someday", "UTC", "weekday 'someday'"),
        ("0 0 31 2 *", "UTC", "never comes true"),
        ("0 3 * * *", "Mars/Olympus", "no time zone 'Mars/Olympus'"),
        ("0 3 * * *", "", "no time zone"),
    ],
)
def test_what_is_no_schedule_is_refused(expression: str, zone: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        cron_trigger(expression, zone)
