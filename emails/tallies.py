"""Kept counts: what was accepted, what became of it and how long that took, by minute and queue.

They are written in the transaction of what they count, so that they are exact and nothing big is ever counted. Each
thread writes rows of its own, so that no two transactions wait for one row; a worker's housekeeping gathers old ones.
"""

import random
import threading
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any, Protocol

from django.db import connection, models, transaction
from django.db.models import F

from emails.rows import Statement, addition, run
from emails.states import FINISHED, State

BUCKETS = (1, 5, 15, 60, 300, 900, 3600, 14400)  # seconds from accepted to sent
TIMES = (*(f"within_{seconds}" for seconds in BUCKETS), "later")
OUTCOMES = (State.SENT, State.BOUNCED, State.FAILED, State.SUPPRESSED, State.CANCELED)
SETBACKS = (State.DEFERRED, State.UNKNOWN)

# In minutes. Younger rows may still be written to; older ones are gathered into one of each minute, then of each
# DECADE, then of all time.
WRITTEN, BY_MINUTE, BY_DECADE, DECADE = 10, 120, 2 * 24 * 60, 10
GATHERED = 0  # the shard of rows that belong to no thread
AT_ONCE = 5000  # rows
CORRECTING = 0x6D61696C73697465  # the number of PostgreSQL's lock that `correct` holds


class Counted(Protocol):
    """A message, as far as it is counted."""

    priority: int
    state: str
    settled_as: str
    created_at: datetime
    scheduled_at: datetime | None
    finished_at: datetime | None


def _count() -> models.BigIntegerField:
    return models.BigIntegerField(default=0, db_default=0)


class Tally(models.Model):
    """How often each thing happened to messages of one queue, in one minute, by one thread."""

    minute = models.PositiveIntegerField(help_text="Since 1970, in UTC; 0 for what is older than two days.")
    priority = models.PositiveSmallIntegerField()
    shard = models.BigIntegerField(help_text="The thread that wrote it.")

    accepted = _count()
    corrected = models.BigIntegerField(
        default=0, db_default=0, help_text="By how many those that are unfinished were set right."
    )
    sent, bounced, failed, suppressed, canceled = (_count() for _ in OUTCOMES)
    deferred, unknown = (_count() for _ in SETBACKS)
    attempts = _count()
    within_1, within_5, within_15, within_60, within_300, within_900, within_3600, within_14400, later = (
        _count() for _ in TIMES
    )
    milliseconds = models.BigIntegerField(default=0, db_default=0, help_text="From accepted to sent, summed up.")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["minute", "priority", "shard"], name="tally_of_thread")]

    def __str__(self) -> str:
        return f"{self.minute}, queue {self.priority}"


ENTRY_AND_ENDS = ("accepted", "corrected", *OUTCOMES)  # tell how many are unfinished
COUNTS = (*ENTRY_AND_ENDS, *SETBACKS, "attempts", *TIMES, "milliseconds")
_own = threading.local()


def of_all(emails: Iterable[Counted], what: str, at: int | None = None) -> list[Statement]:
    """Each of `emails` has been accepted, or has come to the state `what`; states that are not counted give nothing.

    `at` is the minute, where that isn't this one.
    """
    if what not in COUNTS:
        return []
    by_queue = Counter(email.priority for email in emails)
    at = minute() if at is None else at
    return _written({(at, priority, _shard()): Counter({what: number}) for priority, number in by_queue.items()})


def of_attempts(emails: Iterable[tuple[Counted, int]], at: int | None = None) -> list[Statement]:
    """What an attempt has made of each message, and how many attempts it counts as."""
    counts: dict[tuple, Counter] = defaultdict(Counter)
    at, shard = minute() if at is None else at, _shard()
    for email, attempts in emails:
        counters = counts[at, email.priority, shard]
        counters["attempts"] += attempts
        if email.state in FINISHED:
            counters[email.state] += 1
        elif email.settled_as in SETBACKS:
            counters[email.settled_as] += 1
        if email.state == State.SENT and email.finished_at:
            seconds = max(0.0, (email.finished_at - (email.scheduled_at or email.created_at)).total_seconds())
            counters[TIMES[bisect_left(BUCKETS, seconds)]] += 1
            counters["milliseconds"] += round(seconds * 1000)
    return _written(counts)


