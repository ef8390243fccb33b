"""Why a message waits and what happens next, or how it ended, in a sentence or two for a person.

All that is read here lies behind an index, and counting stops early: a million messages change nothing.
"""

import re
from collections.abc import Collection, Iterator
from datetime import datetime, timedelta
from itertools import islice
from typing import NamedTuple

from django.conf import settings
from django.contrib.humanize.templatetags.humanize import ordinal
from django.utils import timezone
from django.utils.text import Truncator
from redis.exceptions import RedisError
from rq.suspension import is_suspended

from emails.models import (
    STRIKES,
    EmailRequest,
    Event,
    Hold,
    Holds,
    OnUnknown,
    Priority,
    Recipient,
    Worker,
    database_now,
)
from emails.smtp import AT_MESSAGE, AT_SENDER, is_greylisting
from emails.states import FINISHED, HELD, State
from emails.surroundings import impatient_redis

COUNTED = 1000  # messages are counted no further
PACED_BY = 300  # events, the newest, that tell the pace
QUOTED = 200  # characters of a reply
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
NO_ANSWERS = {
    "Connection refused": "has refused connections",
    "no answer": "has not answered",
    "the relay said": "has turned us away",
}


class Problem(NamedTuple):
    kind: str  # the same for as long as it lasts, whatever its sentence counts
    sentence: str


REDIS_IS_AWAY = Problem(
    "redis", "Redis can't be reached: workers go on from the database, which takes a few seconds longer."
)


def explain(email: EmailRequest, now: datetime | None = None) -> str:
    """The decisive cause first, and at most one more. `now` is the database's, by whose clock workers are judged."""
    now = now or database_now()
    if email.state in FINISHED:
        return _ending(email, now)
    return " ".join(islice(_causes(email, now), 2))


def _causes(email: EmailRequest, now: datetime) -> Iterator[str]:
    """Sentences, each worked out only when it is asked for."""
    if email.state in HELD:
        yield _in_hand(email, now)
        if not Worker.alive(now).exists():
            yield no_worker(now)
    elif email.due_at is None:
        yield f"{_uncertain(email, now)}; held for your decision."
    elif email.due_at > now:
        yield _appointment(email, now)
        for obstacle in obstacles([Priority(email.priority)], Hold.in_force(), now):
            if obstacle != REDIS_IS_AWAY:
                yield obstacle.sentence
    else:
        holds, is_blocked = Hold.in_force(), False
        for obstacle in obstacles([Priority(email.priority)], holds, now):
            is_blocked |= obstacle != REDIS_IS_AWAY
            yield obstacle.sentence
        if email.is_suspect:
            yield _suspicion(email)
        yield _turn(email, holds, now, is_blocked)


# What keeps mail from being taken


def obstacles(queues: Collection[Priority], holds: Holds, now: datetime) -> Iterator[Problem]:
    """For all mail of these queues, the gravest first: what stops all of it, then what stops some, then what slows it.

    Each is worked out only when it is asked for.
    """
    if hold := holds.by_target.get(Hold.Target.RELAY):
        yield Problem("relay paused", paused(hold, now))
    held = [hold for queue in queues if (hold := holds.by_target.get(queue.label))]
    pauses = [Problem(f"{hold.target} paused", paused(hold, now)) for hold in held]
    if len(pauses) == len(queues):
        yield from pauses
    alive = Worker.alive(now).exists()
    if not alive:
        yield Problem("no worker", no_worker(now))
    suspended = _is_suspended()
    if suspended:
        sentence = "Delivery is suspended by `manage.py rqsuspend`: `manage.py rqresume` lets it go on."
        yield Problem("suspended", sentence)
    if holds.trouble:
        yield Problem("trouble", _trouble(holds, now, is_probed=alive))
    elif holds.is_on_trial:
        reason = _in_brackets(holds.by_target[Hold.Target.TROUBLE].reason)
        again = f"{_relay(True)} lets us in again after trouble {reason}"
        yield Problem("on trial", f"{again}: the first mail that passes frees the rest.")
    if len(pauses) < len(queues):
        yield from pauses
    if suspended is None:
        yield REDIS_IS_AWAY


def standing(holds: Holds) -> list[str]:
    """A sentence for whatever is paused, by whom and since when, and for the relay's trouble."""
    if not holds.by_target:
        return []
    now = database_now()
    sentences = [paused(hold, now) for hold in sorted(holds.by_hand, key=lambda hold: hold.since)]
    if holds.trouble:
        sentences.append(_trouble(holds, now, is_probed=Worker.alive(now).exists()))
    return sentences


def paused(hold: Hold, now: datetime) -> str:
    what = "relay" if hold.target == Hold.Target.RELAY else f"queue {hold.target}"
    by = f" by {hold.by}" if hold.by else ""
    return f"The {what} was paused{by} at {_clock(hold.since, now)}: {hold.reason}; mail waits until it is resumed."


