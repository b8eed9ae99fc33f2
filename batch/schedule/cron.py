"""Reads a cron expression as cron does, for APScheduler, whose own reading differs in the weekdays."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.combining import OrTrigger
from apscheduler.triggers.cron import CronTrigger

WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
EVERY = "*"


def cron_trigger(expression: str, zone: str) -> BaseTrigger:
    """Takes five fields (minute, hour, day of the month, month, weekday) and a time zone.

    As in cron, 0 and 7 are Sunday, and where both days are restricted, either suffices.

    Raises:
        ValueError: it is no such expression, it never comes true, or there is no such zone.
    """
    try:
        where = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"no time zone {zone!r}; name one such as Europe/Berlin") from None
    fields = expression.lower().split()
    if len(fields) != 5:
        raise ValueError(f"{len(fields)} fields, cron has 5: minute, hour, day, month, weekday")
    minute, hour, day, month, weekday = fields

    def part(day: str, weekday: str) -> CronTrigger:
        return CronTrigger(
            minute=minute, hour=hour, day=day, month=month, day_of_week=weekday, timezone=where
        )

    names = weekday if weekday == EVERY else weekday_names(weekday)
    is_either = not day.startswith(EVERY) and not weekday.startswith(EVERY)
    trigger = OrTrigger([part(day, EVERY), part(EVERY, names)]) if is_either else part(day, names)
    if next_time(trigger, datetime.now(UTC)) is None:
        raise ValueError("never comes true")
    return trigger


def next_time(trigger: BaseTrigger, after: datetime) -> datetime | None:
    """Gives the first instant of the schedule at or after another; None where there is none."""
    found: datetime | None = trigger.get_next_fire_time(None, after)
    return found


def weekday_names(field: str) -> str:
    """Writes cron's weekdays (`1-5`, `*/2`, `sun,3`) as a list of names.

    Raises:
        ValueError: it is none.
    """
    days: set[int] = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        first, dash, last = span.partition("-")
        if span == EVERY:
            start, end = 0, 6
        else:
            start = _weekday(first)
            end = _weekday(last) if dash else (6 if step else start)
        if end < start and end == 0:
            end = 7  # fri-sun
        if end < start or not (step or "1").isdigit() or int(step or 1) < 1:
            raise ValueError(f"weekday {part!r}: write 0-6 (0 is Sunday), mon-fri, or */2")
        days.update(day % 7 for day in range(start, end + 1, int(step or 1)))
    return ",".join(WEEKDAYS[day] for day in sorted(days))


def _weekday(text: str) -> int:
    if text in WEEKDAYS:
        return WEEKDAYS.index(text)
    if text.isdigit() and int(text) <= 7:
        return int(text)
    raise ValueError(f"weekday {text!r}: write 0-6 (0 is Sunday) or sun, mon, tue, wed, thu, fri, sat")
