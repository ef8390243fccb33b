from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import Error
from django.utils import timezone

from emails import demo
from emails.models import EmailRequest


class Command(BaseCommand):
    help = "Fills an empty Mailsite with a week of made-up mail, so that every page has something to show."

    def handle(self, **options) -> None:
        if not settings.RELAY.is_sandbox:
            raise CommandError(
                f"Mail goes to the relay {settings.RELAY} here, and what the demo leaves waiting would be sent: "
                "it is made only where mail goes to the sandbox (without EMAIL_URL)."
            )
        try:
            if EmailRequest.objects.exists():
                raise CommandError(
                    "There is mail here already, and the demo mixes with none, not even its own: it fills an empty "
                    "Mailsite. One beside this: set MAILSITE_DATA to a new folder and PORT to a free port, for "
                    "`make run` and for `make demo`."
                )
            count = demo.fill(timezone.now())
        except Error as error:
            raise CommandError(
                f"The demo can't be stored ({error}): does the database exist? `make run` makes it."
            ) from None
        self.stdout.write(
            f"{count:,} messages of a week are here, with keys, suppressions and requests: see {settings.PUBLIC_URL} "
            "(`make login` prints a way in). What still waits goes to the sandbox when a worker runs."
        )
