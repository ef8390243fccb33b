"""Group commit: messages that wait at the same moment are stored in one transaction.

Whoever stands at the head of the line stores those behind it along with its own, on its own connection.
They wait for its commit, and whoever comes meanwhile stands in line for the next. So nobody waits on
purpose, and the busier the web server, the cheaper a message.
"""

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from django.db import IntegrityError, connection

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


@dataclass(eq=False)
class Member:
    """A thread that has messages to store. Its turn comes to lead, or when another has led."""

    emails: list[EmailRequest]
    turn: threading.Event = field(default_factory=threading.Event)
    served: bool = False
    stored: bool = False


class Line:
    """The threads that have messages to store; the first of them leads, until its group is served."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.members: list[Member] = []

    def store(self, emails: list[EmailRequest]) -> None:
        """Returns after the commit. The members of a group that fails try alone, so that a bad row fails alone."""
        member = Member(emails)
        with self.lock:
            self.members.append(member)
            if member is self.members[0]:
                member.turn.set()
        member.turn.wait()
        if not member.served:
            self._lead()
        if not member.stored:
            _store_alone(emails)

    def _lead(self) -> None:
        with self.lock:
            group = self._group()
        stored = False
        try:
            EmailRequest.objects.store([email for member in group for email in member.emails])
            stored = True
        except Exception as error:
            if len(group) == 1:
                raise
            logger.warning("%s while storing a group of %d: they try alone.", type(error).__name__, len(group))
        finally:
            with self.lock:
                del self.members[: len(group)]
                if self.members:
                    self.members[0].turn.set()
            for member in group:
                member.served, member.stored = True, stored
                member.turn.set()

    def _group(self) -> list[Member]:
        """The first and those behind it, as many as make up a group's size."""
        size, group = 0, []
        for member in self.members:
            size += len(member.emails)
            if group and size > MAX_GROUP:
                break
            group.append(member)
        return group


def _store_alone(emails: list[EmailRequest]) -> None:
    try:
        EmailRequest.objects.store(emails)
    except IntegrityError:
        # Unless they are there: the group's commit had come through, and only its answer was lost.
        if not EmailRequest.objects.filter(pk=emails[0].pk).exists():
            raise


line = Line()
