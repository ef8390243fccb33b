from django.core.management.base import BaseCommand

from mailsite import supervisor


class Command(BaseCommand):
    help = "Starts everything on this machine: Valkey, the sandbox, the worker and the web server."

    def handle(self, **options) -> None:
        supervisor.run()
