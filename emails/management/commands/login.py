from django.core.management.base import BaseCommand

from emails.login import one_time_url


class Command(BaseCommand):
    help = "Prints a link that logs you in as the local administrator, once, within ten minutes."

    def handle(self, **options) -> None:
        self.stdout.write(one_time_url())