def no_worker(now: datetime) -> str:
    last = Worker.objects.order_by("-heartbeat_at").first()
    seen = f"for {span(now - last.heartbeat_at)}" if last else "yet"
    return f"No worker has been seen {seen}: start one with `manage.py rqworker`."


def _is_suspended() -> bool | None:
    """None while Redis is away."""
    try:
        with impatient_redis() as redis:
            return bool(is_suspended(redis))
    except RedisError:
        return None


def _trouble(holds: Holds, now: datetime, is_probed: bool) -> str:
    hold = holds.by_target[Hold.Target.TROUBLE]
    reason = hold.reason.removesuffix(" (connecting)")
    fails = next((words for start, words in NO_ANSWERS.items() if reason.startswith(start)), "can't be used")
    probe = ""
    if is_probed and hold.probe_at:
        probe = f"; next probe {_in(hold.probe_at, now)}" if hold.probe_at > now else "; it is being probed"
    behind = wait(EmailRequest.objects.count_due(set(Priority) - set(holds.queues), now, COUNTED))
    return f"{_relay(True)} {fails} since {_clock(hold.since, now)} {_in_brackets(reason)}{probe}; {behind} behind it."


# What the message itself waits for


def _appointment(email: EmailRequest, now: datetime) -> str:
    """Why it is not due yet."""
    if email.state == State.UNKNOWN:
        return f"{_uncertain(email, now)}; to be sent again with the same Message-ID {_in(email.due_at, now)}."
    if email.state != State.DEFERRED:
        return f"Scheduled for {_clock(email.due_at, now)}."
    recipients = list(email.recipients.all())
    waiting = [recipient for recipient in recipients if recipient.is_waiting]
    reply = next((recipient.reply for recipient in waiting if recipient.reply), "")
    verb = "Greylisted" if is_greylisting(reply) else "Deferred"
    whose = f" for {len(waiting)} of {len(recipients)} recipients" if len(waiting) < len(recipients) else ""
    end = email.created_at + settings.RETRY_MAX_AGE
    nth = _ordinal(email.attempts + 1)
    following = (
        f"{nth} attempt {_in(email.due_at, now)}, given up after {_clock(end, now)}"
        if email.due_at < end
        else f"{nth} and last attempt {_in(email.due_at, now)}"
    )
    return f"{verb} by {_relay()}{whose} {_in_brackets(reply)}; {following}."


def _uncertain(email: EmailRequest, now: datetime) -> str:
    event = email.events.filter(kind=Event.Kind.UNKNOWN).last()
    if not event:
        return "Uncertain: the relay may have it or not"
    what = event.detail
    for policy in OnUnknown:
        what = what.removesuffix(f"; {policy.label}")
    what = what.removesuffix(": the relay may have it or not").replace("(after the final dot)", "after the last byte")
    return f"Uncertain: {_cut(what)} at {_clock(event.at, now)}"


def _suspicion(email: EmailRequest) -> str:
    died = "A worker" if email.strikes == 1 else f"{email.strikes} workers"
    return f"{died} died while transmitting it: it goes alone, and is given up when that makes {STRIKES}."


def _turn(email: EmailRequest, holds: Holds, now: datetime, is_blocked: bool) -> str:
    """That it is due, and what goes first."""
    if email.state == State.DEFERRED:
        begin = f"Its {_ordinal(email.attempts + 1)} attempt is due"
    elif email.state == State.UNKNOWN:
        begin = f"{_uncertain(email, now)}; now due to be sent again with the same Message-ID"
    else:
        begin = "Its time has come" if email.state == State.SCHEDULED else "Queued"
    higher = [queue for queue in Priority if queue < email.priority and queue not in holds.queues]
    ahead = EmailRequest.objects.count_due(higher, now, COUNTED)
    ahead += EmailRequest.objects.count_due([Priority(email.priority)], email.due_at, COUNTED - ahead)
    if not ahead:
        return f"{begin}: it is next{'' if is_blocked else ', and a worker takes it within seconds'}."
    return f"{begin}: {wait(ahead)} before it with its priority or a higher one{_pace(now)}."


def _pace(now: datetime) -> str:
    """How many are sent a second, by the newest events; nothing if too few were to tell."""
    events = list(Event.objects.order_by("-pk").values_list("kind", "at")[:PACED_BY])
    recent = [(kind, at) for kind, at in events if at > now - timedelta(minutes=1)]
    sent = sum(kind == Event.Kind.SENT for kind, _ in recent)
    if sent < 10:
        return ""
    seconds = 60 if len(recent) < PACED_BY else (now - recent[-1][1]).total_seconds()
    return f"; about {max(1, round(sent / max(1, seconds)))} are sent a second"


# In a worker's hands


