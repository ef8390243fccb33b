"""The API. Its wire format is Resend's; see docs/api.md."""

import hashlib
from uuid import UUID

import orjson
from django.db.models import QuerySet
from django.http import HttpResponse
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from emails.api.errors import ApiError, not_found
from emails.api.serializers import email_as_json, sandbox_message_as_json
from emails.drafts import Draft
from emails.models import EmailRequest, Once, OnceConflict, SandboxMessage
from emails.states import State


class Emails(APIView):
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


class Email(APIView):
    def get(self, request: Request, id: str) -> Response:
        emails = EmailRequest.objects.select_related("content").prefetch_related("recipients")
        if not (email := emails.filter(pk=as_uuid(id)).first()):
            raise not_found(f"There is no email {id}.")
        return Response(email_as_json(email))


class Cancel(APIView):
    def post(self, request: Request, id: str) -> Response:
        """Takes back an email that waits. One that a worker has picked up goes out."""
        chosen = EmailRequest.objects.filter(pk=as_uuid(id))
        if chosen.cancel(f"API, key {request.auth.name}"):
            return Response({"object": "email", "id": id})
        if not (email := chosen.first()):
            raise not_found(f"There is no email {id}.")
        state = State(email.state).label.lower()
        raise ApiError(422, "validation_error", f"The email can't be canceled any more: it is {state}.")


class SandboxMessages(APIView):
    def get(self, request: Request) -> Response:
        """What the sandbox has received, newest first; `to` is an envelope recipient."""
        messages = SandboxMessage.objects.defer("raw")
        if to := request.query_params.get("to"):
            messages = messages.filter(recipients__mailbox=to.strip().lower())
        return page(request, messages, sandbox_message_as_json)


class SandboxMessageBytes(APIView):
    def get(self, request: Request, id: str) -> HttpResponse:
        """The very bytes that arrived."""
        if not (message := SandboxMessage.objects.filter(pk=as_uuid(id)).first()):
            raise not_found(f"There is no message {id} in the sandbox.")
        return HttpResponse(bytes(message.raw), content_type="message/rfc822")


class Unknown(APIView):
    """Paths below the API's names that don't exist: JSON, whoever asks."""

    def initial(self, request: Request, *args, **kwargs) -> None:
        raise not_found(f"There is nothing at {request.path} (or not yet).")


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
    if not isinstance(request.data, dict):
        raise ApiError(422, "validation_error", "The body must be a JSON object, such as {\"from\": …, \"to\": …}.")
    return request.data


def as_uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def page(request: Request, rows: QuerySet, as_json) -> Response:
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
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= maximum:
        raise ApiError(422, "invalid_parameter", f"`{name}` must be a whole number from 1 to {maximum}.")
    return int(text)


def cursor(request: Request, name: str) -> UUID | None:
    if name not in request.query_params:
        return None
    if id := as_uuid(request.query_params[name]):
        return id
    raise ApiError(422, "invalid_parameter", f"`{name}` must be the id of an item of this list.")
