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
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import DatabaseError, InterfaceError, InternalError, OperationalError, connection, transaction
from django.utils import timezone

from emails import tallies
from emails.doorbell import Settled
from emails.models import EmailRequest, Hold, Holds, IdempotencyKey, Priority, RequestLog, Settlement, Worker
from emails.pace import Pace
from emails.smtp import Connection, Outcome, Trouble, Verdict
from emails.staging import redirect
from emails.states import State

logger = logging.getLogger(__name__)

CAPACITY = 100  # messages held at once, in all stages
POLL = 2.0  # seconds between two looks for overdue messages
IDLE = 30.0  # seconds after which an idle connection is closed
LOST = 5  # messages in a row, lost after their last byte, that are the relay's trouble and not their own
HOUSEKEEPING = 600.0  # seconds between two clean-ups of what has served its time


def deliver(message_id: str) -> str:
    """The job's function as a stock RQ worker would call it: it says where the message stands.

    Delivery itself is done by Mailsite's worker class, which takes the ids and calls this only for a
    message that doesn't exist.
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
    lease: int = 0
    is_recorded: bool = False
    done: threading.Event = field(default_factory=threading.Event)


@dataclass
class Written:
    """What one transaction of the committer came to."""

    claimed: list[EmailRequest] = field(default_factory=list)
    marked: set[UUID] = field(default_factory=set)
    refused: dict[UUID, str] = field(default_factory=dict)  # states of messages that could not be claimed
    settled: set[UUID] = field(default_factory=set)
    beat_at: float | None = None  # by boot_time(), when our heartbeat was written, if it was
    won_probe: bool = False


class Lineup:
    """Claimed messages on their way to the senders: which may go now, and which must wait.

    The playground's wait for their time. While no connection is open, one message goes first, alone. A
    message during whose transmission a worker died goes alone among its like, so that a poisonous one
    takes no neighbour with it. The committer's, but for `take` and `put_back`.
    """

    def __init__(self, connected: Callable[[], bool]) -> None:
        self._connected = connected
        self._order = itertools.count()
        self._waiting: list[tuple[int, int, EmailRequest]] = []
        self._slow: list[tuple[float, int, EmailRequest]] = []
        self._ready: queue.PriorityQueue[tuple[int, int, EmailRequest | None]] = queue.PriorityQueue()
        self._gone: dict[UUID, EmailRequest] = {}  # with the senders, or ready for them

    def add(self, email: EmailRequest) -> None:
        if email.delay:
            heapq.heappush(self._slow, (time.monotonic() + email.delay, next(self._order), email))
        else:
            heapq.heappush(self._waiting, (email.priority, next(self._order), email))

    def feed(self) -> None:
        """Lets go whatever may go now."""
        while self._slow and self._slow[0][0] <= time.monotonic():
            _, order, email = heapq.heappop(self._slow)
            heapq.heappush(self._waiting, (email.priority, order, email))
        suspects = []
        connected = self._connected()
        while self._waiting and (connected or not self._gone):
            item = heapq.heappop(self._waiting)
            email = item[2]
            if email.is_suspect and any(other.is_suspect for other in self._gone.values()):
                suspects.append(item)
                continue
            self._gone[email.pk] = email
            self._ready.put(item)
        for item in suspects:
            heapq.heappush(self._waiting, item)

    def take(self, timeout: float) -> EmailRequest | None:
        """The next message for a sender; None if there is none within `timeout` seconds, or at a dismissal."""
        try:
            return self._ready.get(block=timeout > 0, timeout=timeout)[2]
        except queue.Empty:
            return None

    def put_back(self, email: EmailRequest) -> None:
        """A message that a sender took and did not begin; it is the first of its priority again."""
        self._ready.put((email.priority, -next(self._order), email))

    def settled(self, email: EmailRequest) -> None:
        self._gone.pop(email.pk, None)

    def clear(self) -> list[EmailRequest]:
        """Takes back all that no sender has taken."""
        left = [email for _, _, email in [*self._slow, *self._waiting]]
        self._slow, self._waiting = [], []
        with suppress(queue.Empty):
            while True:
                if email := self._ready.get_nowait()[2]:
                    left.append(email)
                    self.settled(email)
        return left

    def dismiss(self, senders: int) -> None:
        """Wakes senders that wait, with nothing."""
        for _ in range(senders):
            self._ready.put((-1, next(self._order), None))

    @property
    def next_slow(self) -> float:
        return self._slow[0][0] if self._slow else float("inf")


class Engine:
    """Claims messages, sends them and records what came of it. Its threads start with `start`.

    `settled` receives how each job ended, `strangers` the ids that are no message of ours.
    """

    def __init__(self, worker: Worker):
        self.worker = worker
        self.settled: queue.SimpleQueue[Settled] = queue.SimpleQueue()
        self.strangers: queue.SimpleQueue[UUID] = queue.SimpleQueue()
        self.suspended = False
        self.doorbell_silent = True  # no job is waiting in Redis, or Redis is away: the poll takes all it can
        self.holds = Holds({})

        self._inbox: queue.SimpleQueue[Claim | Step | None] = queue.SimpleQueue()
        self._connections = [
            Connection(
                settings.RELAY,
                settings.EHLO_NAME,
                settings.SMTP_TIMEOUTS,
                most_messages=settings.MESSAGES_PER_CONNECTION,
            )
            for _ in range(settings.SENDERS)
        ]
        for relay in self._connections:
            relay.may_finish = partial(self._may_finish, relay)
        self._pace = Pace(settings.RELAY_RATE, str(settings.RELAY))
        self._lineup = Lineup(lambda: any(relay.is_ready for relay in self._connections))
        self._held: dict[UUID, EmailRequest] = {}
        self._asked = 0  # ids on their way to the committer
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._deadline = 0.0
        self._heartbeat = settings.LEASE.total_seconds() / 6
        self._next_beat = self._next_poll = self._next_housekeeping = 0.0
        self._steady_since = float("inf")
        self._confirmed = -float("inf")  # when the heartbeat that the database has was written, or before
        self._lease = 0  # a late heartbeat begins the next one
        self._marked_in: dict[Connection, int] = {}  # the lease in which each connection's message was marked
        self._abandoned = False
        self._lost = 0  # messages lost after their last byte, since the relay last accepted one
        self._bounded: object = None  # the database connection whose locks are bounded
        self._unsure = False  # a commit failed: the database may hold claims that we don't know of
        self._probes: list[threading.Thread] = []
        self._committer = threading.Thread(target=self._live, args=[self._commit_loop], name="committer", daemon=True)
        self._senders = [
            threading.Thread(target=self._live, args=[self._send_loop, relay], name=f"sender-{n}", daemon=True)
            for n, relay in enumerate(self._connections)
        ]

    # The pump's side

    def start(self) -> None:
        for thread in (self._committer, *self._senders):
            thread.start()

    def room(self, urgent: bool = False, answered: int = 0) -> int:
        """How many more messages may be claimed now. A fifth of all is kept for `urgent` ones.

        `answered`: how many of those that were asked for are claimed by now, or not to be had.
        """
        with self._lock:
            if self._stopping.is_set() or self.suspended or self.holds.relay:
                return 0
            capacity = settings.SENDERS if self.holds.is_on_trial else CAPACITY
            free = capacity - len(self._held) - self._asked + answered
            if not urgent and not self.holds.is_on_trial:
                common = sum(email.priority != Priority.HIGH for email in self._held.values())
                free = min(free, capacity * 4 // 5 - common)
            return max(0, free)

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

    def stop(self) -> None:
        """Takes nothing new, gives back what has not begun, lets what is on the wire end within the grace."""
        self._deadline = time.monotonic() + settings.GRACE
        self._stopping.set()
        self._inbox.put(None)
        self._committer.join(settings.GRACE + 5)  # with the database away, the lease frees what is held here

    @staticmethod
    def _live(loop: Callable[..., None], *arguments: Any) -> None:
        """A thread's whole life. With one of them gone a worker could only pretend to work: the process ends.

        Its lease frees what it held.
        """
        try:
            loop(*arguments)
        except Exception:
            logger.critical("The %s failed: this worker ends.", threading.current_thread().name, exc_info=True)
            os._exit(1)
        finally:
            connection.close()

    # The committer

    def _commit_loop(self) -> None:
        while True:
            claims, steps = self._gather()
            self._commit(claims, steps)
            if self._stopping.is_set():
                self._give_back("the worker is stopping")
                self._lineup.dismiss(len(self._senders))
                sending = any(thread.is_alive() for thread in self._senders)
                if self._inbox.empty() and (not sending or time.monotonic() > self._deadline):
                    break  # not before: outcomes that came in while the database was away are recorded
            elif self.holds.relay and self._give_back(f"mail is held: {self.holds.relay.reason}"):
                self._lineup.dismiss(len(self._senders))  # they close their connections
            self._lineup.feed()
        self._abandoned = True
        self._persist(lambda: EmailRequest.objects.abandon(self.worker))

    def _gather(self) -> tuple[list[UUID], list[Step]]:
        """All that has come in; waits for the first, or until the next beat, poll or slow message is due."""
        wake = min(self._next_beat, self._next_poll, self._lineup.next_slow)
        timeout = 0.05 if self._stopping.is_set() else max(0.0, wake - time.monotonic())
        claims: list[UUID] = []
        steps: list[Step] = []
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
        moment = timezone.now()
        try:
            written = self._persist(lambda: self._write(wanted, finished, upcoming, len(claims), moment))
        except (DatabaseError, ValueError) as error:
            return self._commit_apart(claims, steps, error)
        self._unsure = False
        if written.beat_at is not None:
            self._confirmed = written.beat_at
        if written.won_probe:
            self._probes.append(threading.Thread(target=self._probe_relay, name="probe", daemon=True))
            self._probes[-1].start()
        ended = [settlement.email for settlement in finished]
        ended += [email for email in upcoming if email.pk not in written.marked]
        self._claim_again(settlement for settlement in finished if settlement.email.pk in written.settled)
        self._take_over(len(claims), written.claimed, ended)
        for step in steps:
            if step.next and step.next.pk in written.marked:
                step.next.date = step.next.date or moment
                step.may_transmit, step.lease = True, self._lease
            step.is_recorded = bool(step.finished) and step.finished.email.pk in written.settled
            step.done.set()
        for email in ended:
            if email.pk not in written.settled:
                self.settled.put(Settled(str(email.pk), "Taken over by another worker."))
        self._answer_refused(wanted, written)

    def _take_over(self, asked: int, claimed: Iterable[EmailRequest], ended: Sequence[EmailRequest]) -> None:
        """What has been claimed goes into the line-up, what has ended is out of our hands."""
        with self._lock:
            self._asked -= asked
            for email in claimed:
                self._held[email.pk] = email
            for email in ended:
                if self._held.get(email.pk) is email:
                    del self._held[email.pk]
        for email in ended:
            self._lineup.settled(email)
        for email in claimed:
            if email.delay:
                print(f"Starting to send email to {email.first_recipient}...", flush=True)
            self._lineup.add(email)

    def _claim_again(self, settled: Iterable[Settlement]) -> None:
        """Those that are due again at once: no job will come for them."""
        for settlement in settled:
            waits = settlement.outcome.hold or self._stopping.is_set()
            if settlement.email.due_at == settlement.email.created_at and not waits:
                self.claim([settlement.email.pk])

    def _commit_apart(self, claims: list[UUID], steps: list[Step], error: Exception) -> None:
        """What can't be written together is written one by one, so that a bad row takes no neighbour with it."""
        logger.error("A commit failed (%s): trying its parts one by one.", error)
        if len(steps) + bool(claims) > 1:
            for step in steps:
                self._commit([], [step])
            if claims:
                self._commit(claims, [])
        elif steps and steps[0].finished and not steps[0].finished.outcome.broken:
            outcome = Outcome(broken=f"its outcome can't be recorded: {error}")
            steps[0].finished = Settlement(steps[0].finished.email, outcome)
            self._commit([], steps)
        else:
            raise error

    def _write(
        self,
        wanted: Sequence[UUID],
        finished: Sequence[Settlement],
        upcoming: Sequence[EmailRequest],
        asked: int,
        moment: datetime,
    ) -> Written:
        """One transaction: heartbeat, outcomes, marks, claims, and what the poll finds."""
        emails, written = EmailRequest.objects, Written()
        poll = time.monotonic() >= self._next_poll
        self._bound_locks()
        with transaction.atomic():
            if poll or time.monotonic() >= self._next_beat:
                written.beat_at = self._beat()
            if self._unsure:
                emails.release_orphans(self.worker, self._held)
            written.settled, written.marked = emails.record(self.worker, finished, upcoming, moment)
            if self.holds.is_on_trial and any(settlement.outcome.is_answer for settlement in finished):
                Hold.end_trouble()
            if poll or wanted or any(settlement.outcome.hold for settlement in finished):
                self.holds = Hold.in_force()
            if wanted and not self._stopping.is_set():
                written.claimed = emails.claim(wanted, self.worker, self.holds)
            if len(written.claimed) < len(wanted):
                got = {email.pk for email in written.claimed}
                refused = emails.filter(pk__in=[id for id in wanted if id not in got])
                written.refused = dict(refused.values_list("pk", "state"))
            if poll and not self._stopping.is_set():
                self._poll(written, asked)
        return written

    def _bound_locks(self) -> None:
        """A lock that somebody else sits on must not cost us our lease. Once for each database connection."""
        connection.ensure_connection()
        if connection.vendor == "postgresql" and connection.connection is not self._bounded:
            with connection.cursor() as cursor:
                cursor.execute(f"SET lock_timeout = '{int(self._heartbeat * 1000)}ms'")
            self._bounded = connection.connection

    def _beat(self) -> float:
        """The heartbeat, and a moment that it is no older than; a late one begins our own lease anew.

        The moment is read here, since the transaction may have waited long for its lock.
        """
        now, moment = time.monotonic(), boot_time()
        if not self.worker.beat() or self._steady_since > now:
            self._steady_since = now
            self._lease += 1
        self._next_beat = now + self._heartbeat
        return moment

    def _may_finish(self, relay: Connection) -> bool:
        """Whether others still respect our claims: asked by the senders before each final dot.

        What was marked before a late heartbeat may have been taken by another in between.
        """
        is_in_time = boot_time() < self._confirmed + settings.LEASE.total_seconds()
        return is_in_time and self._marked_in[relay] == self._lease and not self._abandoned

    def _poll(self, written: Written, asked: int) -> None:
        """Dead workers' claims, the relay's probe, and overdue messages.

        Only a worker that has kept its own heartbeat for a whole lease may judge another's: after an
        outage of the database, or a host's sleep, all look dead at once.
        """
        now = time.monotonic()
        self._next_poll = now + POLL
        if now - self._steady_since >= settings.LEASE.total_seconds():
            EmailRequest.objects.free_dead()
        if now >= self._next_housekeeping:
            self._next_housekeeping = now + HOUSEKEEPING
            IdempotencyKey.forget_old()
            Worker.forget_old()
            if RequestLog.forget_old():
                self._next_housekeeping = now + 1
            tallies.gather()
        self._probes = [probe for probe in self._probes if probe.is_alive()]
        if self.holds.trouble and len(self._probes) < 3:
            written.won_probe = Hold.win_probe()
        room = (
            self.room() + asked - len(written.claimed)
        )  # what was asked for is either claimed by now or not to be had
        quota = room if self.doorbell_silent else min(room, CAPACITY // 10)
        if quota <= 0:
            if self._held and not self.suspended and not self.holds.relay:
                self._next_poll = now + 0.1  # full: again when some are gone
            return
        ids = EmailRequest.objects.overdue(quota, self.holds)
        found = EmailRequest.objects.claim(ids, self.worker, self.holds) if ids else []
        written.claimed += found
        if len(ids) == quota:  # there is more
            if self.doorbell_silent:
                self._next_poll = now
            elif any(email.claimed_from != State.QUEUED for email in found):  # and no job will come for it
                self._next_poll = now + 0.1

    def _persist[T](self, write: Callable[[], T]) -> T:
        """Runs `write` until the database can take it: an outcome in hand is never dropped."""
        pause = 0.1
        while True:
            try:
                return write()
            except (InterfaceError, InternalError, OperationalError) as error:
                logger.error("The database refused a commit (%s); trying again in %.1f s.", error, pause)
                connection.close()
                self._unsure = True
                self._next_beat, self._steady_since = 0.0, time.monotonic()
                time.sleep(pause)
                pause = min(pause * 2, 0.5 if self._stopping.is_set() else 5)

    def _give_back(self, reason: str) -> bool:
        """Messages that no sender has begun are due again at once, in their old order. Whether there were any."""
        left = self._lineup.clear()
        if not left:
            return False
        self._persist(lambda: EmailRequest.objects.release(left, self.worker, reason))
        with self._lock:
            for email in left:
                self._held.pop(email.pk, None)
        for email in left:
            self.settled.put(Settled(str(email.pk), f"Given back: {reason}."))
        return True

    def _report(self, settlement: Settlement) -> None:
        """Says in the job how an attempt ended."""
        email, outcome = settlement.email, settlement.outcome
        text = f"{State(email.state).label}: {email.detail or outcome}"
        if email.delay and email.state == State.SENT:
            print(f"Email sent to {email.first_recipient}!", flush=True)
            text = f"Task complete: Email sent to {email.first_recipient}"
        self.settled.put(Settled(str(email.pk), text, keep=email.job().keep, failed=email.state == State.FAILED))

    def _answer_refused(self, wanted: Sequence[UUID], written: Written) -> None:
        got = {email.pk for email in written.claimed}
        for id in wanted:
            if id in got:
                continue
            if id in written.refused:
                label = State(written.refused[id]).label.lower()
                self.settled.put(Settled(str(id), f"Nothing to do: the message is {label}."))
            else:
                self.strangers.put(id)

    # The senders

    def _send_loop(self, relay: Connection) -> None:
        finished: Settlement | None = None
        while True:
            troubled = bool(finished and finished.outcome.trouble)
            alone = troubled or (finished and self._pace)  # what is finished must not wait for what comes next
            email = None if alone else self._next(relay, wait=finished is None)
            if finished or email:
                step = Step(finished, email)
                self._inbox.put(step)
                step.done.wait()
                if step.is_recorded:
                    self._report(step.finished)
                finished = None
                if troubled:
                    self._stopping.wait(1)
                if email and step.may_transmit:
                    self._marked_in[relay] = step.lease
                    finished = Settlement(email, self._attempt(relay, email))
            elif self._stopping.is_set():
                relay.close()
                return

    def _next(self, relay: Connection, wait: bool) -> EmailRequest | None:
        if self._stopping.is_set():
            return None
        email = self._paced() if self._pace else self._lineup.take(timeout=IDLE if wait else 0)
        if not email and wait:
            relay.close()
        return email

    def _paced(self) -> EmailRequest | None:
        """The next message, at its turn."""
        if not self._pace.one_at_a_time.acquire(timeout=IDLE):
            return None
        try:
            if self.holds.relay:  # what is put back is given back, and not to be taken again
                self._stopping.wait(1)
                return None
            email = self._lineup.take(timeout=IDLE)
            if email and (self._stopping.wait(self._pace.book()) or self.holds.relay):
                self._lineup.put_back(email)
                return None
            return email
        finally:
            self._pace.one_at_a_time.release()

    def _attempt(self, relay: Connection, email: EmailRequest) -> Outcome:
        recipients = [recipient.address for recipient in email.addressees if recipient.is_waiting]
        if not recipients:
            return Outcome()
        try:
            message = self._persist(email.raw)
        except Exception as error:
            logger.exception("Message %s can't be built.", email.pk, extra={"email": str(email.pk)})
            return Outcome(broken=f"the message can't be built: {error!r}")
        finally:
            connection.close()
        try:
            if settings.REDIRECT_TO:
                outcome = redirect(settings.REDIRECT_TO, relay.send, email.envelope_sender, recipients, message)
            else:
                outcome = relay.send(email.envelope_sender, recipients, message)
        except Exception as error:
            about = {"email": str(email.pk)}
            logger.exception("Message %s: a fault in our own SMTP dialogue.", email.pk, extra=about)
            relay.close()
            outcome = Outcome(unknown=f"an internal fault during the transmission: {error!r}")
        outcome.hold = self._is_the_relays(outcome) and self._may_finish(relay)
        return outcome

    def _is_the_relays(self, outcome: Outcome) -> bool:
        """Whether it is the relay that fails, so that other messages would fare no better."""
        with self._lock:
            if outcome.unknown:
                self._lost += 1
                return self._lost >= LOST or self.holds.is_on_trial
            if any(result.verdict is Verdict.ACCEPTED for result in outcome.results.values()):
                self._lost = 0
        # While other connections go on working, it is this one that is one too many, or its message that is odd.
        return bool(outcome.trouble) and not any(other.is_working for other in self._connections)

    # The probe of a relay in trouble

    def _probe_relay(self) -> None:
        """One connection, no message: whether the relay greets us and lets us in again."""
        relay = Connection(settings.RELAY, settings.EHLO_NAME, settings.SMTP_TIMEOUTS)
        try:
            relay.open()
            self._persist(Hold.try_again)
        except Trouble as trouble:
            reason = str(trouble)
            self._persist(lambda: Hold.note_trouble(reason))
        finally:
            relay.close()
            connection.close()
        self._next_poll = 0.0
        self._inbox.put(None)


def boot_time() -> float:
    """Seconds by a clock that goes on while the machine sleeps, where there is one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
