from django.core.management.base import BaseCommand

from mailsite import supervisor


class Command(BaseCommand):
    help = "Starts everything on this machine: Valkey, the sandbox, the worker and the web server."
    requires_system_checks = []  # the supervisor makes them, where it can tell of a database that is away

    def handle(self, **options) -> None:
        supervisor.run()
