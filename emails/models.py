"""The tables, and the only ways to create a message or change its state.

The row is the message; the RQ job that is rung after the commit carries nothing but its id. Two columns
say whose turn it is: `due_at` is set while a message waits for an attempt, `worker` while a worker holds
it. The transitions are those of states.py.
"""

import hashlib
import logging
import random
import re
import secrets
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, ClassVar, Self
from uuid import UUID
from zoneinfo import ZoneInfo

import uuid_utils.compat as uuid
from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import IntegrityError, OperationalError, connection, models, transaction
from django.db.models import F, Prefetch, Q
from django.db.models.functions import Now
from django.urls import reverse
from django.utils import timezone
from django.utils.functional import cached_property
from django.views.decorators.debug import sensitive_variables

from emails import doorbell, mime, staging, states, tallies
from emails.addresses import Address, needs_smtputf8
from emails.drafts import Draft
from emails.rows import Statement, insert, insertion, run, update_each, update_where
from emails.smtp import Outcome, Verdict
from emails.states import FINISHED, HELD, WAITING, State, Transition
from mailsite import logs

logger = logging.getLogger(__name__)

OVERDUE_AFTER = timedelta(seconds=5)  # how long a due message waits for its doorbell before the poll takes it
STRIKES = 3  # a message during whose transmission this many workers died is given up
IDEMPOTENCY_KEPT = timedelta(hours=24)
LOCK_NOT_AVAILABLE = "55P03"  # PostgreSQL's code


def database_now() -> datetime:
    """The database's time, by which heartbeats are written and judged. SQLite's is this machine's."""
    if connection.vendor == "sqlite":
        return datetime.now(UTC)
    with connection.cursor() as cursor:
        cursor.execute("SELECT statement_timestamp()")
        return cursor.fetchone()[0]


class Priority(models.IntegerChoices):
    """The three queues, the most urgent first."""

    HIGH = 0, "high"
    DEFAULT = 1, "default"
    LOW = 2, "low"


class ApiKey(models.Model):
    """A key for the API. Only its hash is kept: 190 random bits need no slow password hash."""

    PREFIX = "ms_"
    USE_NOTED_EVERY = timedelta(minutes=1)
    KNOWN_FOR = timedelta(seconds=1)
    _known: "ClassVar[dict[str, tuple[ApiKey, datetime]]]" = {}  # as they were read, and until when that holds

    class Permission(models.TextChoices):
        FULL = "full_access", "Full access"
        SENDING = "sending_access", "Sending only"

    id = models.UUIDField(primary_key=True, default=uuid.uuid7, editable=False)
    name = models.CharField(max_length=100)
    start = models.CharField(max_length=12, editable=False, help_text="The key's first characters, to recognise it by.")
    digest = models.CharField(max_length=64, unique=True, editable=False)
    permission = models.CharField(max_length=20, choices=Permission, default=Permission.FULL)
    domains = models.JSONField(default=list, blank=True, help_text="From-domains it may use; none means any.")
    priority = models.PositiveSmallIntegerField(
        choices=Priority, default=Priority.DEFAULT, help_text="For mail that doesn't say."
    )
    time_zone = models.CharField(max_length=64, default="UTC", help_text="In which `tomorrow at 9am` is read.")
    rate_limit = models.PositiveIntegerField(null=True, blank=True, help_text="Requests a second; empty for no limit.")
    daily_quota = models.PositiveIntegerField(
        null=True, blank=True, help_text="Emails a day (UTC); empty for no limit."
    )
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, editable=False, help_text="Within a minute.")
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        verbose_name = "API key"

    def __str__(self) -> str:
        return self.name

    def save(self, *args: Any, **kwargs: Any) -> None:
        super().save(*args, **kwargs)
        self._known.pop(self.digest, None)

    @classmethod
    @sensitive_variables("token")
    def create(cls, name: str, **fields: Any) -> tuple[Self, str]:
        """A new key, and its token: the one moment at which that can be seen. Raises ValidationError."""
        token = cls.PREFIX + secrets.token_urlsafe(24)
        key = cls(name=name, start=token[:8], digest=cls.hash(token), **fields)
        key.clean()
        key.clean_fields()
        key.save(force_insert=True)
        return key, token

    def clean(self) -> None:
        """What every door asks of a key, and the form in which its fields are kept."""
        self.name = (self.name or "").strip()
        problems = {}
        if not self.name or not self.name.isprintable() or len(self.name) > 100:
            problems["name"] = "A key's name has 1 to 100 characters, none of them a control character."
        try:
            ZoneInfo(self.time_zone)
        except (KeyError, TypeError, ValueError, OSError):
            problems["time_zone"] = "This is no time zone: one is called Europe/Berlin, another UTC."
        for limit in ("rate_limit", "daily_quota"):
            if (number := getattr(self, limit)) is not None and not 1 <= number < 2**31:
                problems[limit] = "A limit is at least 1 and at most 2147483647; without one there is no limit."
        if self._state.adding and self.expires_at and self.expires_at <= timezone.now():
            problems["expires_at"] = "This moment is past."
        try:
            if not isinstance(self.domains, list):
                raise TypeError
            self.domains = sorted({_ascii_domain(name) for name in self.domains})
        except (AttributeError, TypeError, ValueError):
            problems["domains"] = 'Domains are a list of names such as ["example.com"].'
        if problems:
            raise ValidationError(problems)

    @property
    def is_limited(self) -> bool:
        """Whether it may less, or for less long, than a key that it could make."""
        return bool(self.domains or self.expires_at)

    def may_send_from(self, sender: Address) -> bool:
        return not self.domains or sender.ascii_domain in self.domains

    @classmethod
    @sensitive_variables("token")
    def find(cls, token: str) -> Self | None:
        """The key that `token` opens, unless it is unknown, revoked or expired. Notes now and then that it is used.

        The look-up is by the token's hash, so that its time tells nothing about tokens. What another process
        changes of a key is seen within a second: so long it is used as it was read.
        """
        digest, now = cls.hash(token), timezone.now()
        key, until = cls._known.get(digest, (None, now))
        if until <= now:
            # Plain SQL takes a third of the ORM's time.
            live = "SELECT * FROM emails_apikey WHERE digest = %s AND revoked_at IS NULL"
            if not (key := next(iter(cls.objects.raw(live, [digest])), None)):
                return None
            cls._known[digest] = key, now + cls.KNOWN_FOR
            if not key.last_used_at or key.last_used_at < now - cls.USE_NOTED_EVERY:
                cls.objects.filter(pk=key.pk).update(last_used_at=now)
        return None if key.expires_at and key.expires_at <= now else key

    @staticmethod
    @sensitive_variables("token")
    def hash(token: str) -> str:
        return hashlib.sha256(token.encode(errors="replace")).hexdigest()

    def revoke(self) -> None:
        self.revoked_at = timezone.now()
        self.save(update_fields=["revoked_at"])


def _ascii_domain(name: str) -> str:
    """A domain as it goes over the wire, in lower case. Raises ValueError."""
    return Address.parse("any@" + name.strip()).ascii_domain


