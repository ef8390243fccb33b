"""The tables, and the only ways to create a message or change its state.

The row is the message; the RQ job that is rung after the commit carries nothing but its id. One column
decides who may take a message: `due_at` is set exactly while it waits, `worker` exactly while a worker
holds it, and neither once it is finished.

    submit ──► queued ──claim──► claimed ──mark──► transmitting ──record──► sent · bounced · deferred · unknown
                 ▲                  │                                            │
                 └──── release ─────┘◄─────────────── claim, when due ───────────┘
"""

import hashlib
import logging
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self
from uuid import UUID

import uuid_utils.compat as uuid
from django.conf import settings
from django.db import models, transaction
from django.db.models import F, Q
from django.db.models.functions import Coalesce, Now
from django.urls import reverse
from django.utils import timezone

from emails import doorbell, mime
from emails.drafts import Draft
from emails.smtp import Outcome, Verdict

logger = logging.getLogger(__name__)

LEASE = timedelta(seconds=60)  # a worker silent for longer is dead, and its claims are free
OVERDUE_AFTER = timedelta(seconds=5)  # how long a due message waits for its doorbell before the poll takes it
RETRY_AFTER = timedelta(minutes=1)


class State(models.TextChoices):
    QUEUED = "queued", "Queued"
    CLAIMED = "claimed", "Picked up"
    TRANSMITTING = "transmitting", "Transmitting"
    DEFERRED = "deferred", "Deferred"
    UNKNOWN = "unknown", "Uncertain"
    SENT = "sent", "Sent"
    BOUNCED = "bounced", "Bounced"
    FAILED = "failed", "Failed"


WAITING = (State.QUEUED, State.DEFERRED, State.UNKNOWN)
HELD = (State.CLAIMED, State.TRANSMITTING)
FINISHED = (State.SENT, State.BOUNCED, State.FAILED)


class Priority(models.IntegerChoices):
    """The three queues, the most urgent first."""

    HIGH = 0, "high"
    DEFAULT = 1, "default"
    LOW = 2, "low"


