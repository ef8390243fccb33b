"""Group commit: messages that wait at the same moment are stored in one transaction.

Whoever stands at the head of the line stores those behind it along with its own, on its own connection.
They wait for its commit, and whoever comes meanwhile stands in line for the next. So nobody waits on
purpose, and the busier the web server, the cheaper a message.
"""

import logging
import threading
from collections.abc import Sequence
from enum import Enum, auto
from queue import SimpleQueue

from django.db import IntegrityError, OperationalError, connection

from emails.drafts import Draft
from emails.models import EmailRequest, Once, Priority

logger = logging.getLogger(__name__)

MAX_GROUP = 100  # messages


def submit(drafts: Sequence[Draft], *, origin: str, priority: Priority, once: Once | None = None) -> list[EmailRequest]:
    """EmailRequest.objects.submit, together with others.

    What belongs to the caller's transaction, and what may have to wait for another's lock (an idempotency key,
    an attachment that is stored once), goes its own way.
    """
    if connection.in_atomic_block or once or any(draft.attachments for draft in drafts):
        return EmailRequest.objects.submit(drafts, origin=origin, priority=priority, once=once)
    emails = [EmailRequest.from_draft(draft, priority, origin=origin) for draft in drafts]
    line.store(emails)
    return emails


class Turn(Enum):
    """What a thread in line is told."""

    LEAD = auto()
    STORED = auto()
    TRY_ALONE = auto()
    GIVE_UP = auto()


class Member:
    """A thread that has messages to store."""

    def __init__(self, emails: list[EmailRequest]):
        self.emails = emails
        self.told: SimpleQueue[Turn] = SimpleQueue()  # which wakes a thread for less than an Event


class Line:
    """The threads that have messages to store; the first of them leads, until its group is served."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.members: list[Member] = []

    def store(self, emails: list[EmailRequest]) -> None:
        """Returns after the commit. The members of a group that fails try alone, so that a bad row fails alone.

        While SQLite is locked all in line give up with the first of them, whose wait was theirs, too: otherwise
        they would wait one after the other, and no thread of the web server would be left for anything else.
        Raises OperationalError.
        """
        member = Member(emails)
        with self.lock:
            self.members.append(member)
            leads = member is self.members[0]
        turn = Turn.LEAD if leads else member.told.get()
        if turn is Turn.LEAD:
            turn = self._lead()
        if turn is Turn.TRY_ALONE:
            _store_alone(emails)
        elif turn is Turn.GIVE_UP:
            raise OperationalError("The database is locked.")

    def _lead(self) -> Turn:
        with self.lock:
            group = self._group()
        turn = Turn.TRY_ALONE
        try:
            EmailRequest.objects.store([email for member in group for email in member.emails])
            turn = Turn.STORED
        except Exception as error:
            if is_locked(error):
                with self.lock:
                    group = list(self.members)
                turn = Turn.GIVE_UP
            elif len(group) == 1:
                raise
            else:
                logger.warning("%s while storing a group of %d: they try alone.", type(error).__name__, len(group))
        finally:
            with self.lock:
                del self.members[: len(group)]
                if self.members:
                    self.members[0].told.put(Turn.LEAD)
            for member in group[1:]:
                member.told.put(turn)
        if turn is Turn.STORED:
            EmailRequest.objects.ring(email for member in group for email in member.emails)
        return turn

    def _group(self) -> list[Member]:
        """The first and those behind it, as many as make up a group's size."""
        size, group = 0, []
        for member in self.members:
            size += len(member.emails)
            if group and size > MAX_GROUP:
                break
            group.append(member)
        return group


def is_locked(error: Exception) -> bool:
    return getattr(error.__cause__, "sqlite_errorname", "").startswith("SQLITE_BUSY")


def _store_alone(emails: list[EmailRequest]) -> None:
    try:
        EmailRequest.objects.store(emails)
    except IntegrityError:
        # Unless they are there: the group's commit had come through, and only its answer was lost.
        if not EmailRequest.objects.filter(pk=emails[0].pk).exists():
            raise
    EmailRequest.objects.ring(emails)


line = Line()