def minute(now: float | None = None) -> int:
    return int(time.time() if now is None else now) // 60


def gather(now: int | None = None) -> None:
    """Adds up old rows, so that the table stays small however long it is kept and however many processes write."""
    now = minute() if now is None else now
    old = Tally.objects.filter(minute__lt=now - WRITTEN)
    keys = old.values_list("id", "minute", "shard")
    moving = [id for id, at, shard in keys if (at, shard) != (_resting_place(at, now), GATHERED)]
    if not moving:
        return
    counts: dict[tuple, Counter] = defaultdict(Counter)
    with transaction.atomic():
        # Skipping what another worker gathers at this moment.
        rows = list(Tally.objects.filter(pk__in=moving[:AT_ONCE]).select_for_update(skip_locked=True))
        for row in rows:
            place = counts[_resting_place(row.minute, now), row.priority, GATHERED]
            place.update({name: getattr(row, name) for name in COUNTS})
        Tally.objects.filter(pk__in=[row.pk for row in rows]).delete()
        run(_written(counts))


def correct(emails: models.QuerySet) -> int:
    """Sets right how many messages are unfinished, after a version that doesn't count has run. Returns by how many.

    `emails` are all that are unfinished. Only what is amiss is looked at under a lock, by one worker at a time, or each
    would add what is missing.
    """
    if not _amiss(emails):
        return 0
    with transaction.atomic():  # on SQLite, the lock
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_xact_lock(%s)", [CORRECTING])
        amiss = _amiss(emails)
        run(_written({(minute(), queue, _shard()): Counter(corrected=n) for queue, n in amiss.items()}))
    return sum(map(abs, amiss.values()))


def _amiss(emails: models.QuerySet) -> dict[int, int]:
    """How many more are unfinished than the counts say, by queue.

    One statement sees one moment, so that it doesn't matter what happens meanwhile.
    """
    real = emails.order_by().values_list("priority").annotate(number=models.Count("pk"))
    counted = sum(map(F, OUTCOMES), -F("accepted") - F("corrected"))
    kept = Tally.objects.values_list("priority").annotate(number=models.Sum(counted))
    amiss: Counter[int] = Counter()
    for queue, number in real.union(kept, all=True):
        amiss[queue] += int(number)
    return {queue: number for queue, number in amiss.items() if number}


def totals(names: Collection[str] = COUNTS) -> dict[int, Counter]:
    """All that was ever counted, by queue."""
    rows = Tally.objects.values_list("priority").annotate(*map(models.Sum, names))
    return {queue: _counter(names, sums) for queue, *sums in rows}


def in_queues() -> dict[int, int]:
    """How many messages are unfinished, by queue."""
    return {queue: unfinished(counts) for queue, counts in totals(ENTRY_AND_ENDS).items()}


def unfinished(counts: Counter) -> int:
    return counts["accepted"] + counts["corrected"] - sum(counts[end] for end in OUTCOMES)


def per_minute(since: int, names: Collection[str]) -> dict[int, Counter]:
    """What was counted from the minute `since` on; what is older than two hours stands in the first of ten minutes."""
    rows = Tally.objects.filter(minute__gte=since).values_list("minute").annotate(*map(models.Sum, names))
    return {at: _counter(names, sums) for at, *sums in rows}


def _counter(names: Iterable[str], sums: Iterable[Any]) -> Counter:
    return Counter(dict(zip(names, map(int, sums), strict=True)))


def _resting_place(at: int, now: int) -> int:
    if at >= now - BY_MINUTE:
        return at
    return at - at % DECADE if at >= now - BY_DECADE else 0


def _shard() -> int:
    if not hasattr(_own, "shard"):
        _own.shard = random.getrandbits(62) + 1
    return _own.shard


def _written(counts: dict[tuple[int, ...], Counter]) -> list[Statement]:
    return addition(Tally, ("minute", "priority", "shard"), counts)
