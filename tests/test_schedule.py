"""`scheduled_at`: what can be read in one way only, in the right time zone, over a clock change too."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from emails import schedule

NOW = datetime(2026, 3, 27, 14, 30, 15, tzinfo=UTC)  # a Friday; Berlin's clocks go forward on Sunday


def read(text: str, zone: str = "UTC", now: datetime = NOW) -> str:
    moment = schedule.parse(text, zone, now)
    assert moment.utcoffset() == timedelta(0)
    return f"{moment:%Y-%m-%d %H:%M:%S}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-03-28T18:00:00Z", "2026-03-28 18:00:00"),
        ("2026-03-28T18:00:00+01:00", "2026-03-28 17:00:00"),
        ("2026-03-28T18:00:00-0930", "2026-03-29 03:30:00"),
        ("2026-03-28 18:00", "2026-03-28 18:00:00"),
        ("2026-03-28T18:00:00.123Z", "2026-03-28 18:00:00"),
        ("20260328T180000Z", "2026-03-28 18:00:00"),
        (" 2026-03-28t18:00:00z ", "2026-03-28 18:00:00"),
        ("2026-03-27T14:30:00Z", "2026-03-27 14:30:00"),  # a moment ago: the clocks of two machines differ
        ("in 1 min", "2026-03-27 14:31:15"),
        ("in a minute", "2026-03-27 14:31:15"),
        ("In  2   Hours", "2026-03-27 16:30:15"),
        ("in an hour", "2026-03-27 15:30:15"),
        ("in 90 seconds", "2026-03-27 14:31:45"),
        ("in 3 days", "2026-03-30 14:30:15"),
        ("in 4 weeks", "2026-04-24 14:30:15"),
        ("tomorrow", "2026-03-28 14:30:15"),
        ("tomorrow at 9am", "2026-03-28 09:00:00"),
        ("Tomorrow 9 AM", "2026-03-28 09:00:00"),
        ("tomorrow at 9:05pm", "2026-03-28 21:05:00"),
        ("tomorrow at 21:05", "2026-03-28 21:05:00"),
        ("tomorrow at 12am", "2026-03-28 00:00:00"),
        ("tomorrow at 12pm", "2026-03-28 12:00:00"),
        ("tomorrow at noon", "2026-03-28 12:00:00"),
        ("tomorrow at midnight", "2026-03-28 00:00:00"),
        ("today at 3pm", "2026-03-27 15:00:00"),
        ("today 23:59", "2026-03-27 23:59:00"),
        ("at 3pm", "2026-03-27 15:00:00"),
        ("15:00", "2026-03-27 15:00:00"),
        ("9am", "2026-03-28 09:00:00"),  # past for today, so tomorrow's
        ("saturday at 9am", "2026-03-28 09:00:00"),
        ("thursday at 9am", "2026-04-02 09:00:00"),
        ("monday 09:00", "2026-03-30 09:00:00"),
        ("next monday at 9am", "2026-03-30 09:00:00"),
        ("friday at 3pm", "2026-03-27 15:00:00"),
        ("friday at 9am", "2026-04-03 09:00:00"),  # today's is past
        ("next friday at 3pm", "2026-04-03 15:00:00"),
    ],
)
def test_what_can_be_read(text, expected):
    assert read(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "x", "now", "soon", "later", "yesterday", "in a while", "in some hours", "2 hours", "in hours"),
        *("2026-03-28", "2026-03", "28.03.2026 18:00", "03/28/2026 6pm", "03-04-2026 10:00", "March 28", "1774720800"),
        *("2026-02-30T10:00:00Z", "2026-03-28T25:00:00Z", "2026-03-28T10:60:00Z", "2026-03-28T10:00:00+25:00"),
        *("in -1 hours", "in 1.5 hours", "in 99999 hours", "in 2 fortnights", "in 1 month", "in 1 year", "in ٣ hours"),
        *("tomorrow at 13pm", "tomorrow at 0am", "tomorrow at 25:00", "tomorrow at 9", "tomorrow at 9:60", "at 99"),
        *("tomorrow at 9am tomorrow", "the day after tomorrow", "morgen um 9", "domani alle 9", "tomorrow\0at 9am"),
        *("tomorrow at 9am PST", "tomorrow at 9am; DROP TABLE", "x" * 100_000, "in " + "9" * 100_000 + " hours"),
    ],
)
def test_what_cannot_be_read_in_one_way_only(text):
    with pytest.raises(ValueError, match="can't be read; expected ISO 8601") as refused:
        schedule.parse(text, "UTC", NOW)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("2026-03-27T14:29:00Z", "past"),
        ("2020-01-01T00:00:00Z", "past"),
        ("0001-01-01T00:00:00+14:00", "past"),
        ("today at 9am", "past"),
        ("today at midnight", "past"),
        ("2026-04-26T14:30:16Z", "more than 30 days"),
        ("9999-12-31T23:59:59-12:00", "more than 30 days"),
        ("in 31 days", "more than 30 days"),
        ("in 9999 weeks", "more than 30 days"),
    ],
)
def test_what_lies_too_far_away(text, problem):
    with pytest.raises(ValueError, match=problem):
        schedule.parse(text, "UTC", NOW)


def test_thirty_days_are_allowed():
    assert read("in 30 days") == "2026-04-26 14:30:15"


# Time zones


@pytest.mark.parametrize(
    ("text", "zone", "expected"),
    [
        ("tomorrow at 9am", "Europe/Berlin", "2026-03-28 08:00:00"),
        ("monday at 9am", "Europe/Berlin", "2026-03-30 07:00:00"),  # after the change, the wall clock's nine
        ("2026-03-30T09:00", "Europe/Berlin", "2026-03-30 07:00:00"),
        ("2026-03-30T09:00Z", "Europe/Berlin", "2026-03-30 09:00:00"),  # its own offset comes first
        ("sunday at 2:30am", "Europe/Berlin", "2026-03-29 01:30:00"),  # left out: as if they had not changed yet
        ("2026-03-29T02:30", "Europe/Berlin", "2026-03-29 01:30:00"),
        ("in 48 hours", "Europe/Berlin", "2026-03-29 14:30:15"),  # so much later, whatever the clocks do
        ("in 2 days", "Europe/Berlin", "2026-03-29 14:30:15"),
        ("tomorrow at 9am", "America/New_York", "2026-03-28 13:00:00"),
        ("tomorrow at 9am", "Asia/Kolkata", "2026-03-28 03:30:00"),
        ("tomorrow at 9am", "Pacific/Kiritimati", "2026-03-28 19:00:00"),  # it is the 28th there already
        ("today at 9am", "Pacific/Kiritimati", "2026-03-27 19:00:00"),
    ],
)
def test_a_bare_phrase_is_meant_by_the_wall_clock_of_its_zone(text, zone, expected):
    assert read(text, zone) == expected


def test_a_time_that_comes_twice_is_the_first():
    before = datetime(2026, 10, 24, 12, tzinfo=UTC)
    assert read("tomorrow at 2:30am", "Europe/Berlin", before) == "2026-10-25 00:30:00"
    assert read("2026-10-25T02:30", "Europe/Berlin", before) == "2026-10-25 00:30:00"


@hypothesis_settings(deadline=None, max_examples=200)
@given(st.text(max_size=40) | st.from_regex(r"(in|at|tomorrow|today|monday|next|[0-9: -]|am|pm|hours){1,6}"))
def test_any_text_is_a_moment_or_a_sentence(text):
    try:
        moment = schedule.parse(text, "Europe/Berlin", NOW)
    except ValueError as error:
        assert str(error)
    else:
        assert NOW - timedelta(minutes=1) <= moment <= NOW + schedule.AHEAD


@hypothesis_settings(deadline=None, max_examples=100)
@given(
    day=st.sampled_from(["today", "tomorrow", "monday", "wednesday", "sunday"]),
    hour=st.integers(0, 23),
    minute=st.integers(0, 59),
    now=st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)),
)
def test_a_phrase_names_its_day_and_its_time(day, hour, minute, now):
    now = now.replace(second=0, microsecond=0, tzinfo=UTC)
    try:
        moment = schedule.parse(f"{day} at {hour}:{minute:02}", "UTC", now)
    except ValueError as error:
        assert day == "today" and "past" in str(error)
        return
    assert (moment.hour, moment.minute, moment.second) == (hour, minute, 0)
    if day in ("today", "tomorrow"):
        assert (moment.date() - now.date()).days == (day == "tomorrow")
    else:
        assert f"{moment:%A}".lower() == day
        assert timedelta(0) <= moment - now < timedelta(days=7)
