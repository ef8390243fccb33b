from argparse import ArgumentParser
from datetime import UTC, datetime

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.db import Error
from django.utils import timezone

from emails.models import ApiKey, Priority


class Command(BaseCommand):
    help = "Makes, lists and revokes API keys."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        create = actions.add_parser(
            "create", help="make a key and print it: only the key, on standard output, and only this once"
        )
        create.add_argument("name", help="what the key is for, to recognise it by")
        create.add_argument("--sending-only", action="store_true", help="it may send emails and nothing else")
        create.add_argument("--domain", action="append", dest="domains", help="a from-domain it may use; repeatable")
        create.add_argument("--expires", type=moment, metavar="ISO8601", help="until when it is valid")
        create.add_argument("--priority", choices=Priority.labels, default="default", help="for mail that says none")
        create.add_argument("--time-zone", default="UTC", help="in which `tomorrow at 9am` is read")
        create.add_argument("--rate-limit", type=int, metavar="N", help="requests a second")
        create.add_argument("--daily-quota", type=int, metavar="N", help="emails a day (UTC)")
        actions.add_parser("list", help="list the keys, newest first: start, name, what they may, when last used")
        revoke = actions.add_parser("revoke", help="end a key within a second")
        revoke.add_argument("start", help="the key's first characters, as the list shows them, or its id")

    def handle(self, action: str, **options) -> None:
        try:
            getattr(self, action)(**options)
        except Error as error:
            raise CommandError(
                f"The keys can't be reached ({error}): does the database exist? `make run` makes it."
            ) from None

    def create(self, name: str, **options) -> None:
        try:
            key, token = ApiKey.create(
                name,
                permission=ApiKey.Permission.SENDING if options["sending_only"] else ApiKey.Permission.FULL,
                domains=options["domains"] or [],
                expires_at=options["expires"],
                priority=Priority[options["priority"].upper()],
                time_zone=options["time_zone"],
                rate_limit=options["rate_limit"],
                daily_quota=options["daily_quota"],
            )
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from None
        self.stdout.write(token)

    def list(self, **options) -> None:
        for key in ApiKey.objects.order_by("-pk").iterator():
            used = f"last used {key.last_used_at:%Y-%m-%d %H:%M}" if key.last_used_at else "never used"
            state = ""
            if key.revoked_at:
                state = ", revoked"
            elif key.expires_at:
                state = f", {'expired' if key.expires_at <= timezone.now() else 'expires'} {key.expires_at:%Y-%m-%d}"
            domains = f" from {', '.join(key.domains)}" if key.domains else ""
            permission = key.get_permission_display().lower()
            self.stdout.write(f"{key.start}…  {key.name}: {permission}{domains}, {used}{state}")

    def revoke(self, start: str, **options) -> None:
        keys = [key for key in ApiKey.objects.filter(revoked_at=None) if start in (key.start, str(key.pk))]
        if len(keys) != 1:
            found = "several keys begin" if keys else "no key that is not revoked begins"
            raise CommandError(f"{found.capitalize()} with {start!r}: `manage.py apikey list` shows them.")
        keys[0].revoke()
        self.stdout.write(f"Revoked {keys[0].name}.")


def moment(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)
