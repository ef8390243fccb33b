"""What the sandbox has received, for other people's tests."""

import re

from django.http import HttpResponse
from rest_framework.request import Request
from rest_framework.response import Response

from emails.addresses import Address, shortened
from emails.api import description as api
from emails.api.description import described
from emails.api.errors import invalid_parameter, not_found
from emails.api.lists import page
from emails.api.serializers import sandbox_message_as_json
from emails.api.shapes import BINARY
from emails.api.view import ApiView
from emails.models import SandboxMessage, SandboxRecipient
from emails.search import Keys, as_uuid


class SandboxMessages(ApiView):
    @described("listSandbox", "What the sandbox received", "SandboxPage", parameters=[*api.PAGE, api.ENVELOPE_TO])
    def get(self, request: Request) -> Response:
        """What the sandbox has received, newest first; `to` is an envelope recipient."""
        keys = None
        if "to" in request.query_params:
            to = SandboxRecipient.objects.filter(mailbox=mailbox(request.query_params["to"]))
            keys = Keys(to, "message_id")
        return page(request, SandboxMessage.objects.defer("raw"), sandbox_message_as_json, keys=keys)


class SandboxMessageBytes(ApiView):
    @described(
        "getSandboxMessage",
        "One mail, byte for byte",
        BINARY,
        media_type="message/rfc822",
        parameters=[api.in_path("id", "The mail's id.")],
    )
    def get(self, request: Request, id: str) -> HttpResponse:
        """The very bytes that arrived."""
        if not (message := SandboxMessage.objects.filter(pk=as_uuid(id)).first()):
            raise not_found(f"There is no message {shortened(id)} in the sandbox.")
        return HttpResponse(bytes(message.raw), content_type="message/rfc822")


def mailbox(text: str) -> str:
    """An address as an envelope holds it. Servers know mailboxes without a domain too."""
    text = text.strip().lower()
    try:
        return Address.parse(text).envelope
    except ValueError:
        if re.fullmatch(r"\S+", text) and text.isprintable():
            return text
    raise invalid_parameter("`to` must be one address (in a URL, + is written %2B).")
