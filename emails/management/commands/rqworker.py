from django_rq.management.commands import rqworker

from emails.doorbell import QUEUES, wait_for_redis


class Command(rqworker.Command):
    help = "Delivers mail. Serves all queues, high first, unless some are named."
    requires_system_checks = ["mailsite"]  # Django's own ask the database, which the worker waits for

    def handle(self, *queues: str, **options) -> None:
        wait_for_redis()
        super().handle(*(queues or QUEUES), **options)
