from django.core.management.base import BaseCommand

from mailsite import supervisor


class Command(BaseCommand):
    help = "Starts only Valkey and the sandbox, for runserver and rqworker in terminals of their own."

    def handle(self, **options) -> None:
        supervisor.services()
