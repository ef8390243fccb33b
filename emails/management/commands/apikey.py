from django.core.management.base import BaseCommand

from emails.models import ApiKey


class Command(BaseCommand):
    help = "Makes an API key and prints it: only the key, on standard output, and only this once."

    def add_arguments(self, parser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        create = actions.add_parser("create", help="make a key")
        create.add_argument("name", help="what the key is for, to recognise it by")

    def handle(self, action: str, name: str, **options) -> None:
        self.stdout.write(ApiKey.create(name)[1])
