"""What narrows the list of emails. Each filter is served by an index."""

from datetime import UTC, datetime
from uuid import UUID

from django.db.models import QuerySet
from rest_framework.request import Request

from emails.addresses import Address
from emails.api.errors import invalid_parameter
from emails.api.lists import choice
from emails.models import Recipient, Tag
from emails.states import State


def narrowed(request: Request, emails: QuerySet) -> QuerySet:
    asked = request.query_params
    if "to" in asked:
        emails = emails.filter(pk__in=Recipient.objects.filter(**mailbox_or_domain(asked["to"])).values("email"))
    if state := choice(request, "state", sorted(State.values)):
        emails = emails.filter(state=state)
    if "tag" in asked:
        name, _, value = asked["tag"].partition(":")
        tags = Tag.objects.filter(name=name, **({"value": value} if value else {}))
        emails = emails.filter(pk__in=tags.values("email"))
    if "created_after" in asked:
        moment = moment_of(asked["created_after"])
        emails = emails.filter(pk__gte=first_id_at(moment), created_at__gt=moment)
    return emails


def mailbox_or_domain(text: str) -> dict[str, str]:
    """`moss@example.com`, or all of `@example.com`."""
    try:
        address = Address.parse(f"all{text}" if text.startswith("@") else text)
    except ValueError as error:
        raise invalid_parameter(f"`to` must be one address, or @ and a domain (+ is written %2B): {error}") from None
    return {"domain": address.domain} if text.startswith("@") else {"mailbox": address.mailbox.lower()}


def moment_of(text: str) -> datetime:
    """ISO 8601; the space is a + that was not written %2B."""
    try:
        moment = datetime.fromisoformat(text.replace(" ", "+") if "T" in text.upper() else text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        message = "`created_after` must be a moment in ISO 8601, such as 2026-12-24T18:00:00Z."
        raise invalid_parameter(message) from None


def first_id_at(moment: datetime) -> UUID:
    """The smallest UUIDv7 about a moment: ids are in the order of time, so that they serve as its index.

    A message's id is made a little after its `created_at`, and clocks may be set: a minute is left.
    """
    milliseconds = min(max(0, int(moment.timestamp() - 60) * 1000), 2**48 - 1)
    return UUID(int=milliseconds << 80)
