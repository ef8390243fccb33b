"""What narrows the list of emails."""

from datetime import UTC, datetime

from rest_framework.request import Request

from emails.addresses import Address
from emails.api.errors import invalid_parameter
from emails.api.lists import choice
from emails.models import Recipient
from emails.search import Keys, Search, to_domain
from emails.states import State


def search(request: Request) -> Search:
    asked = request.query_params
    name, _, value = asked.get("tag", "").partition(":")
    return Search(
        to=(recipients(asked["to"]),) if "to" in asked else (),
        state=choice(request, "state", sorted(State.values)) or "",
        tag=(name, value) if "tag" in asked else None,
        after=moment_of(asked["created_after"]) if "created_after" in asked else None,
    )


def recipients(text: str) -> Keys:
    """Those of `moss@example.com`, or all of `@example.com`."""
    try:
        address = Address.parse(f"all{text}" if text.startswith("@") else text)
    except ValueError as error:
        raise invalid_parameter(f"`to` must be one address, or @ and a domain (+ is written %2B): {error}") from None
    if text.startswith("@"):
        return to_domain(address.domain)
    return Keys(Recipient.objects.filter(mailbox=address.mailbox.lower()), "email_id")


def moment_of(text: str) -> datetime:
    """ISO 8601; the space is a + that was not written %2B."""
    try:
        moment = datetime.fromisoformat(text.replace(" ", "+") if "T" in text.upper() else text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        message = "`created_after` must be a moment in ISO 8601, such as 2026-12-24T18:00:00Z."
        raise invalid_parameter(message) from None