def _in_hand(email: EmailRequest, now: datetime) -> str:
    worker = email.worker
    silence = now - worker.heartbeat_at
    if silence > settings.LEASE / 2:
        fate = "takes the message over"
        if email.state == State.TRANSMITTING:
            fate = f"finds it uncertain, and {OnUnknown(email.on_unknown).label}"
        ends = f"ends {_in(worker.heartbeat_at + settings.LEASE, now)}" if silence < settings.LEASE else "has ended"
        silent = f"Worker {worker}, which has it, has been silent for {span(silence)}"
        return f"{silent}: its lease {ends}, then another {fate}."
    claimed = email.events.filter(kind=Event.Kind.CLAIMED).last()
    since = f" at {_clock(claimed.at, now)}" if claimed else ""
    if email.state == State.TRANSMITTING:
        return f"Worker {worker} picked it up{since} and is handing it to {_relay()}, whose reply decides."
    if email.delay:
        return f"Worker {worker} picked it up{since}, and takes its time on purpose ({email.delay:g} s)."
    return f"Worker {worker} picked it up{since}; it goes out on the next free connection to {_relay()}."


# The end


def _ending(email: EmailRequest, now: datetime) -> str:
    event = email.events.filter(kind=email.state).last()
    detail = _cut(event.detail) if event else ""
    when = _clock(event.at if event else email.finished_at, now)
    recipients = list(email.recipients.all())
    match email.state:
        case State.SENT:
            left = [recipient for recipient in recipients if recipient.state != Recipient.State.ACCEPTED]
            if left:
                reached = f"{len(recipients) - len(left)} of {len(recipients)} recipients"
                return f"Sent at {when} to {reached}, not to {_refused(left)}."
            return f"Sent at {when}: {detail}."
        case State.BOUNCED:
            refused = [recipient for recipient in recipients if recipient.state == Recipient.State.BOUNCED]
            if not refused:
                return f"Bounced at {when}: {detail}."
            reply, what = refused[0].reply, _refused(refused)
            if reply.endswith(f"({AT_SENDER})"):
                what = f"our sender {email.envelope_sender} {_in_brackets(reply)}"
            elif reply.endswith(f"({AT_MESSAGE})"):
                what = f"the message {_in_brackets(reply)}"
            return f"Bounced at {when}: {_relay()} refused {what}."
        case State.DELIVERED:
            return f"Delivered, as the receiving side reported at {when}."
        case State.COMPLAINED:
            return f"Delivered, and reported as unwanted by its recipient at {when}."
        case State.SUPPRESSED:
            return f"Not sent at {when}: {detail}."
        case State.CANCELED:
            return f"Taken back at {when} {detail} before it went out."
        case _:
            return f"Failed at {when}: {detail}."


def _refused(recipients: list[Recipient]) -> str:
    """The first of them with its reply, and how many more there are."""
    more = f" and {len(recipients) - 1} more" if len(recipients) > 1 else ""
    return f"{recipients[0].address} {_in_brackets(recipients[0].reply)}{more}"


# Words


def _relay(capital: bool = False) -> str:
    name = "the sandbox" if settings.RELAY.is_sandbox else f"relay {settings.RELAY.host}"
    return name[0].upper() + name[1:] if capital else name


def in_words(count: int) -> str:
    """Of messages that were counted no further than COUNTED."""
    return f"{count:,}" if count <= COUNTED else f"more than {COUNTED:,}"


def wait(count: int) -> str:
    return "1 message waits" if count == 1 else f"{in_words(count)} messages wait"


def _in_brackets(reason: str) -> str:
    """A reason within a sentence; what ends it in brackets of its own, as a stage does, follows a comma."""
    return f"({_cut(re.sub(r' \(([^()]*)\)$', r', \1', reason))})"


def _cut(text: str) -> str:
    """A reply in one line and of a length that can be read."""
    return Truncator(" ".join(text.split()).rstrip(".")).chars(QUOTED)


def _clock(moment: datetime, now: datetime) -> str:
    """`02:14 UTC`; with the day where that isn't today. The zone is settings.TIME_ZONE."""
    moment, today = (timezone.localtime(one, timezone.get_default_timezone()) for one in (moment, now))
    day = "" if moment.date() == today.date() else f" on {moment.day} {moment:%B}"
    year = "" if moment.year == today.year else f" {moment.year}"
    return f"{moment:%H:%M %Z}{day}{year}"


def _in(moment: datetime, now: datetime) -> str:
    """`in 40 s`, or `at 03:05 UTC` for what is further off."""
    wait = moment - now
    return f"in {span(wait)}" if wait < timedelta(minutes=2) else f"at {_clock(moment, now)}"


def span(time: timedelta) -> str:
    seconds = max(0, round(time.total_seconds()))
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}s"
    return f"{seconds} s"


def _ordinal(number: int) -> str:
    return ORDINALS[number - 1] if number <= len(ORDINALS) else ordinal(number)
