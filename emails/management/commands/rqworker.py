from django_rq.management.commands import rqworker

from emails.doorbell import QUEUES


class Command(rqworker.Command):
    help = "Delivers mail. Serves all queues, high first, unless some are named."
    requires_system_checks = ["mailsite"]  # Django's own ask the database, which the worker waits for

    def handle(self, *queues: str, **options) -> None:
        super().handle(*(queues or QUEUES), **options)
