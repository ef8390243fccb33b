from importlib import import_module

from emails.doorbell import QUEUES

stock = import_module("django_rq.management.commands.rqworker-pool")


class Command(stock.Command):
    help = "Delivers mail with several worker processes. Serves all queues, high first, unless some are named."
    requires_system_checks = ["mailsite"]  # Django's own ask the database, which the worker waits for

    def handle(self, *queues: str, **options) -> None:
        super().handle(*(queues or QUEUES), **options)
