import logging
from typing import Any

from django.core.checks import run_checks
from django.core.management.base import BaseCommand
from django_rq.management.commands import rqworker

from emails.doorbell import QUEUES

logger = logging.getLogger(__name__)


class Delivering(BaseCommand):
    """What a worker and a pool of workers have in common, before django_rq's own commands."""

    requires_system_checks = ["mailsite"]  # Django's own ask the database, which the worker waits for

    def check(self, *, tags: list[str], **options: Any) -> None:
        """Raises SystemCheckError. What is no error is a line of the log, in the form that LOG_FORMAT asks for."""
        found = [issue for issue in run_checks(tags=tags) if not issue.is_silenced()]
        if any(issue.is_serious() for issue in found):
            super().check(tags=tags, **options)
        for issue in found:
            logger.warning("%s: %s %s", issue.id, issue.msg, issue.hint)

    def handle(self, *queues: str, **options: Any) -> None:
        super().handle(*(queues or QUEUES), **options)


class Command(Delivering, rqworker.Command):
    help = "Delivers mail. Serves all queues, high first, unless some are named."
