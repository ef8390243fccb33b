from django.conf import settings
from django.core.management.base import BaseCommand

from emails.sandbox import serve


class Command(BaseCommand):
    help = "Runs the sandbox: a mail server that keeps what it gets and sends nothing anywhere."

    def add_arguments(self, parser) -> None:
        parser.add_argument("--host", default="127.0.0.1")
        parser.add_argument("--port", type=int, default=0, help="0, the default, takes a free port.")

    def handle(self, host: str, port: int, **options) -> None:
        serve(host, port, settings.DATA_DIR / "sandbox.address")
