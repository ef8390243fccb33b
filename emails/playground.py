"""The playground: one slow email, sent by the queue or inside the request, and what can be seen of it meanwhile."""

import threading
import time
from dataclasses import dataclass, field
from email.utils import make_msgid
from typing import Self

from django.conf import settings
from django.db.models import Count
from django.utils import timezone
from redis import Redis
from redis.exceptions import RedisError
from rq.queue import Queue
from rq.worker import Worker as RQWorker

from emails import doorbell, mime
from emails.drafts import Draft, Invalid
from emails.models import EmailRequest
from emails.smtp import Connection, Outcome
from emails.surroundings import impatient_redis

SHOWN = 6
SLOTS = threading.BoundedSemaphore(4)  # slow requests at once: the web's threads are few, and others need them


def draft_to(address: str) -> Draft:
    """Raises Invalid for an address that can't be one."""
    return Draft.clean(
        {
            "from": "Playground <playground@example.com>",
            "to": address,
            "subject": "A slow email",
            "text": f"This mail took {settings.PLAYGROUND_DELAY:g} seconds on purpose.\n",
        }
    )


def send_by_queue(address: str) -> EmailRequest:
    draft = draft_to(address)
    return EmailRequest.objects.submit([draft], origin="playground", delay=settings.PLAYGROUND_DELAY)[0]


@dataclass
class Direct:
    """What came of sending inside the request."""

    address: str
    seconds: float = 0
    problem: str = ""


def send_directly(address: str) -> Direct:
    """The same work without a queue: whoever calls waits for all of it. No message is stored."""
    if not SLOTS.acquire(blocking=False):
        return Direct(address, problem="The web server has no thread left to wait with: that is what a queue is for.")
    started = time.monotonic()
    try:
        problem = transmit(draft_to(address)).trouble
    except Invalid as invalid:
        problem = str(invalid)
    finally:
        SLOTS.release()
    return Direct(address, time.monotonic() - started, problem)


def transmit(draft: Draft) -> Outcome:
    time.sleep(settings.PLAYGROUND_DELAY)
    message = mime.build(
        mime.Message(
            sender=str(draft.sender),
            to=[str(recipient) for recipient in draft.to],
            subject=draft.subject,
            html=draft.html,
            text=draft.text,
            message_id=make_msgid(domain=draft.sender.ascii_domain),
            date=timezone.localtime(),
            smtputf8=True,
        )
    )
    relay = Connection(settings.RELAY)
    try:
        return relay.send(draft.sender.envelope, [recipient.envelope for recipient in draft.recipients], message)
    finally:
        relay.close()


@dataclass
class Desk:
    """A worker as the visitor sees it."""

    name: str
    state: str
    messages: int


@dataclass
class View:
    """What the page shows live."""

    emails: list[EmailRequest]
    queues: dict[str, int] = field(default_factory=dict)
    workers: list[Desk] = field(default_factory=list)
    redis_is_away: bool = False

    @classmethod
    def now(cls) -> Self:
        emails = latest_emails()
        try:
            with impatient_redis() as redis:
                return cls(emails, waiting_jobs(redis), workers(redis))
        except RedisError:
            return cls(emails, redis_is_away=True)


def latest_emails() -> list[EmailRequest]:
    emails = list(EmailRequest.objects.filter(delay__gt=0).order_by("-pk")[:SHOWN])
    for email in emails:
        email.elapsed = ((email.finished_at or timezone.now()) - email.created_at).total_seconds()
    return emails


def waiting_jobs(redis: Redis) -> dict[str, int]:
    return {name: Queue(name, connection=redis).count for name in doorbell.QUEUES}


def workers(redis: Redis) -> list[Desk]:
    held = dict(EmailRequest.objects.filter(worker__isnull=False).values_list("worker__name").annotate(Count("pk")))
    known = RQWorker.all(connection=redis)
    return [Desk(worker.name, worker.get_state(), held.get(worker.name, 0)) for worker in known]