class IdempotencyKey(models.Model):
    """A caller's promise that a request is the same one: its answer is stored with its messages."""

    api_key = models.ForeignKey(ApiKey, on_delete=models.CASCADE)
    key = models.CharField(max_length=256)
    digest = models.CharField(max_length=64, help_text="SHA-256 of the request's body.")
    emails = models.JSONField(help_text="Ids of the messages that the request created.")
    errors = models.JSONField(default=list, help_text="What ailed the other items of a batch.")
    created_at = models.DateTimeField(db_index=True)

    class Meta:
        constraints = [models.UniqueConstraint("api_key", "key", name="idempotency_key_once")]

    def __str__(self) -> str:
        return self.key

    @classmethod
    def forget_old(cls) -> None:
        cls.objects.filter(created_at__lt=timezone.now() - IDEMPOTENCY_KEPT).delete()


@dataclass(frozen=True)
class Once:
    """Asks `submit` to store a request once: the key, whose it is, and the digest of the body it stands for.

    `errors` is the part of the answer that no message tells, kept beside their ids.
    """

    api_key: ApiKey
    key: str
    digest: str
    errors: list[dict] = field(default_factory=list)

    def first_use(self) -> IdempotencyKey | None:
        """What was stored under the key within its time. Raises OnceConflict if that was another body."""
        since = timezone.now() - IDEMPOTENCY_KEPT
        first = IdempotencyKey.objects.filter(api_key=self.api_key, key=self.key, created_at__gte=since).first()
        if first and first.digest != self.digest:
            raise OnceConflict(concurrent=False)
        return first


class UsedBefore(Exception):
    """An idempotency key's first use has been stored."""


class OnceConflict(Exception):
    """The key was used before with another body (`concurrent` False), or its first use is still being stored."""

    def __init__(self, concurrent: bool):
        super().__init__(concurrent)
        self.concurrent = concurrent


class Worker(models.Model):
    """A `manage.py rqworker` process. Claims belong to it, and its heartbeat is their lease.

    Heartbeats are written and judged by the database's clock, so that hosts need not agree on the time.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid7, editable=False)
    name = models.CharField(max_length=100)
    host = models.CharField(max_length=255)
    pid = models.PositiveIntegerField()
    started_at = models.DateTimeField(auto_now_add=True)
    heartbeat_at = models.DateTimeField(db_default=Now(), db_index=True)
    stopped_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return self.name

    def beat(self) -> bool:
        """Writes the heartbeat; whether the last one was recent, by the same clock that judges others."""
        mine = type(self).objects.filter(pk=self.pk)
        kept = mine.filter(heartbeat_at__gte=Now() - settings.LEASE / 2).update(heartbeat_at=Now())
        if not kept and not mine.update(heartbeat_at=Now()):
            self.heartbeat_at = Now()  # it was forgotten while it slept
            self.save(force_insert=True)
        return bool(kept)

    @classmethod
    def alive(cls, now: datetime | None = None) -> models.QuerySet[Self]:
        return cls.objects.filter(heartbeat_at__gte=(now or Now()) - settings.LEASE, stopped_at=None)

    @classmethod
    def dead(cls) -> models.QuerySet[Self]:
        return cls.objects.filter(heartbeat_at__lt=Now() - settings.LEASE)

    @classmethod
    def forget_old(cls) -> None:
        """Drops workers that have been silent for a day; their names stay in the timelines."""
        cls.objects.filter(heartbeat_at__lt=Now() - timedelta(days=1), emailrequest=None).delete()


class Hold(models.Model):
    """Why nothing is claimed: a queue or the relay paused by an operator, or trouble with the relay.

    While the relay is in trouble, single connections probe it. The first that gets through puts it on
    trial: mail is claimed again, and the first success ends the hold, while another trouble puts off the
    next probe still further. Waiting mail keeps its attempts and its order meanwhile.
    """

    class Target(models.TextChoices):
        HIGH = "high", "Queue high"
        DEFAULT = "default", "Queue default"
        LOW = "low", "Queue low"
        RELAY = "relay", "Relay"
        TROUBLE = "trouble", "Relay, in trouble"

    target = models.CharField(primary_key=True, max_length=10, choices=Target)
    reason = models.CharField(max_length=500)
    by = models.CharField(max_length=150, blank=True, help_text="Who paused it; empty for trouble.")
    since = models.DateTimeField(default=timezone.now)
    failures = models.PositiveIntegerField(default=0, editable=False)
    probe_at = models.DateTimeField(null=True, editable=False)
    on_trial = models.BooleanField(default=False, editable=False)

    class Meta:
        verbose_name = "pause"

    def __str__(self) -> str:
        return f"{self.get_target_display()}: {self.reason}"

    @classmethod
    def in_force(cls) -> "Holds":
        return Holds({hold.target: hold for hold in cls.objects.all()})

    def pause(self, by: str) -> None:
        """An operator keeps mail back."""
        self.by = by
        self.save(force_insert=True)  # it takes no other's place
        self._tell("Paused by %s: %s, %r", by, self.get_target_display(), self.reason)

    def resume(self, by: str) -> bool:
        """An operator lets mail go on. False if this very pause had ended already, whatever has begun since."""
        ended, _ = Hold.objects.filter(pk=self.pk, since=self.since).delete()
        if ended:
            self._tell("Resumed by %s: %s", by, self.get_target_display())
        return bool(ended)

    @staticmethod
    def _tell(line: str, *about: str) -> None:
        transaction.on_commit(lambda: logger.warning(line, *about), robust=True)

    @classmethod
    def note_trouble(cls, reason: str) -> None:
        """The relay can't be used: starts the hold, or puts off its next probe a little further (1 to 15 s)."""
        with transaction.atomic():
            hold, new = cls.objects.select_for_update().get_or_create(
                pk=cls.Target.TROUBLE, defaults={"reason": reason[:500]}
            )
            if new:
                logger.error("Mail is held, the relay %s is in trouble: %s", settings.RELAY, reason)
            hold.reason = reason[:500]
            hold.probe_at = timezone.now() + timedelta(seconds=min(2**hold.failures, 15))
            hold.failures = min(hold.failures + 1, 10)
            hold.on_trial = False
            hold.save(update_fields=["reason", "probe_at", "failures", "on_trial"])

    @classmethod
    def win_probe(cls) -> bool:
        """Whether the caller is the one to probe the relay now."""
        now = timezone.now()
        due = cls.objects.filter(pk=cls.Target.TROUBLE, on_trial=False, probe_at__lte=now)
        return bool(due.update(probe_at=now + timedelta(seconds=15)))  # another may try, should this one hang

    @classmethod
    def try_again(cls) -> None:
        """A probe got through: mail is claimed again, on trial."""
        cls.objects.filter(pk=cls.Target.TROUBLE).update(on_trial=True)

    @classmethod
    def end_trouble(cls) -> None:
        if cls.objects.filter(pk=cls.Target.TROUBLE).delete()[0]:
            logger.warning("The relay %s can be used again: mail flows.", settings.RELAY)


