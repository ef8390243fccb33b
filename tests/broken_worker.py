"""`manage.py rqworker` with one of its promises switched off, so that the fault test has something to find."""

import os
import sys

import django
from django.core.management import execute_from_command_line
from django.utils import timezone

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mailsite.settings")
django.setup()

from emails.models import EmailQuerySet, Worker  # noqa: E402  after the set-up


def mark_too_late() -> None:
    """The mark is written with the outcome instead of before DATA. As long as nothing dies, nobody notices."""
    mark, record = EmailQuerySet.mark, EmailQuerySet.record

    def claim_success(emails, messages, worker, moment):
        return {message.pk for message in messages}

    def mark_and_record(emails, settlements, worker):
        mark(emails, [settlement.email for settlement in settlements], worker, timezone.now())
        return record(emails, settlements, worker)

    EmailQuerySet.mark, EmailQuerySet.record = claim_success, mark_and_record


def no_lease() -> None:
    """What a dead worker held stays with it for ever."""
    EmailQuerySet.free_dead = lambda emails: None


def greedy_lease() -> None:
    """All other workers count as dead at once."""
    Worker.dead = classmethod(lambda cls: cls.objects.exclude(pid=os.getpid()))


if __name__ == "__main__":
    {"mark-too-late": mark_too_late, "no-lease": no_lease, "greedy-lease": greedy_lease}[sys.argv[1]]()
    execute_from_command_line(["manage.py", "rqworker"])
