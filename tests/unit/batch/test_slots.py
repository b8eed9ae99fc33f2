"""The times of a schedule are those of cron."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from batch.settings import BatchSettings

SATURDAY = datetime(2026, 11, 21, 12, 30, tzinfo=UTC)


def following(cron: str, zone: str = "UTC", after: datetime = SATURDAY) -> str:
    found = BatchSettings(cron=cron, timezone=zone).slot_after(after.timestamp())
    assert found is not None
    return f"{found.astimezone(UTC):%a %Y-%m-%d %H:%M}"


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("0 3 * * *", "Sun 2026-11-22 03:00"),
        ("30 12 * * *", "Sun 2026-11-22 12:30"),  # a run that begins at its time is that of this time
        ("0 3 * * 0", "Sun 2026-11-22 03:00"),
        ("0 3 * * 7", "Sun 2026-11-22 03:00"),
        ("0 3 * * 1", "Mon 2026-11-23 03:00"),
        ("0 3 * * MON-FRI", "Mon 2026-11-23 03:00"),
        ("0 3 1 * 3", "Wed 2026-11-25 03:00"),  # either day suffices
        ("0 3 22 * 3", "Sun 2026-11-22 03:00"),
        ("0 3 1 * */2", "Tue 2026-12-01 03:00"),  # a day that begins with a star restricts the other
        ("0 0 29 2 *", "Tue 2028-02-29 00:00"),
    ],
)
def test_the_next_time_is_that_of_cron(cron: str, expected: str) -> None:
    assert following(cron) == expected


def test_without_an_expression_there_is_no_time() -> None:
    assert BatchSettings(cron="").slot_after(SATURDAY.timestamp()) is None


def test_the_time_zone_counts() -> None:
    assert following("0 3 * * *", "Europe/Berlin") == "Sun 2026-11-22 02:00"


def test_an_hour_that_summer_time_leaves_out_does_not_stop_the_schedule() -> None:
    instant, times = datetime(2027, 3, 26, 12, tzinfo=UTC), []
    for _ in range(4):
        times.append(following("30 2 * * *", "Europe/Berlin", instant))
        instant = datetime.strptime(times[-1], "%a %Y-%m-%d %H:%M").replace(tzinfo=UTC)
    assert times[0] == "Sat 2027-03-27 01:30"
    assert times[1:] == ["Sun 2027-03-28 01:00", "Mon 2027-03-29 00:30", "Tue 2027-03-30 00:30"]


@pytest.mark.parametrize(
    ("cron", "zone", "said"),
    [
        ("0 3 * *", "UTC", "Wrong number of fields; write minute, hour, day, month, weekday as in cron"),
        ("61 * * * *", "UTC", "Bad minute"),
        ("x * * * *", "UTC", "Bad minute"),
        ("0 3 * * 8", "UTC", "Bad day-of-week"),
        ("0 3 * * 3-1", "UTC", "Bad day-of-week"),
        ("0 3 * * */0", "UTC", "Bad day-of-week"),
        ("0 3 * * someday", "UTC", "Bad day-of-week"),
        ("0 0 31 2 *", "UTC", "Bad day-of-month"),
        ("* * */20 * 1L", "UTC", "it never comes true"),
        ("0 3 * * *", "Mars/Olympus", "timezone"),
        ("0 3 * * *", "", "timezone"),
    ],
)
def test_what_is_no_schedule_is_refused(cron: str, zone: str, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        BatchSettings(cron=cron, timezone=zone)
