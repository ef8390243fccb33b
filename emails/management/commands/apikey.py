from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError

from emails.models import ApiKey


class Command(BaseCommand):
    help = "Makes an API key and prints it: only the key, on standard output, and only this once."

    def add_arguments(self, parser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        create = actions.add_parser("create", help="make a key")
        create.add_argument("name", help="what the key is for, to recognise it by")

    def handle(self, action: str, name: str, **options) -> None:
        longest = ApiKey._meta.get_field("name").max_length
        if not name.strip() or len(name) > longest or not name.isprintable():
            raise CommandError(f"A key's name has 1 to {longest} characters, none of them a control character.")
        try:
            key, token = ApiKey.create(name.strip())
        except DatabaseError as error:
            raise CommandError(
                f"The key could not be stored ({error}): does the database exist? `make run` makes it."
            ) from None
        self.stdout.write(token)