@dataclass(frozen=True)
class Holds:
    """The holds in force at one moment."""

    by_target: dict[str, Hold]

    @property
    def relay(self) -> Hold | None:
        """What keeps all mail back, if anything does."""
        return self.by_target.get(Hold.Target.RELAY) or self.trouble

    @property
    def trouble(self) -> Hold | None:
        hold = self.by_target.get(Hold.Target.TROUBLE)
        return hold if hold and not hold.on_trial else None

    @property
    def by_hand(self) -> list[Hold]:
        """What operators have paused."""
        return [hold for hold in self.by_target.values() if hold.target != Hold.Target.TROUBLE]

    @property
    def is_on_trial(self) -> bool:
        hold = self.by_target.get(Hold.Target.TROUBLE)
        return bool(hold and hold.on_trial)

    @property
    def queues(self) -> list[Priority]:
        return [priority for priority in Priority if priority.label in self.by_target]

    def without(self, targets: Collection[str]) -> "Holds":
        return Holds({target: hold for target, hold in self.by_target.items() if target not in targets})

    @property
    def open(self) -> list[Priority]:
        """The queues whose mail nobody keeps back on purpose."""
        is_paused = Hold.Target.RELAY in self.by_target
        return [priority for priority in Priority if not is_paused and priority not in self.queues]


