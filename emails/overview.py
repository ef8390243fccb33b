"""Whether all is well, in a sentence, and the figures behind it: for somebody who looks at three in the morning.

Counts are the kept ones, or stop early; what else is read lies behind an index.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

from django.conf import settings
from django.db.models import Count
from django.utils.text import Truncator

from emails import health, tallies, why
from emails.models import EmailRequest, Event, Hold, Holds, Priority, Worker, database_now
from emails.states import State

SETBACKS_READ = 200  # of each kind, the newest, among which reasons are counted
REASONS, WORKERS = 5, 20  # shown
DAY = timedelta(days=1)
CODE = re.compile(r"[245](\d\d|\.\d{1,3}\.\d{1,3})")
HEIGHT = 60  # of a chart, where the highest bar ends


@dataclass
class Queue:
    name: str
    waiting: int = 0
    due: int = 0
    in_hand: int = 0

    @property
    def due_in_words(self) -> str:
        return why.in_words(self.due)


@dataclass
class Chart:
    """Bars from left to right: what was sent, and on top of it what was bounced or given up."""

    span: str
    sent: list[int]
    failed: list[int]
    minutes: int  # that each bar stands for

    @classmethod
    def of(cls, span: str, bars: int, minutes: int, now: int) -> Self:
        first = now // minutes - bars + 1
        chart = cls(span, [0] * bars, [0] * bars, minutes)
        for minute, counts in tallies.per_minute(first * minutes, ("sent", "bounced", "failed")).items():
            if 0 <= (bar := minute // minutes - first) < bars:
                chart.sent[bar] += counts["sent"]
                chart.failed[bar] += counts["bounced"] + counts["failed"]
        return chart

    @property
    def total(self) -> int:
        return sum(self.sent)

    @property
    def total_failed(self) -> int:
        return sum(self.failed)

    @property
    def most(self) -> float:
        """Of the highest bar, a minute."""
        return round(max(map(sum, zip(self.sent, self.failed, strict=True))) / self.minutes, 1)

    @property
    def width(self) -> int:
        return len(self.sent) * 4

    @property
    def sent_path(self) -> str:
        return self._path(self.sent, [0] * len(self.sent))

    @property
    def failed_path(self) -> str:
        return self._path(self.failed, self.sent)

    def _path(self, bars: Sequence[int], below: Sequence[int]) -> str:
        scale = HEIGHT / (self.most * self.minutes or 1)
        return "".join(
            f"M{x * 4} {HEIGHT - base * scale:.1f}v{-bar * scale:.1f}h3v{bar * scale:.1f}z"
            for x, (bar, base) in enumerate(zip(bars, below, strict=True))
            if bar
        )


@dataclass
class Reason:
    kind: str
    words: str
    count: int
    newest: Event


@dataclass
class Overview:
    at: datetime
    findings: dict[str, dict]  # of /health/ready
    problems: list[why.Problem]
    queues: list[Queue]
    on_the_wire: int
    hour: Chart
    day: Chart
    oldest: EmailRequest | None
    oldest_why: str
    reasons: list[Reason]
    more_reasons: int
    holds: Holds
    workers: list[Worker]
    is_new: bool  # nothing was ever accepted

    @classmethod
    def now(cls) -> Self:
        now, holds = database_now(), Hold.in_force()
        minute = tallies.minute(now.timestamp())
        findings = health.report()["checks"]
        held = list(
            EmailRequest.objects.filter(worker__isnull=False)
            .values_list("worker", "priority", "state")
            .annotate(Count("pk"))
        )
        totals = tallies.totals(tallies.ENTRY_AND_ENDS)
        oldest = EmailRequest.objects.oldest_due(holds.open, now)
        problems = _problems(findings, health.lag(oldest, holds, now), holds, now)
        reasons = _reasons(now)
        return cls(
            at=now,
            findings=findings,
            problems=problems,
            queues=[_queue(priority, totals.get(priority, Counter()), held, now) for priority in Priority],
            on_the_wire=sum(number for *_, state, number in held if state == State.TRANSMITTING),
            hour=Chart.of("hour", 60, 1, minute),
            day=Chart.of("day", 144, tallies.DECADE, minute),
            oldest=oldest,
            oldest_why=why.explain(oldest, now) if oldest and not problems else "",
            reasons=reasons[:REASONS],
            more_reasons=len(reasons[REASONS:]),
            holds=holds,
            workers=_workers(held, now),
            is_new=not any(counts["accepted"] for counts in totals.values()),
        )

    @property
    def kind(self) -> str:
        """What the verdict is about: it is news when this changes."""
        return self.problems[0].kind if self.problems else "ok"

    @property
    def verdict(self) -> str:
        if self.problems:
            return self.problems[0].sentence
        if due := sum(queue.due for queue in self.queues):
            wait = "1 is due" if due == 1 else f"{why.in_words(due)} are due"
        else:
            wait = f"nothing is due, {self.waiting:,} for later" if self.waiting else "nothing waits"
        return f"All is well: {wait}, {self.hour.total:,} sent in the last hour."

    @property
    def waiting(self) -> int:
        return sum(queue.waiting for queue in self.queues)


def _problems(findings: dict[str, dict], lag: health.Finding, holds: Holds, now: datetime) -> list[why.Problem]:
    """The gravest first: what keeps mail from being accepted, from going out, what makes it lag, what is for people."""
    database, redis = findings["database"], findings["redis"]
    problems = [why.Problem("database", database["message"])] if database["status"] != health.OK else []
    obstacles = [one for one in why.obstacles(list(Priority), holds, now) if one != why.REDIS_IS_AWAY]
    if database["status"] == health.FAILED:  # workers may be there, and not be able to write that they are
        obstacles = [one for one in obstacles if one.kind != "no worker"]
    problems += obstacles
    if lag.status != health.OK:
        problems.append(why.Problem("lag", lag.message))
    if undecided := EmailRequest.objects.undecided()[: why.COUNTED + 1].count():
        problems.append(why.Problem("undecided", f"Uncertain: {why.wait(undecided)} for a person's decision."))
    if redis["status"] != health.OK:
        problems.append(why.Problem("redis", redis["message"]))
    return problems


def _queue(priority: Priority, counts: Counter, held: list[tuple], now: datetime) -> Queue:
    in_hand = sum(number for _, queue, _, number in held if queue == priority)
    due = EmailRequest.objects.count_due([priority], now, why.COUNTED)
    return Queue(priority.label, max(0, tallies.unfinished(counts) - in_hand), due, in_hand)


def _reasons(now: datetime) -> list[Reason]:
    """Why attempts have failed within a day, the most frequent first, by the newest setbacks."""
    found: dict[tuple[str, str], list[Event]] = defaultdict(list)
    for kind in Event.SETBACKS:
        for event in Event.objects.filter(kind=kind).order_by("-pk")[:SETBACKS_READ]:
            if event.at > now - DAY:
                found[kind, reason(event.detail)].append(event)
    reasons = [Reason(Event.Kind(kind).label, words, len(all), all[0]) for (kind, words), all in found.items()]
    return sorted(reasons, key=lambda one: -one.count)


def reason(detail: str) -> str:
    """What replies of one kind have in common: the codes and the words, without addresses, names and numbers."""
    first = " ".join(detail.split("; ")[0].split())
    words = re.sub(r"\S*[@\d/]\S*", lambda found: found[0] if CODE.fullmatch(found[0]) else "…", first)
    return Truncator(re.sub(r"…( …)+", "…", words)).chars(100)


def _workers(held: list[tuple], now: datetime) -> list[Worker]:
    """Those that were not stopped, with what they have in hand."""
    workers = list(Worker.objects.filter(stopped_at=None).order_by("-heartbeat_at")[:WORKERS])
    for worker in workers:
        mine = [(state, number) for id, _, state, number in held if id == worker.pk]
        worker.holding = sum(number for _, number in mine)
        worker.transmitting = sum(number for state, number in mine if state == State.TRANSMITTING)
        worker.is_alive = worker.heartbeat_at >= now - settings.LEASE
    return workers
