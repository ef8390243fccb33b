import re

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from emails.drafts import Invalid
from emails.relaycheck import Check, Step, mail_to


class Command(BaseCommand):
    help = "Talks to the relay step by step, and says what to change where that fails."
    requires_system_checks = ["mailsite"]  # Django's own ask the database, which this does without

    def add_arguments(self, parser) -> None:
        parser.add_argument("address", nargs="?", help="send one test mail there")
        parser.add_argument(
            "--from",
            dest="sender",
            default="",
            help="the test mail's sender; else the relay's login if that is an address, else the receiving address",
        )

    def handle(self, address: str | None, sender: str, **options) -> None:
        try:
            draft = mail_to(address, sender) if address else None
        except Invalid as invalid:
            raise CommandError(re.sub("The `(to|from)` field: ", "", str(invalid))) from None
        self.stdout.write(f"The relay is {settings.RELAY}.")
        check = Check(settings.RELAY, draft, tell=self.print)
        check.run()
        if not check.is_passed:
            raise CommandError(check.summary)
        self.stdout.write(check.summary)

    def print(self, step: Step) -> None:
        state = "" if step.state == "ok" else f"{step.state.upper()}: "
        self.stdout.write(f"  {step.name:<10} {step.seconds:6.2f} s  {state}{step.said}")
        if step.advice:
            self.stdout.write(f"{'':21}  → {step.advice}")
        self.stdout.flush()
