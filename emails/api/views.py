"""The API. Its wire format is Resend's, so that the clients people have already work with it."""

import hashlib
import re
from collections.abc import Callable
from contextlib import suppress
from uuid import UUID

import orjson
from django.db.models import Prefetch, QuerySet
from django.http import HttpResponse, UnreadablePostError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from emails.api.errors import ApiError, not_found, unknown_path
from emails.api.serializers import email_as_json, sandbox_message_as_json
from emails.drafts import Address, Draft
from emails.models import EmailRequest, Once, OnceConflict, Recipient, SandboxMessage
from emails.states import State

CHUNK = 64 * 1024
MAX_UNREAD = 256 * 1024 * 1024


class ApiView(APIView):
    """Answers in JSON, whatever the caller would accept."""

    http_method_names = ["get", "head", "post", "patch", "delete"]

    def perform_content_negotiation(self, request: Request, force: bool = False) -> tuple:
        renderer = self.get_renderers()[0]
        return renderer, renderer.media_type

    def finalize_response(self, request: Request, response: HttpResponse, *args, **kwargs) -> HttpResponse:
        """Reads what is left of the body: a server that closes with unread bytes takes its answer with it."""
        with suppress(UnreadablePostError):
            for _ in range(MAX_UNREAD // CHUNK):
                if not request._request.read(CHUNK):
                    break
        return super().finalize_response(request, response, *args, **kwargs)


class Emails(ApiView):
    def post(self, request: Request) -> Response:
        """Accepts one email: stores it and rings for it."""
        draft = Draft.clean(json_object(request))
        try:
            [email] = EmailRequest.objects.submit(
                [draft], origin=f"API, key {request.auth.name}", once=idempotency_key(request)
            )
        except OnceConflict as conflict:
            raise idempotency_error(conflict) from None
        return Response({"id": str(email.pk)})

    def get(self, request: Request) -> Response:
        """The newest emails, without their bodies."""
        emails = EmailRequest.objects.select_related("content").defer("content__html", "content__text")
        return page(request, emails, lambda email: email_as_json(email, with_bodies=False))


class Email(ApiView):
    def get(self, request: Request, id: str) -> Response:
        recipients = Prefetch("recipients", Recipient.objects.order_by("pk"))
        emails = EmailRequest.objects.select_related("content").prefetch_related(recipients)
        if not (email := emails.filter(pk=as_uuid(id)).first()):
            raise not_found(f"There is no email {id}.")
        return Response(email_as_json(email))


class Cancel(ApiView):
    def post(self, request: Request, id: str) -> Response:
        """Takes back an email that waits. One that a worker has picked up goes out."""
        chosen = EmailRequest.objects.filter(pk=as_uuid(id))
        if chosen.cancel(f"API, key {request.auth.name}"):
            return Response({"object": "email", "id": id})
        if not (email := chosen.first()):
            raise not_found(f"There is no email {id}.")
        state = State(email.state).label.lower()
        raise ApiError(422, "validation_error", f"The email can't be canceled any more: it is {state}.")


class SandboxMessages(ApiView):
    def get(self, request: Request) -> Response:
        """What the sandbox has received, newest first; `to` is an envelope recipient."""
        messages = SandboxMessage.objects.defer("raw")
        if "to" in request.query_params:
            messages = messages.filter(recipients__mailbox=mailbox(request, "to"))
        return page(request, messages, sandbox_message_as_json)


class SandboxMessageBytes(ApiView):
    def get(self, request: Request, id: str) -> HttpResponse:
        """The very bytes that arrived."""
        if not (message := SandboxMessage.objects.filter(pk=as_uuid(id)).first()):
            raise not_found(f"There is no message {id} in the sandbox.")
        return HttpResponse(bytes(message.raw), content_type="message/rfc822")


class Unknown(ApiView):
    """Paths below the API's names that don't exist: 404, with or without a key."""

    def initial(self, request: Request, *args, **kwargs) -> None:
        raise unknown_path(request)


def idempotency_key(request: Request) -> Once | None:
    """What `Idempotency-Key` asks for: the same key and the same body store one email, within 24 hours."""
    if (key := request.headers.get("Idempotency-Key")) is None:
        return None
    if not 1 <= len(key) <= 256 or not key.isprintable():
        message = "The header `Idempotency-Key` must have 1 to 256 printable characters."
        raise ApiError(400, "invalid_idempotency_key", message)
    digest = hashlib.sha256(orjson.dumps(request.data, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return Once(request.auth, key, digest)


def idempotency_error(conflict: OnceConflict) -> ApiError:
    if conflict.concurrent:
        message = "The first request with this `Idempotency-Key` is still being stored: try again."
        return ApiError(409, "concurrent_idempotent_requests", message)
    message = "This `Idempotency-Key` was used within the last 24 hours for another body."
    return ApiError(409, "invalid_idempotent_request", message)


def json_object(request: Request) -> dict:
    if "Transfer-Encoding" in request.headers:  # WSGI gives Django no body without its length
        raise ApiError(411, "validation_error", "The body's length is missing: send `Content-Length`, not chunks.")
    if not isinstance(request.data, dict):
        raise ApiError(422, "validation_error", 'The body must be a JSON object, such as {"from": …, "to": …}.')
    return request.data


def as_uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def page(request: Request, rows: QuerySet, as_json: Callable) -> Response:
    """One page of a list, newest first: `limit` rows after or before an id."""
    limit = number(request, "limit", default=20, maximum=100)
    after, before = (cursor(request, name) for name in ("after", "before"))
    if after and before:
        raise ApiError(422, "invalid_parameter", "Give `after` or `before`, not both.")
    if before:
        found = list(rows.filter(pk__gt=before).order_by("pk")[: limit + 1])
        has_more, found = len(found) > limit, found[:limit][::-1]
    else:
        found = list((rows.filter(pk__lt=after) if after else rows).order_by("-pk")[: limit + 1])
        has_more, found = len(found) > limit, found[:limit]
    return Response({"object": "list", "has_more": has_more, "data": [as_json(row) for row in found]})


def number(request: Request, name: str, default: int, maximum: int) -> int:
    text = request.query_params.get(name, str(default))
    if not re.fullmatch("[0-9]{1,9}", text) or not 1 <= int(text) <= maximum:
        raise ApiError(422, "invalid_parameter", f"`{name}` must be a whole number from 1 to {maximum}.")
    return int(text)


def cursor(request: Request, name: str) -> UUID | None:
    if name not in request.query_params:
        return None
    if id := as_uuid(request.query_params[name]):
        return id
    raise ApiError(422, "invalid_parameter", f"`{name}` must be the id of an item of this list.")


def mailbox(request: Request, name: str) -> str:
    """An address to look for, as an envelope holds it. Servers know mailboxes without a domain too."""
    text = request.query_params[name].strip().lower()
    try:
        return Address.parse(text).envelope
    except ValueError:
        if re.fullmatch(r"\S+", text) and text.isprintable():
            return text
    raise ApiError(422, "invalid_parameter", f"`{name}` must be one address (in a URL, + is written %2B).")
