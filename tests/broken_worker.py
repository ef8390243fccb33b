"""`manage.py rqworker` with one of its promises switched off, so that the fault test has something to find."""

import os
import sys

import django
from django.core.management import execute_from_command_line

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mailsite.settings")
django.setup()

from emails.models import EmailQuerySet, Worker  # noqa: E402  after the set-up


def mark_too_late() -> None:
    """The mark is written with the outcome instead of before DATA. As long as nothing dies, nobody notices."""
    record = EmailQuerySet.record

    def record_late(emails, worker, settlements=(), upcoming=(), moment=None):
        record(emails, worker, upcoming=[settlement.email for settlement in settlements])
        settled, _ = record(emails, worker, settlements)
        return settled, {message.pk for message in upcoming}

    EmailQuerySet.record = record_late


def no_lease() -> None:
    """What a dead worker held stays with it for ever."""
    EmailQuerySet.free_dead = lambda emails: None


def greedy_lease() -> None:
    """All other workers count as dead at once."""
    Worker.dead = classmethod(lambda cls: cls.objects.exclude(pid=os.getpid()))


if __name__ == "__main__":
    {"mark-too-late": mark_too_late, "no-lease": no_lease, "greedy-lease": greedy_lease}[sys.argv[1]]()
    execute_from_command_line(["manage.py", "rqworker"])