class EmailQuerySet(models.QuerySet):
    # Accepting

    def submit(
        self,
        drafts: Sequence[Draft],
        *,
        origin: str,
        priority: Priority = Priority.DEFAULT,
        delay: float = 0,
        once: Once | None = None,
    ) -> "list[EmailRequest]":
        """Stores checked drafts as messages in one transaction, and rings for them after its commit.

        `origin` says in words where they came from; `delay` is the playground's, in seconds. When this
        returns, and an outer transaction has committed, they are accepted, whatever happens to Redis.

        With `once`, a key that was used within 24 hours gives the messages of its first use; the database's
        unique constraint decides who was first. Raises OnceConflict.
        """
        emails = [EmailRequest.from_draft(draft, priority, delay, origin) for draft in drafts]
        try:
            self.store(emails, once)
        except UsedBefore:
            return self._first_answer(once)
        self.ring(emails)
        return emails

    def store(self, emails: "Sequence[EmailRequest]", once: Once | None = None) -> None:
        """Stores what `from_draft` made in one transaction. Raises UsedBefore."""
        is_one_insert = not once and not any(email.draft.attachments for email in emails)
        with nullcontext() if is_one_insert else transaction.atomic():
            if once:
                self._claim_once(once, emails)
            accepted = [
                Event.of(email, Event.Kind.ACCEPTED, f"{email.origin}; queue {email.queue}") for email in emails
            ]
            insert(
                emails,
                (email.content for email in emails),
                (Recipient.of(email, address) for email in emails for address in email.draft.recipients),
                (Tag(email=email, name=name, value=value) for email in emails for name, value in email.draft.tags),
                accepted,
                along=tallies.of_all(emails, "accepted"),
            )
            Attachment.store(emails)
            Event.tell(accepted)

    def ring(self, emails: "Iterable[EmailRequest]") -> None:
        """Rings for those that are due, after the commit."""
        jobs = [email.job() for email in emails if email.state == State.QUEUED]
        transaction.on_commit(lambda: doorbell.ring(jobs), robust=True)

    def _claim_once(self, once: Once, emails: "Sequence[EmailRequest]") -> None:
        keys = IdempotencyKey.objects.filter(api_key=once.api_key, key=once.key)
        keys.filter(created_at__lt=timezone.now() - IDEMPOTENCY_KEPT).delete()
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SET LOCAL lock_timeout = '5s'")
        try:
            with transaction.atomic():
                IdempotencyKey.objects.create(
                    api_key=once.api_key,
                    key=once.key,
                    digest=once.digest,
                    emails=[str(email.pk) for email in emails],
                    errors=once.errors,
                    created_at=timezone.now(),
                )
        except IntegrityError:
            raise UsedBefore from None
        except OperationalError as error:
            if getattr(error.__cause__, "sqlstate", "") == LOCK_NOT_AVAILABLE:
                raise OnceConflict(concurrent=True) from None
            raise

    def _first_answer(self, once: Once) -> "list[EmailRequest]":
        first = IdempotencyKey.objects.get(api_key=once.api_key, key=once.key)
        if first.digest != once.digest:
            raise OnceConflict(concurrent=False)
        found = {str(email.pk): email for email in self.filter(pk__in=first.emails)}
        emails = [found.get(id) or EmailRequest(pk=UUID(id)) for id in first.emails]
        for email in emails:
            email.is_replay = True
        return emails

    # Claiming

    def claim(self, ids: Iterable[UUID], worker: Worker, holds: Holds | None = None) -> "list[EmailRequest]":
        """Takes those of `ids` that wait and are due: from here on they are `worker`'s alone.

        Rows that another worker is taking at this moment are skipped (PostgreSQL), so two workers that want
        the same rows neither share one nor wait in a circle.
        """
        with transaction.atomic(savepoint=False):
            free = self._due(holds or Hold.in_force()).filter(pk__in=ids)
            free = free.select_for_update(skip_locked=True, of=("self",))
            addressees = Prefetch("recipients", to_attr="addressees")
            emails = list(free.select_related("content").prefetch_related(addressees))
            if not emails:
                return []
            groups = defaultdict(list)
            for email in emails:
                email.claimed_from = State(email.state)
                email.state, email.due_at, email.worker, email.claims = State.CLAIMED, None, worker, email.claims + 1
                groups[email.claims].append(email.pk)
            writes = [
                self._moving(taken, states.CLAIM, State.CLAIMED, {"due_at": None, "worker_id": worker.pk, "claims": n})
                for n, taken in groups.items()
            ]
            writes += insertion(Event.of(email, Event.Kind.CLAIMED, f"by worker {worker.name}") for email in emails)
            writes += Suppression.apply([recipient for email in emails for recipient in email.addressees])
            run(writes)
            return emails

    def overdue(self, limit: int, holds: Holds | None = None, grace: timedelta = OVERDUE_AFTER) -> list[UUID]:
        """Ids of messages due for longer than `grace` with nobody having come for them, the most urgent first.

        Lost jobs, an emptied Redis, retries and dead workers' mail all come back through this one query.
        """
        fresh = Q(state=State.QUEUED, due_at__gt=timezone.now() - grace)  # their doorbell is still to be heard
        due = self._due(holds or Hold.in_force()).exclude(fresh).order_by("due_at").values_list("pk", flat=True)
        ids: list[UUID] = []
        for priority in Priority:  # each a range of the index, whatever waits for later
            if len(ids) < limit:
                ids += due.filter(priority=priority)[: limit - len(ids)]
        return ids

    def count_due(self, queues: Iterable[Priority], before: datetime, limit: int) -> int:
        """How many messages of these queues were due before that moment, counted no further than one above `limit`."""
        found = 0
        for priority in queues:  # each a range of the index
            due = self.filter(priority=priority, due_at__lt=before).order_by("due_at")
            found += due[: limit + 1 - found].count()
        return found

    def oldest_due(self, queues: Iterable[Priority], now: datetime) -> "EmailRequest | None":
        """Of the messages of these queues that are due, the one that has been so for longest."""
        due = self.filter(due_at__lte=now).order_by("due_at")
        oldest = [email for priority in queues if (email := due.filter(priority=priority).first())]
        return min(oldest, key=lambda email: email.due_at, default=None)

    def undecided(self) -> Self:
        """Those that are uncertain and held for a person's decision, in the order of their index."""
        return self.filter(state=State.UNKNOWN, due_at=None).order_by("created_at")

    def _due(self, holds: Holds) -> Self:
        if holds.relay:
            return self.none()
        return self.filter(due_at__lte=timezone.now()).exclude(priority__in=holds.queues)

    # Settling

    def record(
        self,
        worker: Worker,
        settlements: "Sequence[Settlement]" = (),
        upcoming: "Sequence[EmailRequest]" = (),
        moment: datetime | None = None,
    ) -> tuple[set[UUID], set[UUID]]:
        """What a worker must have on disk before it goes on: outcomes, and marks for what it transmits next.

        Outcomes: what the relay said, per recipient, and each message's next state. A claim that was freed
        meanwhile but that nobody took over is still settled; one that another worker has taken over is not
        touched, and its timeline says so. Marks: `upcoming` are about to be transmitted, for the first time at
        `moment` if at all.

        Returns the ids that were settled, and the ids that were marked: only these may go out.
        """
        with transaction.atomic(savepoint=False):
            outcomes = self._settling(settlements, states.SETTLE)
            returned = run(outcomes + self._marking(upcoming, worker, moment or timezone.now()))
            settled = set().union(*returned[: len(outcomes)])
            marked = set().union(*returned[len(outcomes) :])
            missed = [settlement for settlement in settlements if settlement.email.pk not in settled]
            earlier = self._settled_earlier(missed)
            missed = [settlement for settlement in missed if settlement.email.pk not in earlier]
            settled = settled.union(*run(self._settling(missed, states.SETTLE_LATE)))
            done = [settlement for settlement in settlements if settlement.email.pk in settled]
            changed = [recipient for settlement in done for recipient in settlement.changed]
            events = [Event.of(s.email, s.email.settled_as, s.email.detail) for s in done]
            counts = tallies.of_attempts([(settlement.email, settlement.attempts) for settlement in done])
            run(update_each(changed, ["state", "reply"]) + insertion(events) + counts)
            Event.tell(events)
            self._note_late([settlement for settlement in missed if settlement.email.pk not in settled], worker)
            troubles = [s.outcome.trouble or s.outcome.unknown for s in settlements if s.outcome.hold]
            if troubles:
                Hold.note_trouble(troubles[0])
        return settled | earlier, marked

    def _settling(self, settlements: "Sequence[Settlement]", transition: Transition) -> list[Statement]:
        """Moves messages to where their outcome takes them, as far as their claim is still the one in hand."""
        groups = defaultdict(list)
        now = timezone.now()
        for email in (settlement.email for settlement in settlements):
            finished_at = now if email.is_finished else None
            groups[email.claims, email.state, email.due_at, email.attempts, finished_at].append(email.pk)
        return [
            self._moving(
                ids,
                transition,
                state,
                {"worker_id": None, "due_at": due_at, "attempts": attempts, "finished_at": finished_at},
                {"claims": [claims]},
            )
            for (claims, state, due_at, attempts, finished_at), ids in groups.items()
        ]

    def _marking(self, emails: "Sequence[EmailRequest]", worker: Worker, moment: datetime) -> list[Statement]:
        groups = defaultdict(list)
        for email in emails:
            groups[email.claims, email.date or moment].append(email.pk)
        return [
            self._moving(
                ids,
                states.MARK,
                State.TRANSMITTING,
                {"date": date},
                {"claims": [claims], "worker_id": [worker.pk]},
            )
            for (claims, date), ids in groups.items()
        ]

    def _settled_earlier(self, settlements: "Sequence[Settlement]") -> set[UUID]:
        """Those that an earlier try of this very commit has settled, though its answer was lost."""
        if not settlements:
            return set()
        rows = self.filter(pk__in=[settlement.email.pk for settlement in settlements])
        standing = {row[0]: row[1:] for row in rows.values_list("pk", "claims", "state", "attempts")}
        emails = (settlement.email for settlement in settlements)
        return {e.pk for e in emails if standing.get(e.pk) == (e.claims, e.state, e.attempts)}

    def _note_late(self, settlements: "Sequence[Settlement]", worker: Worker) -> None:
        if not settlements:
            return
        known = set(self.filter(pk__in=[s.email.pk for s in settlements]).values_list("pk", flat=True))
        late = [settlement for settlement in settlements if settlement.email.pk in known]
        Event.store([Event.of(s.email, Event.Kind.LATE, f"from worker {worker.name}: {s.outcome}") for s in late])

    def release(self, emails: "Sequence[EmailRequest]", worker: Worker, reason: str) -> None:
        """Gives back claims whose transmission has not begun: they are due again at once, in their old order."""
        with transaction.atomic(savepoint=False):
            rows = self.filter(pk__in=[email.pk for email in emails], worker=worker).select_for_update().order_by("pk")
            claims = dict(rows.values_list("pk", "claims"))
            held = [email.pk for email in emails if claims.get(email.pk) == email.claims]
            self._release(self.filter(pk__in=held), reason)

    def release_orphans(self, worker: Worker, known: Collection[UUID]) -> None:
        """Gives back claims of `worker` that it doesn't know of: their commit came through, its answer didn't."""
        with transaction.atomic(savepoint=False):
            self._release(self.filter(worker=worker).exclude(pk__in=known), "claimed, but the answer was lost")

    def free_dead(self) -> None:
        """Frees the claims of workers whose heartbeat stopped for longer than the lease."""
        with transaction.atomic(savepoint=False):
            self._let_go(self.filter(worker__in=Worker.dead()), "its worker died", strike=1)

    def abandon(self, worker: Worker) -> None:
        """Ends a worker that was stopped: whatever it still holds is let go at once."""
        with transaction.atomic():
            self._let_go(self.filter(worker=worker), "its worker was stopped", strike=0)
            Worker.objects.filter(pk=worker.pk).update(stopped_at=Now())

    def _let_go(self, rows: Self, reason: str, strike: int) -> None:
        """What was not marked is simply due again; what was may have arrived or not, and its policy decides."""
        self._release(rows, reason)
        marked = list(rows.filter(state=State.TRANSMITTING).select_for_update(skip_locked=True))
        condemned = [email for email in marked if email.strikes + strike >= STRIKES]
        self._move(
            condemned,
            states.CONDEMN,
            State.FAILED,
            worker=None,
            strikes=F("strikes") + strike,
            finished_at=timezone.now(),
        )
        Recipient.objects.filter(email__in=condemned, state__in=Recipient.WAITING).update(state=Recipient.State.FAILED)
        Event.record(condemned, Event.Kind.FAILED, f"{STRIKES} workers died while transmitting it")
        for policy in OnUnknown:
            lost = [email for email in marked if email.on_unknown == policy and email not in condemned]
            self._move(
                lost,
                states.LOSE,
                State.UNKNOWN,
                worker=None,
                strikes=F("strikes") + strike,
                due_at=None if policy == OnUnknown.HOLD else timezone.now(),
            )
            detail = f"{reason} during the transmission: the relay may have it or not; {policy.label}"
            Event.record(lost, Event.Kind.UNKNOWN, detail)

    def _release(self, rows: Self, reason: str) -> None:
        claimed = list(rows.filter(state=State.CLAIMED).select_for_update(skip_locked=True))
        self._move(claimed, states.RELEASE, State.QUEUED, worker=None, due_at=F("created_at"))
        Event.record(claimed, Event.Kind.RELEASED, reason)

    # Decisions of people

    def cancel(self, by: str) -> int:
        """Takes back messages that wait; one that a worker has claimed goes out. Returns how many were canceled."""
        return self._decide(states.CANCEL, State.CANCELED, Recipient.State.CANCELED, f"by {by}")

    def give_up(self, by: str) -> int:
        """Ends the attempts for messages that wait. Returns for how many."""
        return self._decide(states.GIVE_UP, State.FAILED, Recipient.State.FAILED, f"given up by {by}")

    def confirm(self, by: str) -> int:
        """Notes that uncertain messages did arrive. Returns how many."""
        with transaction.atomic():
            ids = [email.pk for email in self._chosen(states.CONFIRM)]
            uncertain = Recipient.objects.filter(email__in=ids, state=Recipient.State.WAITING)
            uncertain.update(state=Recipient.State.ACCEPTED)
            # Those that the relay had put off were not in the transmission that is in doubt.
            emails = EmailRequest.objects.filter(pk__in=ids)
            return emails._decide(states.CONFIRM, State.SENT, Recipient.State.FAILED, f"{by} found that it arrived")

    def reschedule(self, moment: datetime, by: str) -> int:
        """Puts messages that wait off until `moment`, or forward to it. Returns how many."""
        with transaction.atomic():
            chosen = self._chosen(states.RESCHEDULE)
            self._move(chosen, states.RESCHEDULE, State.SCHEDULED, due_at=moment, scheduled_at=moment)
            Event.record(chosen, Event.Kind.SCHEDULED, f"for {moment:%Y-%m-%d %H:%M:%S %Z} by {by}")
        return len(chosen)

    def send_now(self, by: str) -> int:
        """Makes waiting messages due at once, uncertain ones that are held included. Returns how many."""
        with transaction.atomic():
            chosen = self._chosen(states.SEND_NOW)
            self._move(chosen, states.SEND_NOW, State.QUEUED, due_at=F("created_at"))
            Event.record(chosen, Event.Kind.HURRIED, f"by {by}")
            transaction.on_commit(lambda: doorbell.ring([email.job() for email in chosen]), robust=True)
        return len(chosen)

    def send_again(self, by: str) -> int:
        """Makes a new message of each that is finished: the same content, to all its recipients. Returns how many."""
        with transaction.atomic():
            related = ("recipients", "tag_set", "attachments")
            finished = self.filter(state__in=FINISHED).order_by("pk")
            chosen = list(finished.select_related("content").prefetch_related(*related))
            pairs = [(email, email.again()) for email in chosen]
            insert(new for _, new in pairs)
            insert(_copy(old.content, new) for old, new in pairs)
            insert(
                Recipient(email=new, address=to.address, mailbox=to.mailbox, domain=to.domain)
                for old, new in pairs
                for to in old.recipients.all()
            )
            insert(_copy(tag, new) for old, new in pairs for tag in old.tag_set.all())
            insert(_copy(attachment, new) for old, new in pairs for attachment in old.attachments.all())
            origin = "sent again from {} by {}; queue {}"
            Event.store(
                [Event.of(new, Event.Kind.ACCEPTED, origin.format(old.pk, by, new.queue)) for old, new in pairs]
            )
            Event.store([Event.of(old, Event.Kind.AGAIN, f"as {new.pk} by {by}") for old, new in pairs])
            run(tallies.of_all([new for _, new in pairs], "accepted"))
            self.ring(new for _, new in pairs)
        return len(pairs)

    def _decide(self, transition: Transition, target: State, rest: "Recipient.State", detail: str) -> int:
        """Ends messages that wait, with `rest` for those recipients that had no final outcome."""
        with transaction.atomic():
            chosen = self._chosen(transition)
            self._move(chosen, transition, target, due_at=None, finished_at=timezone.now())
            Recipient.objects.filter(email__in=chosen, state__in=Recipient.WAITING).update(state=rest)
            Event.record(chosen, Event.Kind(target), detail)
        return len(chosen)

    def _chosen(self, transition: Transition) -> "list[EmailRequest]":
        """The rows that `transition` may be taken from, locked in the order that everybody locks in."""
        return list(self.filter(state__in=transition.sources).select_for_update().order_by("pk"))

    def _move(self, emails: "Sequence[EmailRequest]", transition: Transition, target: State, **fields: Any) -> None:
        """The UPDATE that changes the state of messages that are locked, and its count."""
        assert target in transition.targets
        rows = EmailRequest.objects.filter(pk__in=[email.pk for email in emails], state__in=transition.sources)
        rows.update(state=target, **fields)
        run(tallies.of_all(emails, target))

    def _moving(
        self,
        ids: Sequence[UUID],
        transition: Transition,
        target: State,
        values: Mapping[str, Any],
        guards: Mapping[str, Collection[Any]] = MappingProxyType({}),
    ) -> Statement:
        """The same as a statement, for what is done with every message: plain values, where `guards` hold."""
        assert target in transition.targets
        values, guards = {"state": target, **values}, {"state": transition.sources, **guards}
        return update_where(EmailRequest, ids, values, guards)


