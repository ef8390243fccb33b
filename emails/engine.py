"""The engine: one committer that talks to the database, and K senders that talk to the relay.

    pump ── ids ──► committer ── claimed messages ──► senders ── outcomes ──► committer
                        │                                                        │
                        └──────────── one transaction for all that waits ◄───────┘

A sender hands in the outcome of its last message together with the message it will transmit next, and
waits for the commit. So each outcome is recorded, and each mark made, before the connection's next DATA;
whatever comes in while one commit runs goes into the next. Nobody waits on purpose.
"""

import heapq
import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from uuid import UUID

from django.db import DatabaseError, connection, transaction

from emails.doorbell import Settled
from emails.models import LEASE, OVERDUE_AFTER, EmailRequest, Settlement, State, Worker
from emails.smtp import Connection, Outcome, Relay

logger = logging.getLogger(__name__)

CAPACITY = 100  # messages held at once, in all stages
HEARTBEAT = LEASE.total_seconds() / 6
POLL = 2.0  # seconds between two looks for overdue messages
IDLE = 30.0  # seconds after which an idle connection is closed
GRACE = 30.0  # seconds that what is on the wire gets at a stop


def deliver(message_id: str) -> str:
    """The job's function as a stock RQ worker would call it: it says where the message stands.

    Delivery itself is done by Mailsite's worker class, which takes the ids and never calls this for a
    message that exists.
    """
    try:
        email = EmailRequest.objects.filter(pk=UUID(message_id)).first()
    except ValueError:
        email = None
    if not email:
        return f"There is no message {message_id}: nothing to do."
    return f"Message {message_id} is {email.get_state_display().lower()}; only `manage.py rqworker` delivers."


@dataclass
class Claim:
    """Ids that rang, to be claimed."""

    ids: list[UUID]


@dataclass
class Step:
    """A sender's hand-over: the outcome to record and the message to mark, in one commit."""

    finished: Settlement | None
    next: EmailRequest | None
    may_transmit: bool = False
    done: threading.Event = field(default_factory=threading.Event)


