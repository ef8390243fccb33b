from argparse import ArgumentParser
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError
from django.db import Error

from emails import why
from emails.models import EmailRequest


class Command(BaseCommand):
    help = "Says why a message waits and what happens next, or how it ended."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("id", type=UUID, help="the message's id, as its page and the API tell it")

    def handle(self, id: UUID, **options) -> None:
        try:
            email = EmailRequest.objects.select_related("worker").filter(pk=id).first()
            if not email:
                raise CommandError(f"There is no message {id}.")
            self.stdout.write(why.explain(email))
        except Error as error:
            raise CommandError(
                f"The messages can't be reached ({error}): does the database exist? `make run` makes it."
            ) from None