class OnUnknown(models.TextChoices):
    """What is done with a message of which nobody knows whether it was sent."""

    RESEND = "resend", "it is sent again with the same Message-ID"
    HOLD = "hold", "it is held for a person to decide"


class EmailRequest(models.Model):
    """One message that was accepted, and what has become of it."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid7, editable=False)
    created_at = models.DateTimeField()
    scheduled_at = models.DateTimeField(null=True)
    state = models.CharField(max_length=12, choices=State, default=State.QUEUED)
    priority = models.PositiveSmallIntegerField(choices=Priority, default=Priority.DEFAULT)
    on_unknown = models.CharField(max_length=6, choices=OnUnknown)
    due_at = models.DateTimeField(null=True, help_text="When the next attempt may begin; set while the message waits.")
    worker = models.ForeignKey(
        Worker, null=True, on_delete=models.PROTECT, db_index=False, help_text="The worker that holds it now."
    )
    claims = models.PositiveIntegerField(default=0, help_text="How often a worker has taken it; numbers the claims.")
    attempts = models.PositiveSmallIntegerField(default=0, help_text="Attempts that the relay answered.")
    strikes = models.PositiveSmallIntegerField(default=0, help_text="Workers that died while transmitting it.")
    finished_at = models.DateTimeField(null=True)

    sender = models.CharField("from", max_length=1000)
    envelope_sender = models.CharField(max_length=320, help_text="Where bounces go (MAIL FROM).")
    to = models.JSONField()
    subject = models.CharField(max_length=998)
    message_id = models.CharField("Message-ID", max_length=320)
    date = models.DateTimeField(null=True, help_text="The moment of the first transmission.")
    delay = models.FloatField(default=0, help_text="Seconds that the playground waits before sending.")

    objects = EmailQuerySet.as_manager()

    # What it was made of, for whoever stores it.
    draft: Draft
    origin: str

    # How the last attempt was settled, for whoever reports it.
    settled_as = ""
    detail = ""
    about: dict[str, str] = {}  # the ids of the request that made it: another's thread may store it
    claimed_from = State.QUEUED  # the state in which `claim` found it
    is_replay = False  # whether `submit` found it stored before, under the same idempotency key

    class Meta:
        verbose_name = "email"
        indexes = [
            models.Index("priority", "due_at", condition=Q(due_at__isnull=False), name="email_waiting"),
            models.Index("worker", condition=Q(worker__isnull=False), name="email_held"),
            models.Index("state", "id", name="email_state"),
            models.Index("priority", "id", name="email_queue"),
            models.Index(
                "state", "created_at", condition=Q(state=State.UNKNOWN, due_at__isnull=True), name="email_undecided"
            ),
            models.Index("id", condition=Q(delay__gt=0), name="email_playground"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(state__in=sorted(WAITING - {State.UNKNOWN}), due_at__isnull=False, worker__isnull=True)
                | Q(state=State.UNKNOWN, worker__isnull=True)
                | Q(state__in=sorted(HELD), due_at__isnull=True, worker__isnull=False)
                | Q(state__in=sorted(FINISHED), due_at__isnull=True, worker__isnull=True),
                name="email_waits_is_held_or_finished",
            )
        ]

    def __str__(self) -> str:
        return f"Email to {self.first_recipient}: {self.subject}"

    def get_absolute_url(self) -> str:
        return reverse("message", args=[self.pk])

    @classmethod
    def from_draft(cls, draft: Draft, priority: Priority, delay: float = 0, origin: str = "") -> Self:
        """A message and its content, not yet stored."""
        now = timezone.now()
        email = cls(
            id=uuid.uuid7(),
            created_at=now,
            scheduled_at=draft.scheduled_at,
            due_at=draft.scheduled_at or now,
            state=State.SCHEDULED if draft.scheduled_at else State.QUEUED,
            priority=priority if draft.priority is None else draft.priority,
            on_unknown=draft.on_unknown or settings.ON_UNKNOWN,
            sender=str(draft.sender),
            envelope_sender=draft.sender.envelope,
            to=[str(address) for address in draft.to],
            subject=draft.subject,
            delay=delay,
        )
        email.draft, email.origin = draft, origin
        email.about = logs.at_hand()
        email.message_id = f"<{email.id.hex}@{draft.sender.ascii_domain}>"
        email.content = Content(
            html=draft.html,
            text=draft.text,
            cc=[str(address) for address in draft.cc],
            bcc=[str(address) for address in draft.bcc],
            reply_to=[str(address) for address in draft.reply_to],
            headers=draft.headers,
            tags=draft.tags,
            attachments=len(draft.attachments),
        )
        return email

    def again(self) -> Self:
        """A new message like this one, not yet stored, and still without its content."""
        now, id = timezone.now(), uuid.uuid7()
        domain = self.message_id.rpartition("@")[2]
        return type(self)(
            id=id,
            created_at=now,
            due_at=now,
            priority=self.priority,
            on_unknown=self.on_unknown,
            sender=self.sender,
            envelope_sender=self.envelope_sender,
            to=self.to,
            subject=self.subject,
            message_id=f"<{id.hex}@{domain}",
        )

    @property
    def queue(self) -> str:
        return Priority(self.priority).label

    @cached_property
    def addressees(self) -> "list[Recipient]":
        """Its recipients, as they were when it was claimed."""
        return list(self.recipients.all())

    @property
    def first_recipient(self) -> str:
        """The first address in `To`, and how many more there are."""
        more = len(self.to) - 1
        return self.to[0] + (f" and {more} more" if more else "")

    @property
    def is_finished(self) -> bool:
        return self.state in FINISHED

    @property
    def is_suspect(self) -> bool:
        """Whether a worker died while transmitting it: such messages are sent one at a time."""
        return self.strikes > 0

    def job(self) -> doorbell.Job:
        # The playground's job keeps RQ's own lifetime, so that its result can be looked up at leisure.
        return doorbell.Job(str(self.pk), self.queue, str(self), keep=500 if self.delay else 30)

    def raw(self) -> bytes:
        """The bytes that the relay gets; `Date` is missing until the first transmission."""
        stored = self.attachments.select_related("blob").order_by("position") if self.content.attachments else []
        return self._build([attachment.as_part() for attachment in stored])

    def preview(self, draft: Draft) -> bytes:
        """What `raw` will be once the draft that this message was made of is stored."""
        return self._build(draft.attachments)

    def _build(self, attachments: Sequence[mime.Attachment]) -> bytes:
        content = self.content
        reached = [settings.REDIRECT_TO.mailbox] if settings.REDIRECT_TO else [*self.to, *content.cc, *content.bcc]
        return mime.build(
            mime.Message(
                sender=self.sender,
                to=self.to,
                cc=content.cc,
                reply_to=content.reply_to,
                subject=self.subject,
                html=content.html,
                text=content.text,
                headers=content.headers,
                attachments=attachments,
                message_id=self.message_id,
                date=timezone.localtime(self.date, timezone.get_default_timezone()) if self.date else None,
                smtputf8=needs_smtputf8(self.sender) or all(map(needs_smtputf8, reached)),
            )
        )

    def settle(self, outcome: Outcome, now: datetime | None = None) -> "list[Recipient]":
        """Works out the next state from what the relay said; `record` stores it. Returns changed recipients."""
        now = now or timezone.now()
        changed = []
        for recipient in self.addressees:
            if result := outcome.results.get(recipient.address):
                recipient.state, recipient.reply = result.verdict.value, str(result)
                changed.append(recipient)
        if outcome.trouble and not outcome.results:
            # The relay's trouble is not the message's: no attempt is counted, and it keeps its place.
            self._wait(State.QUEUED, Event.Kind.DEFERRED, outcome.trouble, self.created_at)
        elif outcome.withdrawn:
            self._wait(State.QUEUED, Event.Kind.RELEASED, outcome.withdrawn, self.created_at)
        elif outcome.broken:
            self._finish(State.FAILED, Event.Kind.FAILED, outcome.broken, now)
        elif outcome.unknown:
            self.attempts += 1
            # One that has been uncertain again and again until it is too old is for a person, too.
            hold = self.on_unknown == OnUnknown.HOLD or now - self.created_at >= settings.RETRY_MAX_AGE
            detail = f"{outcome.unknown}; {OnUnknown.HOLD.label if hold else OnUnknown.RESEND.label}"
            self._wait(State.UNKNOWN, Event.Kind.UNKNOWN, detail, None if hold else self._next_attempt(now))
        else:
            self.attempts += 1
            changed += self._settle_by_recipient(outcome, now)
        return changed

    def _settle_by_recipient(self, outcome: Outcome, now: datetime) -> "list[Recipient]":
        """Any still waiting: deferred; else any accepted: sent; else bounced, or failed if we gave up."""
        recipients = self.addressees
        waiting = [recipient for recipient in recipients if recipient.is_waiting]
        if waiting and outcome.more:
            self._wait(State.QUEUED, Event.Kind.SENT, f"{outcome}; the other recipients follow", self.created_at)
            return []
        if waiting and now - self.created_at < settings.RETRY_MAX_AGE:
            detail = outcome.summary(Verdict.DEFERRED)
            self._wait(State.DEFERRED, Event.Kind.DEFERRED, detail, self._next_attempt(now))
            return []
        for recipient in waiting:
            recipient.state = Recipient.State.FAILED
        reached = {recipient.state for recipient in recipients}
        if Recipient.State.ACCEPTED in reached:
            self._finish(State.SENT, Event.Kind.SENT, "; ".join([str(outcome), *self._left_out(recipients)]), now)
        elif reached == {Recipient.State.SUPPRESSED}:
            self._finish(State.SUPPRESSED, Event.Kind.SUPPRESSED, "; ".join(self._left_out(recipients)), now)
        elif waiting:
            age = f"given up after {self.attempts} attempt{'' if self.attempts == 1 else 's'}"
            self._finish(State.FAILED, Event.Kind.FAILED, f"{age}: {outcome.summary(Verdict.DEFERRED)}", now)
        else:
            self._finish(State.BOUNCED, Event.Kind.BOUNCED, outcome.summary(Verdict.BOUNCED), now)
        return waiting

    def _left_out(self, recipients: "Sequence[Recipient]") -> list[str]:
        """In words: who is not sent to, and why."""
        return [f"{one.address} is {one.reply}" for one in recipients if one.state == Recipient.State.SUPPRESSED]

    def _wait(self, state: State, kind: str, detail: str, due_at: datetime | None) -> None:
        self.state, self.settled_as, self.detail, self.due_at, self.finished_at = state, kind, detail, due_at, None

    def _finish(self, state: State, kind: str, detail: str, now: datetime) -> None:
        self.state, self.settled_as, self.detail, self.due_at, self.finished_at = state, kind, detail, None, now

    def _next_attempt(self, now: datetime) -> datetime:
        """By the schedule, its last step repeated, give or take a fifth so that a crowd spreads out."""
        step = settings.RETRY_SCHEDULE[min(self.attempts, len(settings.RETRY_SCHEDULE)) - 1]
        return now + step * random.uniform(0.8, 1.2)


@dataclass
class Settlement:
    """A claimed message and what came of its attempt; the next state is worked out once, here."""

    email: EmailRequest
    outcome: Outcome
    changed: "list[Recipient]" = field(init=False)
    attempts: int = field(init=False)  # which it counts as: the relay's trouble is none

    def __post_init__(self) -> None:
        before = self.email.attempts
        self.changed = self.email.settle(self.outcome)
        self.attempts = self.email.attempts - before


def _copy(row: models.Model, email: EmailRequest) -> models.Model:
    """The same for another message."""
    fields = [field.attname for field in row._meta.concrete_fields if field.name != "email" and not field.primary_key]
    return type(row)(email=email, **{name: getattr(row, name) for name in fields})


class Content(models.Model):
    """What a message says: off the row that is claimed, which is rewritten at each step."""

    email = models.OneToOneField(EmailRequest, primary_key=True, on_delete=models.CASCADE)
    html = models.TextField(null=True)
    text = models.TextField(null=True)
    cc = models.JSONField(default=list)
    bcc = models.JSONField(default=list)
    reply_to = models.JSONField(default=list)
    headers = models.JSONField(default=list, help_text="The caller's own, as pairs of name and value.")
    tags = models.JSONField(default=list, help_text="Pairs of name and value.")
    attachments = models.PositiveSmallIntegerField(default=0, help_text="How many there are.")

    def __str__(self) -> str:
        return f"Content of {self.email_id}"


class Tag(models.Model):
    """The index of messages by tag."""

    email = models.ForeignKey(EmailRequest, on_delete=models.CASCADE)
    name = models.CharField(max_length=256)
    value = models.CharField(max_length=256)

    class Meta:
        indexes = [
            models.Index("name", "value", "email", name="tag_name_value"),
            models.Index("name", "email", name="tag_name"),
        ]

    def __str__(self) -> str:
        return f"{self.name}:{self.value}"


class Blob(models.Model):
    """Bytes, stored once however many messages carry them."""

    digest = models.CharField(primary_key=True, max_length=64, help_text="SHA-256 of the content.")
    content = models.BinaryField()

    def __str__(self) -> str:
        return self.digest


class Attachment(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid7, editable=False)
    email = models.ForeignKey(EmailRequest, on_delete=models.CASCADE, related_name="attachments")
    position = models.PositiveSmallIntegerField()
    filename = models.TextField()
    content_type = models.CharField(max_length=255, default="", help_text="As the caller gave it; empty: by the name.")
    content_id = models.CharField(max_length=255, default="", help_text="Makes it an inline part, named by cid: URLs.")
    size = models.PositiveBigIntegerField(help_text="Bytes.")
    blob = models.ForeignKey(Blob, on_delete=models.PROTECT)

    def __str__(self) -> str:
        return self.filename

    @classmethod
    def store(cls, emails: Sequence[EmailRequest]) -> None:
        """Stores the attachments that came with `emails`, and each content once."""
        rows, blobs = [], {}
        for email in emails:
            for position, part in enumerate(email.draft.attachments):
                digest = hashlib.sha256(part.content).hexdigest()
                blobs[digest] = part.content
                rows.append(
                    cls(
                        email=email,
                        position=position,
                        filename=part.filename,
                        content_type=part.content_type or "",
                        content_id=part.content_id or "",
                        size=len(part.content),
                        blob_id=digest,
                    )
                )
        if not rows:
            return
        known = set(Blob.objects.filter(pk__in=blobs).values_list("pk", flat=True))
        new = [Blob(digest=digest, content=content) for digest, content in sorted(blobs.items()) if digest not in known]
        Blob.objects.bulk_create(new, ignore_conflicts=True)
        insert(rows)

    def as_part(self) -> mime.Attachment:
        return mime.Attachment(
            self.filename, bytes(self.blob.content), self.content_type or None, self.content_id or None
        )


class Recipient(models.Model):
    """One mailbox that is to get the message, with an outcome of its own."""

    class State(models.TextChoices):
        WAITING = "waiting", "Waiting"
        ACCEPTED = "accepted", "Accepted by the relay"
        DEFERRED = "deferred", "Deferred"
        BOUNCED = "bounced", "Bounced"
        FAILED = "failed", "Given up"
        SUPPRESSED = "suppressed", "Suppressed"
        CANCELED = "canceled", "Canceled"

    WAITING = (State.WAITING, State.DEFERRED)

    email = models.ForeignKey(EmailRequest, on_delete=models.CASCADE, related_name="recipients")
    address = models.CharField(max_length=320, help_text="The address as it goes into RCPT TO.")
    mailbox = models.CharField(max_length=320, help_text="The address in lower case, to search by.")
    domain = models.CharField(max_length=255)
    state = models.CharField(max_length=10, choices=State, default=State.WAITING)
    reply = models.TextField(default="", help_text="The relay's last word on this recipient.")

    class Meta:
        indexes = [
            models.Index(
                fields=["mailbox", "email"], opclasses=["varchar_pattern_ops", "uuid_ops"], name="recipient_mailbox"
            ),
            models.Index("domain", "email", name="recipient_domain"),
        ]

    def __str__(self) -> str:
        return self.address

    @classmethod
    def of(cls, email: EmailRequest, address) -> Self:
        mailbox, domain = address.mailbox.lower(), address.domain.lower()
        return cls(email_id=email.pk, mailbox=mailbox, domain=domain, address=address.envelope)

    @property
    def is_waiting(self) -> bool:
        return self.state in self.WAITING


class Suppression(models.Model):
    """An address that is not sent to, whoever asks."""

    class Origin(models.TextChoices):
        BOUNCE = "bounce", "Bounced"
        COMPLAINT = "complaint", "Complained"
        MANUAL = "manual", "Added by hand"

    id = models.UUIDField(primary_key=True, default=uuid.uuid7, editable=False)
    mailbox = models.CharField("address", max_length=320, unique=True, help_text="In lower case.")
    origin = models.CharField(max_length=10, choices=Origin, default=Origin.MANUAL)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        indexes = [models.Index("origin", "id", name="suppression_origin")]

    def __str__(self) -> str:
        return self.mailbox

    def save(self, *args: Any, **kwargs: Any) -> None:
        self.mailbox = self.mailbox.lower()
        super().save(*args, **kwargs)

    @classmethod
    def among(cls, addresses: Collection[Address]) -> set[Address]:
        """Those of `addresses` that are not sent to: they are on the list, or not on ONLY_TO."""
        found = cls.objects.filter(mailbox__in={address.mailbox.lower() for address in addresses})
        listed = set(found.values_list("mailbox", flat=True))
        return {one for one in addresses if one.mailbox.lower() in listed or not settings.ONLY_TO.lets(one)}

    @classmethod
    def apply(cls, recipients: "Sequence[Recipient]") -> list[Statement]:
        """Marks those of `recipients` that are about to be sent to but are on the list, or not on ONLY_TO.

        Returns what stores that.
        """
        waiting = [recipient for recipient in recipients if recipient.is_waiting]
        found = cls.objects.filter(mailbox__in={recipient.mailbox for recipient in waiting})
        listed = set(found.values_list("mailbox", flat=True))
        for recipient in waiting:
            if recipient.mailbox in listed:
                recipient.state, recipient.reply = Recipient.State.SUPPRESSED, "on the suppression list"
            elif not settings.ONLY_TO.lets(recipient):
                recipient.state, recipient.reply = Recipient.State.SUPPRESSED, staging.HELD_BACK
        return update_each([recipient for recipient in waiting if not recipient.is_waiting], ["state", "reply"])


class Event(models.Model):
    """A line of a message's timeline."""

    class Kind(models.TextChoices):
        ACCEPTED = "accepted", "Accepted and queued"
        CLAIMED = "claimed", "Picked up"
        RELEASED = "released", "Given back to the queue"
        DEFERRED = "deferred", "Deferred"
        UNKNOWN = "unknown", "Uncertain"
        LATE = "late", "Late outcome, not applied"
        SCHEDULED = "scheduled", "Scheduled"
        HURRIED = "hurried", "Made due at once"
        SENT = "sent", "Sent"
        DELIVERED = "delivered", "Delivered"
        BOUNCED = "bounced", "Bounced"
        COMPLAINED = "complained", "Complained"
        FAILED = "failed", "Failed"
        SUPPRESSED = "suppressed", "Suppressed"
        CANCELED = "canceled", "Canceled"
        AGAIN = "again", "Sent again as new"

    LEVELS = {Kind.UNKNOWN: logging.WARNING, Kind.LATE: logging.WARNING}

    email = models.ForeignKey(EmailRequest, on_delete=models.CASCADE, related_name="events")
    at = models.DateTimeField(default=timezone.now)
    kind = models.CharField(max_length=10, choices=Kind)
    detail = models.TextField(default="")

    SETBACKS = (Kind.BOUNCED, Kind.FAILED, Kind.DEFERRED)

    class Meta:
        ordering = ["id"]
        indexes = [
            models.Index(
                "kind",
                "id",
                condition=Q(kind="bounced") | Q(kind="failed") | Q(kind="deferred"),  # as SQLite proves it for one kind
                name="event_setbacks",
            )
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} {self.detail}".strip()

    @classmethod
    def of(cls, email: EmailRequest, kind: str, detail: str) -> Self:
        event = cls(email_id=email.pk, kind=kind, detail=detail)
        event.about = {**email.about, "email": str(email.pk)}
        return event

    @classmethod
    def record(cls, emails: Collection[EmailRequest], kind: str, detail: str) -> None:
        """The same line for each of `emails`."""
        cls.store([cls.of(email, kind, detail) for email in emails])

    @classmethod
    def store(cls, events: "list[Self]") -> None:
        insert(events)
        cls.tell(events)

    @classmethod
    def tell(cls, events: "list[Self]") -> None:
        """After the commit, lines of the timelines are lines of the log, too."""
        if told := [event for event in events if logger.isEnabledFor(event.level)]:
            transaction.on_commit(lambda: cls._log(told), robust=True)

    @property
    def level(self) -> int:
        return self.LEVELS.get(self.kind, logging.INFO)

    @classmethod
    def _log(cls, events: "list[Self]") -> None:
        with logging.getHandlerByName("console").together():
            for event in events:
                label = cls.Kind(event.kind).label  # get_kind_display reads all choices each time
                text = f"{label}: {event.detail}" if event.detail else label
                logger.log(event.level, "Message %s: %s", event.email_id, text, extra=event.about)


