from argparse import ArgumentParser, ArgumentTypeError
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError
from django.db import Error

from emails import why
from emails.models import EmailRequest


def message_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise ArgumentTypeError(
            f"{text!r} is no message's id. One looks like 0199d1a2-3b4c-7d5e-8f60-718293a4b5c6, and stands at the end "
            "of the address of the message's page and in the API's answers, as `id`."
        ) from None


class Command(BaseCommand):
    help = "Says why a message waits and what happens next, or how it ended."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("id", type=message_id, help="the message's id, as its page and the API tell it")

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
