"""`scheduled_at`: a moment as ISO 8601, or a phrase of the few kinds that can be read in one way only."""

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import dateparser

AHEAD = timedelta(days=30)
UNITS = {"second": 1, "minute": 60, "min": 60, "hour": 3600, "hr": 3600, "day": 86400, "week": 7 * 86400}
EXPECTED = "expected ISO 8601 (2026-12-24T18:00:00+01:00) or a phrase such as `in 2 hours` or `tomorrow at 9am`."

_SPAN = re.compile(rf"in (an?|\d{{1,4}}) ({'|'.join(UNITS)})s?", re.ASCII)
_DAY = r"(?:today|tomorrow|(?:next )?(?:mon|tues|wednes|thurs|fri|satur|sun)day)"
_CLOCK = r"(?:noon|midnight|(?:0?[1-9]|1[0-2])(?::[0-5]\d)? ?[ap]m|(?:[01]?\d|2[0-3]):[0-5]\d)"
_PHRASE = re.compile(rf"tomorrow|(?:{_DAY} )?(?:at )?{_CLOCK}", re.ASCII)


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
        moment = datetime.fromisoformat(text.strip())
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
    """`tomorrow at 9am`: by the calendar and the wall clock of `zone`."""
    plain = _plain(text)
    if not _PHRASE.fullmatch(plain):
        return None
    plain = re.sub(r"\bnoon\b", "12:00", plain).replace("midnight", "00:00").removeprefix("next ")
    local = now.astimezone(zone).replace(tzinfo=None)
    options = {"PREFER_DATES_FROM": "future", "RELATIVE_BASE": local, "RETURN_AS_TIMEZONE_AWARE": False}
    wall = dateparser.parse(plain, languages=["en"], settings=options)
    if wall is None:
        return None
    # A wall-clock time that a clock change leaves out is meant by the clock as it was before.
    return wall.replace(tzinfo=zone).astimezone(UTC)


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