class SandboxMessage(models.Model):
    """A message as the sandbox received it: the very bytes, and the envelope beside them."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid7, editable=False)
    received_at = models.DateTimeField()
    envelope_from = models.CharField(max_length=320)
    envelope_to = models.JSONField()
    subject = models.TextField()
    sender = models.TextField()
    raw = models.BinaryField()

    def __str__(self) -> str:
        return self.subject


class SandboxRecipient(models.Model):
    """The sandbox's index by recipient."""

    message = models.ForeignKey(SandboxMessage, on_delete=models.CASCADE, related_name="recipients")
    mailbox = models.CharField(max_length=320)

    class Meta:
        indexes = [
            models.Index(
                fields=["mailbox", "message"], opclasses=["varchar_pattern_ops", "uuid_ops"], name="sandbox_mailbox"
            )
        ]

    def __str__(self) -> str:
        return self.mailbox


class RequestLog(models.Model):
    """A request of the API and how it was answered, for a number of days (REQUEST_LOG_DAYS). No bodies."""

    FORGOTTEN_AT_ONCE = 2000

    id = models.UUIDField(primary_key=True, default=uuid.uuid7, editable=False)
    created_at = models.DateTimeField(default=timezone.now)
    method = models.CharField(max_length=16)
    path = models.CharField(max_length=201)
    status = models.PositiveSmallIntegerField()
    status_class = models.PositiveSmallIntegerField(help_text="The status's first digit.")
    milliseconds = models.PositiveIntegerField()
    key = models.CharField(max_length=100, help_text="The API key's name.")
    request = models.CharField(max_length=128, help_text="The request's id.")
    user_agent = models.CharField(max_length=200)

    class Meta:
        indexes = [
            models.Index("status_class", "id", name="request_status"),
            models.Index("path", "id", name="request_path"),
            models.Index("key", "id", name="request_key"),
            models.Index("request", "id", name="request_request"),
        ]

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.status}"

    @property
    def message(self) -> str | None:
        """The id of the message that was asked for and found."""
        named = re.match(r"/emails/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?:/|$)", self.path)
        return named[1] if named and self.status != 404 else None

    @classmethod
    def forget_old(cls, now: datetime | None = None) -> bool:
        """Deletes some of those that are older than they are kept. Whether there may be more."""
        limit = (now or timezone.now()) - timedelta(days=settings.REQUEST_LOG_DAYS)
        first_kept = UUID(int=int(limit.timestamp() * 1000) << 80)  # ids begin with their time
        old = list(
            cls.objects.filter(pk__lt=first_kept).order_by("pk").values_list("pk", flat=True)[: cls.FORGOTTEN_AT_ONCE]
        )
        cls.objects.filter(pk__in=old).delete()
        return len(old) == cls.FORGOTTEN_AT_ONCE
