from django.core.management.base import BaseCommand

from mailsite import supervisor


class Command(BaseCommand):
    help = "Starts only Valkey and the sandbox, for runserver and rqworker in terminals of their own."
    requires_system_checks = []  # the supervisor makes them, where it can tell of a database that is away

    def handle(self, **options) -> None:
        supervisor.services()
