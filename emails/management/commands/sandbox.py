from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from emails.sandbox import serve


class Command(BaseCommand):
    help = "Runs the sandbox: a mail server that keeps what it gets and sends nothing anywhere."
    requires_system_checks = []  # one of them needs the database, and the sandbox can wait for that

    def add_arguments(self, parser) -> None:
        parser.add_argument("--host", default="127.0.0.1")
        parser.add_argument("--port", type=int, default=0, help="0, the default, takes a free port.")

    def handle(self, host: str, port: int, **options) -> None:
        try:
            serve(host, port, settings.DATA_DIR / "sandbox.address")
        except (OSError, OverflowError) as error:
            raise CommandError(f"The sandbox can't listen on {host}, port {port}: {error}.") from None
