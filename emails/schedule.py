"""`scheduled_at`: a moment as ISO 8601, or a phrase of the few kinds that can be read in one way only."""

import re
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

AHEAD = timedelta(days=30)
UNITS = {"second": 1, "minute": 60, "min": 60, "hour": 3600, "hr": 3600, "day": 86400, "week": 7 * 86400}
EXPECTED = "expected ISO 8601 (2026-12-24T18:00:00+01:00) or a phrase such as `in 2 hours` or `tomorrow at 9am`."

DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

_SPAN = re.compile(rf"in (an?|\d{{1,4}}) ({'|'.join(UNITS)})s?", re.ASCII)
_CLOCK = r"(?P<hour>\d{1,2})(?::(?P<minute>[0-5]\d))?(?: ?(?P<half>[ap])m)?|noon|midnight"
_DAY = rf"today|tomorrow|(?P<next>next )?(?P<weekday>{'|'.join(DAYS)})"
_PHRASE = re.compile(rf"(?:(?P<day>{_DAY}) )?(?:at )?(?P<clock>{_CLOCK})", re.ASCII)


def parse(text: str, time_zone: str = "UTC", now: datetime | None = None) -> datetime:
    """The moment that `text` names, in UTC; without an offset it is meant in `time_zone`, over a clock change too.

    Raises ValueError with a sentence for what can't be read, is past, or lies more than 30 days ahead.
    """
    now = now or datetime.now(UTC)
    moment = _iso(text, ZoneInfo(time_zone)) or _span(text, now) or _phrase(text, ZoneInfo(time_zone), now)
    if moment is None:
        raise ValueError(f"{text[:80]!r} can't be read; {EXPECTED}")
    if moment > now + AHEAD:
        raise ValueError(f"{text[:80]!r} lies more than 30 days ahead.")
    if moment < now - timedelta(minutes=1):
        raise ValueError(f"{text[:80]!r} is in the past.")
    return moment.astimezone(UTC)


def _iso(text: str, zone: ZoneInfo) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text.strip().upper())
    except ValueError:
        return None
    if "T" not in text.upper() and ":" not in text:
        return None  # a date alone names no moment
    return moment if moment.tzinfo else moment.replace(tzinfo=zone)


def _span(text: str, now: datetime) -> datetime | None:
    """`in 2 hours`: so much later by the clock that knows no summer time."""
    if not (found := _SPAN.fullmatch(_plain(text))):
        return None
    count = 1 if found[1].startswith("a") else int(found[1])
    return now + timedelta(seconds=count * UNITS[found[2]])


def _phrase(text: str, zone: ZoneInfo, now: datetime) -> datetime | None:
    """`tomorrow at 9am`: by the calendar and the wall clock of `zone`.

    A time that a clock change leaves out is meant by the clock as it was before.
    """
    local = now.astimezone(zone)
    if (plain := _plain(text)) == "tomorrow":
        return _on(local.date(), 1, local.time(), zone)
    if not (found := _PHRASE.fullmatch(plain)) or not (clock := _clock(found)):
        return None
    days = {"today": 0, "tomorrow": 1}.get(found["day"], 0)
    if found["weekday"]:
        days = (DAYS.index(found["weekday"]) - local.weekday()) % 7
    moment = _on(local.date(), days, clock, zone)
    if days == 0 and found["day"] != "today" and (found["next"] or moment < now):
        moment = _on(local.date(), 7 if found["weekday"] else 1, clock, zone)
    return moment


def _on(date: date, days: int, clock: time, zone: ZoneInfo) -> datetime:
    return datetime.combine(date + timedelta(days=days), clock, zone)


def _clock(found: re.Match[str]) -> time | None:
    if found["clock"] in ("noon", "midnight"):
        return time(12 if found["clock"] == "noon" else 0)
    hour, minute = int(found["hour"]), int(found["minute"] or 0)
    if found["half"]:
        return time(hour % 12 + (12 if found["half"] == "p" else 0), minute) if 1 <= hour <= 12 else None
    return time(hour, minute) if found["minute"] and hour < 24 else None  # `at 9` may be either half of the day


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