class ApiKey(models.Model):
    """A key for the API. Only its hash is kept: 190 random bits need no slow password hash."""

    PREFIX = "ms_"

    id = models.UUIDField(primary_key=True, default=uuid.uuid7, editable=False)
    name = models.CharField(max_length=100)
    start = models.CharField(max_length=12, editable=False, help_text="The key's first characters, to recognise it by.")
    digest = models.CharField(max_length=64, unique=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        verbose_name = "API key"

    def __str__(self) -> str:
        return self.name

    @classmethod
    def create(cls, name: str) -> tuple[Self, str]:
        """A new key, and its token: the one moment at which that can be seen."""
        token = cls.PREFIX + secrets.token_urlsafe(24)
        return cls.objects.create(name=name, start=token[:8], digest=cls.hash(token)), token

    @classmethod
    def find(cls, token: str) -> Self | None:
        """The key that `token` opens, unless it is unknown or revoked."""
        return cls.objects.filter(digest=cls.hash(token), revoked_at=None).first()

    @staticmethod
    def hash(token: str) -> str:
        return hashlib.sha256(token.encode(errors="replace")).hexdigest()

    def revoke(self) -> None:
        self.revoked_at = timezone.now()
        self.save(update_fields=["revoked_at"])


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

    def beat(self) -> None:
        type(self).objects.filter(pk=self.pk).update(heartbeat_at=Now())

    @classmethod
    def dead(cls) -> models.QuerySet[Self]:
        return cls.objects.filter(heartbeat_at__lt=Now() - LEASE)

    @classmethod
    def forget_old(cls) -> None:
        """Drops workers that have been silent for a day; their names stay in the timelines."""
        cls.objects.filter(heartbeat_at__lt=Now() - timedelta(days=1), emailrequest=None).delete()


class EmailQuerySet(models.QuerySet):
    def submit(
        self, drafts: Sequence[Draft], *, origin: str, priority: Priority = Priority.DEFAULT, delay: float = 0
    ) -> "list[EmailRequest]":
        """Stores checked drafts as messages in one transaction, and rings for them after its commit.

        `origin` says in words where they came from. `delay` is the playground's, in seconds. When this
        returns, and an outer transaction has committed, they are accepted, whatever happens to Redis.
        """
        emails, contents, recipients, events = [], [], [], []
        now = timezone.now()
        for draft in drafts:
            email = EmailRequest(
                id=uuid.uuid7(),
                created_at=now,
                due_at=now,
                priority=priority,
                sender=str(draft.sender),
                envelope_sender=draft.sender.envelope,
                to=[str(address) for address in draft.to],
                subject=draft.subject,
                delay=delay,
            )
            email.message_id = f"<{email.id.hex}@{draft.sender.ascii_domain}>"
            emails.append(email)
            contents.append(
                Content(
                    email=email,
                    html=draft.html,
                    text=draft.text,
                    cc=[str(address) for address in draft.cc],
                    bcc=[str(address) for address in draft.bcc],
                    reply_to=[str(address) for address in draft.reply_to],
                )
            )
            recipients += [
                Recipient(email=email, mailbox=address.mailbox.lower(), domain=address.domain.lower(), address=address.envelope)
                for address in draft.recipients
            ]
            events.append(
                Event(email=email, at=now, kind=Event.Kind.ACCEPTED, detail=f"{origin}; queue {email.queue}")
            )
        with transaction.atomic():
            self.bulk_create(emails)
            Content.objects.bulk_create(contents)
            Recipient.objects.bulk_create(recipients)
            Event.objects.bulk_create(events)
            transaction.on_commit(lambda: doorbell.ring([email.job() for email in emails]))
        return emails

    def claim(self, ids: Iterable[UUID], worker: Worker) -> "list[EmailRequest]":
        """Takes those of `ids` that wait and are due: from here on they are `worker`'s alone.

        One conditional UPDATE decides. The rows that another worker is taking at this moment are skipped
        (PostgreSQL), so two workers that want the same rows neither share one nor wait in a circle.
        """
        with transaction.atomic():
            free = self.filter(pk__in=ids, due_at__lte=timezone.now()).select_for_update(skip_locked=True)
            taken = list(free.values_list("pk", flat=True))
            if not taken:
                return []
            self.filter(pk__in=taken, due_at__isnull=False).update(
                state=State.CLAIMED, due_at=None, worker=worker, claims=F("claims") + 1
            )
            now = timezone.now()
            Event.objects.bulk_create(
                Event(email_id=pk, at=now, kind=Event.Kind.CLAIMED, detail=f"by worker {worker.name}") for pk in taken
            )
            return list(
                self.filter(pk__in=taken, worker=worker).select_related("content").prefetch_related("recipients")
            )

    def overdue(self, limit: int, grace: timedelta = OVERDUE_AFTER) -> list[UUID]:
        """Ids of messages due for longer than `grace` with nobody having come for them, the most urgent first.

        Lost jobs, an emptied Redis, retries and dead workers' mail all come back through this one query.
        """
        due = self.filter(due_at__lte=timezone.now() - grace).order_by("priority", "due_at")
        return list(due.values_list("pk", flat=True)[:limit])

    def mark(self, emails: "Sequence[EmailRequest]", worker: Worker) -> set[UUID]:
        """Durably notes that `emails` are about to be transmitted; ids of those still held by `worker` come back."""
        now = timezone.now()
        for email in emails:
            email.date = email.date or now
        held = self._held([email.pk for email in emails], worker)
        self.filter(pk__in=held).update(state=State.TRANSMITTING, date=Coalesce("date", now))
        return held

    def record(self, outcomes: "Sequence[Settlement]", worker: Worker) -> None:
        """Writes down what the relay said, per recipient, and each message's next state."""
        with transaction.atomic():
            held = self._held([settlement.email.pk for settlement in outcomes], worker)
            for settlement in outcomes:
                if settlement.email.pk in held:
                    settlement.email._settle(settlement.outcome, worker)
                else:
                    logger.warning("Message %s was taken over by another worker; its outcome is not recorded.", settlement.email.pk)

    def _held(self, ids: Iterable[UUID], worker: Worker) -> set[UUID]:
        return set(
            self.filter(pk__in=list(ids), worker=worker).select_for_update().order_by("pk").values_list("pk", flat=True)
        )

    def release(self, ids: Iterable[UUID], worker: Worker, reason: str) -> None:
        """Gives back claims whose transmission has not begun: they are due again at once."""
        with transaction.atomic():
            held = self.filter(pk__in=self._held(ids, worker), state=State.CLAIMED)
            self._free(held, State.QUEUED, Event.Kind.RELEASED, reason)

    def free_dead(self) -> None:
        """Frees the claims of workers whose heartbeat stopped for longer than the lease.

        What they had marked as transmitting may or may not have arrived: it becomes *unknown*, and is
        sent again with the same Message-ID, so that a receiver can drop the copy.
        """
        with transaction.atomic():
            self._let_go(self.filter(worker__in=Worker.dead()), "its worker died")

    def abandon(self, worker: Worker) -> None:
        """Ends a worker that was stopped: whatever it still holds is let go at once."""
        with transaction.atomic():
            self._let_go(self.filter(worker=worker), "its worker was stopped")
            Worker.objects.filter(pk=worker.pk).update(stopped_at=Now())

    def _let_go(self, rows: models.QuerySet, reason: str) -> None:
        self._free(rows.filter(state=State.CLAIMED), State.QUEUED, Event.Kind.RELEASED, reason)
        self._free(
            rows.filter(state=State.TRANSMITTING),
            State.UNKNOWN,
            Event.Kind.UNKNOWN,
            f"{reason} during the transmission: the relay may have the message or not",
        )

    def _free(self, rows: models.QuerySet, state: State, kind: str, detail: str) -> None:
        ids = list(rows.select_for_update(skip_locked=True).values_list("pk", flat=True))
        if not ids:
            return
        now = timezone.now()
        self.filter(pk__in=ids).update(state=state, worker=None, due_at=now)
        Event.objects.bulk_create(Event(email_id=pk, at=now, kind=kind, detail=detail) for pk in ids)

    def to_recipient(self, query: str) -> Self:
        """Messages to an address, to a domain (`@example.com` or `example.com`) or to an address's beginning."""
        query = query.strip().lower()
        if not query:
            return self
        if "@" in query.strip("@"):
            found = Q(mailbox__startswith=query)
        else:
            bare = query.lstrip("@")
            found = Q(domain=bare) if query.startswith("@") else Q(domain=bare) | Q(mailbox__startswith=bare)
        return self.filter(pk__in=Recipient.objects.filter(found).values("email"))


class EmailRequest(models.Model):
    """One message that was accepted, and what has become of it."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid7, editable=False)
    created_at = models.DateTimeField()
    state = models.CharField(max_length=12, choices=State, default=State.QUEUED)
    priority = models.PositiveSmallIntegerField(choices=Priority, default=Priority.DEFAULT)
    due_at = models.DateTimeField(null=True, help_text="When the next attempt may begin; set while the message waits.")
    worker = models.ForeignKey(Worker, null=True, on_delete=models.PROTECT, help_text="The worker that holds it now.")
    claims = models.PositiveIntegerField(default=0, help_text="How often a worker has taken it.")
    finished_at = models.DateTimeField(null=True)

    sender = models.CharField("from", max_length=1000)
    envelope_sender = models.CharField(max_length=320, help_text="Where bounces go (MAIL FROM).")
    to = models.JSONField()
    subject = models.CharField(max_length=998)
    message_id = models.CharField("Message-ID", max_length=320)
    date = models.DateTimeField(null=True, help_text="The moment of the first transmission.")
    delay = models.FloatField(default=0, help_text="Seconds that the playground waits before sending.")

    objects = EmailQuerySet.as_manager()
    last_detail = ""  # what the last recorded attempt came to, for whoever recorded it

    class Meta:
        verbose_name = "email"
        indexes = [
            models.Index("priority", "due_at", condition=Q(due_at__isnull=False), name="email_waiting"),
            models.Index("worker", condition=Q(worker__isnull=False), name="email_held"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(state__in=WAITING, due_at__isnull=False, worker__isnull=True)
                | Q(state__in=HELD, due_at__isnull=True, worker__isnull=False)
                | Q(state__in=FINISHED, due_at__isnull=True, worker__isnull=True),
                name="email_waits_is_held_or_finished",
            )
        ]

    def __str__(self) -> str:
        return f"Email to {self.first_recipient}: {self.subject}"

    def get_absolute_url(self) -> str:
        return reverse("message", args=[self.pk])

    @property
    def queue(self) -> str:
        return Priority(self.priority).label

    @property
    def first_recipient(self) -> str:
        """The first address in `To`, and how many more there are."""
        more = len(self.to) - 1
        return self.to[0] + (f" and {more} more" if more else "")

    @property
    def is_finished(self) -> bool:
        return self.state in FINISHED

    def job(self) -> doorbell.Job:
        # The playground's job keeps RQ's own lifetime, so that its result can be looked up at leisure.
        return doorbell.Job(str(self.pk), self.queue, str(self), keep=500 if self.delay else 10)

    def raw(self) -> bytes:
        """The bytes that the relay gets; `Date` is missing until the first transmission."""
        content = self.content
        return mime.build(
            sender=self.sender,
            to=self.to,
            cc=content.cc,
            reply_to=content.reply_to,
            subject=self.subject,
            html=content.html,
            text=content.text,
            message_id=self.message_id,
            date=self.date,
        )

    def _settle(self, outcome: Outcome, worker: Worker) -> None:
        """Writes one outcome; the caller holds the row's lock."""
        now = timezone.now()
        for recipient in self.recipients.all():
            if result := outcome.results.get(recipient.address):
                recipient.state = result.verdict.value
                recipient.reply = str(result.reply)
                recipient.save(update_fields=["state", "reply"])
        left = {recipient.state for recipient in self.recipients.all()}
        if outcome.broken:
            self.state, kind, detail = State.FAILED, Event.Kind.FAILED, outcome.broken
        elif outcome.unknown:
            self.state, kind, detail = State.UNKNOWN, Event.Kind.UNKNOWN, outcome.unknown
        elif outcome.trouble:
            self.state, kind, detail = State.DEFERRED, Event.Kind.DEFERRED, outcome.trouble
        elif Recipient.State.DEFERRED in left or Recipient.State.WAITING in left:
            self.state, kind, detail = State.DEFERRED, Event.Kind.DEFERRED, outcome.summary(Verdict.DEFERRED)
        elif Recipient.State.ACCEPTED in left:
            self.state, kind, detail = State.SENT, Event.Kind.SENT, outcome.summary(Verdict.ACCEPTED)
        else:
            self.state, kind, detail = State.BOUNCED, Event.Kind.BOUNCED, outcome.summary(Verdict.BOUNCED)
        self.worker = None
        self.due_at = now + RETRY_AFTER if self.state in WAITING else None
        self.finished_at = None if self.state in WAITING else now
        self.save(update_fields=["state", "worker", "due_at", "finished_at"])
        self.last_detail = detail
        Event.objects.create(email=self, at=now, kind=kind, detail=detail)


@dataclass(frozen=True)
class Settlement:
    """A claimed message and what came of its attempt."""

    email: EmailRequest
    outcome: Outcome


class Content(models.Model):
    """What a message says: off the row that is claimed, which is rewritten at each step."""

    email = models.OneToOneField(EmailRequest, primary_key=True, on_delete=models.CASCADE)
    html = models.TextField(null=True)
    text = models.TextField(null=True)
    cc = models.JSONField(default=list)
    bcc = models.JSONField(default=list)
    reply_to = models.JSONField(default=list)

    def __str__(self) -> str:
        return f"Content of {self.email_id}"


class Recipient(models.Model):
    """One mailbox that is to get the message, with an outcome of its own."""

    class State(models.TextChoices):
        WAITING = "waiting", "Waiting"
        ACCEPTED = "accepted", "Accepted by the relay"
        DEFERRED = "deferred", "Deferred"
        BOUNCED = "bounced", "Bounced"

    email = models.ForeignKey(EmailRequest, on_delete=models.CASCADE, related_name="recipients")
    address = models.CharField(max_length=320, help_text="The address as it goes into RCPT TO.")
    mailbox = models.CharField(max_length=320, help_text="The address in lower case, to search by.")
    domain = models.CharField(max_length=255)
    state = models.CharField(max_length=10, choices=State, default=State.WAITING)
    reply = models.TextField(default="", help_text="The relay's last word on this recipient.")

    class Meta:
        indexes = [
            models.Index("mailbox", "email", name="recipient_mailbox"),
            models.Index("domain", "email", name="recipient_domain"),
        ]

    def __str__(self) -> str:
        return self.address

    @property
    def is_waiting(self) -> bool:
        return self.state in (self.State.WAITING, self.State.DEFERRED)


class Event(models.Model):
    """A line of a message's timeline."""

    class Kind(models.TextChoices):
        ACCEPTED = "accepted", "Accepted and queued"
        CLAIMED = "claimed", "Picked up"
        RELEASED = "released", "Given back to the queue"
        DEFERRED = "deferred", "Deferred"
        UNKNOWN = "unknown", "Uncertain"
        SENT = "sent", "Sent"
        BOUNCED = "bounced", "Bounced"
        FAILED = "failed", "Failed"

    email = models.ForeignKey(EmailRequest, on_delete=models.CASCADE, related_name="events")
    at = models.DateTimeField()
    kind = models.CharField(max_length=10, choices=Kind)
    detail = models.TextField(default="")

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} {self.detail}".strip()


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
        indexes = [models.Index("mailbox", "message", name="sandbox_mailbox")]

    def __str__(self) -> str:
        return self.mailbox