class Engine:
    """Claims messages, sends them and records what came of it. Its threads start with `start`.

    `settled` receives how each job ended, `strangers` the ids that are no message of ours.
    """

    def __init__(self, worker: Worker, relay: Relay, senders: int):
        self.worker = worker
        self.relay = relay
        self.settled: queue.SimpleQueue[Settled] = queue.SimpleQueue()
        self.strangers: queue.SimpleQueue[UUID] = queue.SimpleQueue()
        self.suspended = False
        self.doorbell_silent = True  # no job is waiting in Redis, or Redis is away: the poll takes all it can

        self._inbox: queue.SimpleQueue[Claim | Step | None] = queue.SimpleQueue()
        self._ready: queue.PriorityQueue[tuple[int, int, EmailRequest | None]] = queue.PriorityQueue()
        self._slow: list[tuple[float, int, EmailRequest]] = []  # the playground's, by the time they may go
        self._held: dict[UUID, EmailRequest] = {}
        self._asked = 0  # ids on their way to the committer
        self._lock = threading.Lock()
        self._order = itertools.count()
        self._stopping = False
        self._deadline = 0.0
        self._next_beat = self._next_poll = 0.0
        self._last_beat = self._steady_since = 0.0
        self._committer = threading.Thread(target=self._commit_loop, name="committer", daemon=True)
        self._senders = [
            threading.Thread(target=self._send_loop, name=f"sender-{n}", daemon=True) for n in range(senders)
        ]

    # The pump's side

    def start(self) -> None:
        for thread in (self._committer, *self._senders):
            thread.start()

    @property
    def room(self) -> int:
        """How many more messages may be claimed now."""
        with self._lock:
            return 0 if self._stopping else max(0, CAPACITY - len(self._held) - self._asked)

    @property
    def is_idle(self) -> bool:
        with self._lock:
            return not self._held and not self._asked

    def claim(self, ids: Iterable[UUID]) -> None:
        """Asks for messages; what can't be had comes back through `settled` or `strangers`."""
        asked = list(ids)
        with self._lock:
            self._asked += len(asked)
        self._inbox.put(Claim(asked))

    def stop(self, grace: float = GRACE) -> None:
        """Takes nothing new, gives back what has not begun, lets what is on the wire end within `grace` seconds."""
        self._deadline = time.monotonic() + grace
        self._stopping = True
        self._inbox.put(None)
        self._committer.join(grace + 5)  # if the database is away: the lease frees what this worker held

    # The committer

    def _commit_loop(self) -> None:
        try:
            while True:
                claims, steps = self._gather()
                self._commit(claims, steps)
                self._wake_slow()
                if self._stopping:
                    self._give_back()
                    sending = any(thread.is_alive() for thread in self._senders)
                    if time.monotonic() > self._deadline or not sending and self._inbox.empty():
                        break
            self._persist(lambda: EmailRequest.objects.abandon(self.worker))
        finally:
            connection.close()

    def _gather(self) -> tuple[list[UUID], list[Step]]:
        """All that has come in; waits for the first, or until the next beat, poll or slow message is due."""
        wake = min(self._next_beat, self._next_poll, *(moment for moment, _, _ in self._slow[:1]))
        claims: list[UUID] = []
        steps: list[Step] = []
        timeout = 0.05 if self._stopping else max(0.0, wake - time.monotonic())
        try:
            item = self._inbox.get(timeout=timeout)
            while True:
                if isinstance(item, Claim):
                    claims += item.ids
                elif item:
                    steps.append(item)
                item = self._inbox.get_nowait()
        except queue.Empty:
            return claims, steps

    def _commit(self, claims: list[UUID], steps: list[Step]) -> None:
        finished = [step.finished for step in steps if step.finished]
        upcoming = [step.next for step in steps if step.next]
        wanted = [id for id in claims if id not in self._held]
        claimed, known, marked = self._persist(lambda: self._write(wanted, finished, upcoming))

        with self._lock:
            self._asked -= len(claims)
            for email in claimed:
                self._held[email.pk] = email
            for settlement in finished:
                self._held.pop(settlement.email.pk, None)
            for email in upcoming:
                if email.pk not in marked:
                    self._held.pop(email.pk, None)
        for email in claimed:
            self._line_up(email)
        for step in steps:
            step.may_transmit = bool(step.next and step.next.pk in marked)
            step.done.set()
        for settlement in finished:
            self._report(settlement.email)
        for id in set(wanted) - {email.pk for email in claimed}:
            if id in known:
                self.settled.put(Settled(str(id), f"Nothing to do: the message is {State(known[id]).label.lower()}."))
            else:
                self.strangers.put(id)

    def _write(
        self, wanted: list[UUID], finished: list[Settlement], upcoming: list[EmailRequest]
    ) -> tuple[list[EmailRequest], dict[UUID, str], set[UUID]]:
        """One transaction: heartbeat, outcomes, marks, claims, and what the poll finds."""
        emails = EmailRequest.objects
        with transaction.atomic():
            self._beat()
            if finished:
                emails.record(finished, self.worker)
            marked = emails.mark(upcoming, self.worker) if upcoming else set()
            claimed = emails.claim(wanted, self.worker) if wanted else []
            known = {}
            if len(claimed) < len(wanted):
                known = dict(emails.filter(pk__in=wanted).values_list("pk", "state"))
            claimed += self._poll(len(claimed))
        return claimed, known, marked

    def _beat(self) -> None:
        now = time.monotonic()
        if now < self._next_beat:
            return
        self.worker.beat()
        if now - self._last_beat > LEASE.total_seconds() / 2:
            self._steady_since = now
        self._last_beat, self._next_beat = now, now + HEARTBEAT

    def _poll(self, claimed: int) -> list[EmailRequest]:
        """Overdue messages and dead workers' claims.

        Only a worker that has kept its own heartbeat for a whole lease may judge another's: after an
        outage of the database all look dead at once.
        """
        now = time.monotonic()
        if now < self._next_poll:
            return []
        self._next_poll = now + POLL
        if self._stopping or self.suspended:
            return []
        if now - self._steady_since >= LEASE.total_seconds():
            EmailRequest.objects.free_dead()
        room = self.room - claimed
        quota = room if self.doorbell_silent else min(room, CAPACITY // 10)
        if quota <= 0:
            return []
        ids = EmailRequest.objects.overdue(quota, OVERDUE_AFTER)
        if len(ids) == quota and self.doorbell_silent:
            self._next_poll = now  # there is more, and no job will come for it
        return EmailRequest.objects.claim(ids, self.worker) if ids else []

    def _persist[T](self, write: Callable[[], T]) -> T:
        """Runs `write` until the database takes it: an outcome in hand is never dropped."""
        pause = 0.1
        while True:
            try:
                return write()
            except DatabaseError as error:
                logger.error("The database refused a commit (%s); trying again in %.1f s.", error, pause)
                connection.close()
                time.sleep(pause)
                pause = min(pause * 2, 5)

    def _line_up(self, email: EmailRequest) -> None:
        if email.delay:
            print(f"Starting to send email to {email.first_recipient}...", flush=True)
            heapq.heappush(self._slow, (time.monotonic() + email.delay, next(self._order), email))
        else:
            self._ready.put((email.priority, next(self._order), email))

    def _wake_slow(self) -> None:
        while self._slow and self._slow[0][0] <= time.monotonic():
            _, order, email = heapq.heappop(self._slow)
            self._ready.put((email.priority, order, email))

    def _give_back(self) -> None:
        """At a stop: what nobody has begun to send is due again at once, for another worker."""
        waiting = [email for _, _, email in self._slow]
        self._slow.clear()
        try:
            while True:
                email = self._ready.get_nowait()[2]
                if email:
                    waiting.append(email)
        except queue.Empty:
            pass
        for _ in self._senders:
            self._ready.put((0, next(self._order), None))
        ids = [email.pk for email in waiting]
        if ids:
            self._persist(lambda: EmailRequest.objects.release(ids, self.worker, "the worker is stopping"))
        with self._lock:
            for email in waiting:
                self._held.pop(email.pk, None)
        for email in waiting:
            self.settled.put(Settled(str(email.pk), "Given back: the worker was stopped before it began."))

    def _report(self, email: EmailRequest) -> None:
        """Says in log and job how an attempt ended."""
        text = f"{email.get_state_display()}: {email.last_detail}"
        if email.delay and email.state == State.SENT:
            print(f"Email sent to {email.first_recipient}!", flush=True)
            text = f"Task complete: Email sent to {email.first_recipient}"
        logger.info("Message %s: %s", email.pk, text)
        self.settled.put(Settled(str(email.pk), text, keep=email.job().keep, failed=email.state == State.FAILED))

    # The senders

    def _send_loop(self) -> None:
        relay = Connection(self.relay)
        finished: Settlement | None = None
        while True:
            email = self._next(relay, wait=finished is None)
            if finished or email:
                step = Step(finished, email)
                finished = None
                self._inbox.put(step)
                step.done.wait()
                if email and step.may_transmit:
                    finished = Settlement(email, self._attempt(relay, email))
            elif self._stopping:
                relay.close()
                return

    def _next(self, relay: Connection, wait: bool) -> EmailRequest | None:
        if self._stopping:
            return None
        try:
            return self._ready.get(block=wait, timeout=IDLE)[2]
        except queue.Empty:
            if wait:
                relay.close()
            return None

    def _attempt(self, relay: Connection, email: EmailRequest) -> Outcome:
        try:
            message = email.raw()
        except Exception as error:
            logger.exception("Message %s can't be built.", email.pk)
            return Outcome(broken=f"the message can't be built: {error}")
        recipients = [recipient.address for recipient in email.recipients.all() if recipient.is_waiting]
        return relay.send(email.envelope_sender, recipients, message)
