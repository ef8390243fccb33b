"""The API. Its wire format is Resend's, so that the clients people have already work with it."""

import hashlib
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from uuid import UUID

import orjson
from django.conf import settings
from django.core import signing
from django.db.models import Prefetch, QuerySet
from django.http import HttpRequest, HttpResponse, UnreadablePostError
from django.utils.http import content_disposition_header
from django.views.decorators.http import require_safe
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from emails import advice, schedule
from emails.addresses import Address
from emails.api import limits
from emails.api.errors import ApiError, as_json, not_found, translate, unknown_path
from emails.api.serializers import (
    DOWNLOAD_LIFETIME,
    DOWNLOAD_SALT,
    attachment_as_json,
    email_as_json,
    event_as_json,
    key_as_json,
    sandbox_message_as_json,
    suppression_as_json,
)
from emails.drafts import Draft, Invalid
from emails.models import (
    ApiKey,
    Attachment,
    EmailRequest,
    Once,
    OnceConflict,
    Priority,
    Recipient,
    SandboxMessage,
    Suppression,
    Tag,
)
from emails.states import State

MAX_BATCH = 100
CHUNK = 64 * 1024
MAX_UNREAD = 256 * 1024 * 1024


class ApiView(APIView):
    """Answers in JSON, whatever the caller would accept, to a key that may ask this."""

    http_method_names = ["get", "head", "post", "patch", "delete"]
    sending: tuple[str, ...] = ()  # methods that a key for sending only may use

    def initial(self, request: Request, *args, **kwargs) -> None:
        super().initial(request, *args, **kwargs)
        if request.method.lower() not in dir(self):
            return  # 405 comes before 401
        if request.auth.permission == ApiKey.Permission.SENDING and request.method not in self.sending:
            raise ApiError(401, "restricted_api_key", "This API key may only send emails.")
        self.headers |= limits.take_turn(request.auth)

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
    sending = ("POST",)

    def post(self, request: Request) -> Response:
        """Accepts one email: stores it and rings for it. With `?dry_run=true` nothing is stored."""
        draft = draft_of(request.auth, json_object(request))
        if request.query_params.get("dry_run") == "true":
            return Response(dry_run(draft))
        return stored(request, [draft], Priority(request.auth.priority), lambda ids: {"id": ids[0]})

    def get(self, request: Request) -> Response:
        """The newest emails, without their bodies; narrowed by `to`, `state`, `tag` and `created_after`."""
        emails = EmailRequest.objects.select_related("content").defer("content__html", "content__text")
        emails = narrowed(request, emails)
        return page(request, emails, lambda email: email_as_json(email, with_bodies=False))


class Batch(ApiView):
    sending = ("POST",)

    def post(self, request: Request) -> Response:
        """Accepts 1 to 100 emails. Strict: all or none; permissive: the good ones, and what ails the others."""
        items = json_body(request)
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise ApiError(422, "validation_error", "The body must be a list of emails, each a JSON object.")
        if not 1 <= len(items) <= MAX_BATCH:
            message = f"The list has {len(items)} emails: 1 to {MAX_BATCH} are allowed in a batch."
            raise ApiError(422, "validation_error", message)
        mode = request.headers.get("x-batch-validation", "strict")
        if mode not in ("strict", "permissive"):
            raise ApiError(422, "invalid_parameter", "`x-batch-validation` must be `strict` or `permissive`.")
        drafts, errors = [], []
        for index, item in enumerate(items):
            try:
                drafts.append(draft_of(request.auth, item))
            except (Invalid, ApiError) as error:
                known = translate(error, request)
                if mode == "strict":
                    raise ApiError(known.status, known.name, f"Email {index}: {known.message}") from None
                errors.append({"index": index, "message": known.message})
        extra = {"errors": errors} if mode == "permissive" else {}
        if not drafts:
            return Response({"data": [], **extra})
        return stored(request, drafts, Priority.LOW, lambda ids: {"data": [{"id": id} for id in ids], **extra})


class Email(ApiView):
    def get(self, request: Request, id: str) -> Response:
        recipients = Prefetch("recipients", Recipient.objects.order_by("pk"))
        emails = EmailRequest.objects.select_related("content").prefetch_related(recipients)
        return Response(email_as_json(found(emails, id)))

    def patch(self, request: Request, id: str) -> Response:
        """Moves an email that waits to another time."""
        fields = json_object(request)
        if not isinstance(text := fields.get("scheduled_at"), str):
            raise ApiError(422, "missing_required_field", "The `scheduled_at` field is missing: give the new time.")
        try:
            moment = schedule.parse(text, request.auth.time_zone)
        except ValueError as error:
            raise ApiError(422, "validation_error", f"The `scheduled_at` field: {error}") from None
        return decided(id, "rescheduled", lambda chosen: chosen.reschedule(moment, by_key(request)))


class Cancel(ApiView):
    def post(self, request: Request, id: str) -> Response:
        """Takes back an email that waits. One that a worker has picked up goes out."""
        return decided(id, "canceled", lambda chosen: chosen.cancel(by_key(request)))


class Events(ApiView):
    def get(self, request: Request, id: str) -> Response:
        """The email's timeline, oldest first."""
        email = found(EmailRequest.objects.all(), id)
        return Response({"object": "list", "has_more": False, "data": [event_as_json(e) for e in email.events.all()]})


class Attachments(ApiView):
    def get(self, request: Request, id: str) -> Response:
        email = found(EmailRequest.objects.all(), id)
        rows = email.attachments.order_by("position")
        return Response({"object": "list", "has_more": False, "data": [attachment_as_json(row) for row in rows]})


class OneAttachment(ApiView):
    def get(self, request: Request, id: str, attachment_id: str) -> Response:
        email = found(EmailRequest.objects.all(), id)
        if not (row := email.attachments.filter(pk=as_uuid(attachment_id)).first()):
            raise not_found(f"The email has no attachment {attachment_id}.")
        return Response({"object": "attachment", **attachment_as_json(row)})


@require_safe
def download(request: HttpRequest, token: str) -> HttpResponse:
    """An attachment's bytes, to whoever has a link that was signed within the hour."""
    try:
        id = signing.loads(token, salt=DOWNLOAD_SALT, max_age=DOWNLOAD_LIFETIME)
    except signing.BadSignature:
        return as_json(not_found("This download link is not valid, or not any more."))
    attachment = Attachment.objects.select_related("blob").filter(pk=id).first()
    if not attachment:
        return as_json(not_found("The attachment is gone."))
    response = HttpResponse(bytes(attachment.blob.content), content_type="application/octet-stream")
    response["Content-Disposition"] = content_disposition_header(True, attachment.filename)
    response["Content-Security-Policy"] = "sandbox; default-src 'none'"
    return response


class ApiKeys(ApiView):
    def post(self, request: Request) -> Response:
        """Makes a key; its token is in this answer and never again."""
        key, token = ApiKey.create(**key_fields(json_object(request)))
        return Response({"id": str(key.pk), "token": token}, status=201)

    def get(self, request: Request) -> Response:
        return page(request, ApiKey.objects.filter(revoked_at=None), key_as_json)


class OneApiKey(ApiView):
    def delete(self, request: Request, id: str) -> Response:
        """Revokes a key."""
        if not (key := ApiKey.objects.filter(pk=as_uuid(id), revoked_at=None).first()):
            raise not_found(f"There is no API key {id}.")
        key.revoke()
        return Response({"object": "api_key", "id": id, "deleted": True})


class Suppressions(ApiView):
    def post(self, request: Request) -> Response:
        """Adds an address; one that is there already is returned as it is."""
        address = suppressed_address(json_object(request).get("email"))
        row, new = Suppression.objects.get_or_create(mailbox=address)
        return Response({"object": "suppression", "id": str(row.pk)}, status=201 if new else 200)

    def get(self, request: Request) -> Response:
        rows = Suppression.objects.all()
        if origin := request.query_params.get("origin"):
            rows = rows.filter(origin=origin)
        return page(request, rows, suppression_as_json)


class OneSuppression(ApiView):
    def get(self, request: Request, id: str) -> Response:
        return Response(suppression_as_json(suppression(id)))

    def delete(self, request: Request, id: str) -> Response:
        row = suppression(id)
        row_id = str(row.pk)
        row.delete()
        return Response({"object": "suppression", "id": row_id, "deleted": True})


class AddSuppressions(ApiView):
    def post(self, request: Request) -> Response:
        addresses = [suppressed_address(item) for item in batch_of(request, "emails")]
        rows = [Suppression.objects.get_or_create(mailbox=address)[0] for address in addresses]
        return Response({"data": [{"object": "suppression", "id": str(row.pk)} for row in rows]}, status=201)


class RemoveSuppressions(ApiView):
    def post(self, request: Request) -> Response:
        fields = json_object(request)
        name = "ids" if "ids" in fields else "emails"
        gone = []
        for item in batch_of(request, name):
            if row := suppressions_by(item).first():
                gone.append({"object": "suppression", "id": str(row.pk), "deleted": True})
                row.delete()
        return Response({"data": gone})


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


# What several views share


def draft_of(key: ApiKey, fields: dict) -> Draft:
    draft = Draft.clean(fields, time_zone=key.time_zone)
    if key.domains and draft.sender.domain not in key.domains:
        message = f"This API key may send from {', '.join(key.domains)} only, not from {draft.sender.domain}."
        raise ApiError(422, "invalid_from_address", message)
    return draft


def stored(request: Request, drafts: list[Draft], priority: Priority, answer: Callable[[list[str]], dict]) -> Response:
    """Stores what was checked, once for each `Idempotency-Key`, and answers with the ids."""
    once = idempotency_key(request)
    if not (once and once.is_known):
        limits.spend(request.auth, len(drafts))
    try:
        emails = EmailRequest.objects.submit(drafts, origin=by_key(request), priority=priority, once=once)
    except OnceConflict as conflict:
        raise idempotency_error(conflict) from None
    replayed = {"idempotent-replayed": "true"} if once and emails[0].is_replay else {}
    return Response(answer([str(email.pk) for email in emails]), headers=replayed)


def decided(id: str, done: str, decide: Callable[[QuerySet], int]) -> Response:
    """A decision about an email that waits; the answer tells whether it came in time."""
    chosen = EmailRequest.objects.filter(pk=as_uuid(id))
    if decide(chosen):
        return Response({"object": "email", "id": id})
    state = State(found(chosen, id).state).label.lower()
    raise ApiError(422, "validation_error", f"The email can't be {done} any more: it is {state}.")


def by_key(request: Request) -> str:
    return f"API, key {request.auth.name}"


def found(emails: QuerySet, id: str) -> EmailRequest:
    if not (email := emails.filter(pk=as_uuid(id)).first()):
        raise not_found(f"There is no email {id}.")
    return email


def narrowed(request: Request, emails: QuerySet) -> QuerySet:
    asked = request.query_params
    if "to" in asked:
        emails = emails.to_recipient(asked["to"])
    if "state" in asked:
        if asked["state"] not in State:
            raise ApiError(422, "invalid_parameter", f"`state` must be one of {', '.join(sorted(State))}.")
        emails = emails.filter(state=asked["state"])
    if "tag" in asked:
        name, _, value = asked["tag"].partition(":")
        tags = Tag.objects.filter(name=name, **({"value": value} if value else {}))
        emails = emails.filter(pk__in=tags.values("email"))
    if "created_after" in asked:
        try:
            moment = datetime.fromisoformat(asked["created_after"].replace(" ", "+"))
        except ValueError:
            message = "`created_after` must be a moment in ISO 8601, such as 2026-12-24T18:00:00Z."
            raise ApiError(422, "invalid_parameter", message) from None
        emails = emails.filter(pk__gte=first_id_at(moment if moment.tzinfo else moment.replace(tzinfo=UTC)))
    return emails


def first_id_at(moment: datetime) -> UUID:
    """The smallest UUIDv7 of a moment: ids are in the order of time, so that they serve as its index."""
    milliseconds = min(max(0, int(moment.timestamp() * 1000)), 2**48 - 1)
    return UUID(int=milliseconds << 80)


def dry_run(draft: Draft) -> dict:
    """What would be sent, to whom, and what an expert would say; nothing is stored."""
    email = EmailRequest.from_draft(draft, Priority.DEFAULT, delay=0)
    listed = Suppression.objects.filter(mailbox__in=[address.mailbox.lower() for address in draft.recipients])
    suppressed = set(listed.values_list("mailbox", flat=True))
    return {
        "object": "dry_run",
        "raw": email.preview(draft).decode("ascii", errors="replace"),
        "recipients": [a.mailbox for a in draft.recipients if a.mailbox.lower() not in suppressed],
        "suppressed": [a.mailbox for a in draft.recipients if a.mailbox.lower() in suppressed],
        "warnings": advice.warnings(draft, settings.RELAY),
    }


def key_fields(fields: dict) -> dict:
    known = {"name", "permission", "domain_id", "domains", "expires_at"}
    if unknown := set(fields) - known:
        raise ApiError(422, "validation_error", f"The field `{min(unknown)[:80]}` is not supported.")
    name = fields.get("name")
    if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > 100:
        raise ApiError(422, "missing_required_field", "The `name` field is missing: 1 to 100 printable characters.")
    permission = fields.get("permission") or ApiKey.Permission.FULL
    if permission not in ApiKey.Permission.values:
        raise ApiError(422, "validation_error", "The `permission` field must be `full_access` or `sending_access`.")
    if fields.get("domain_id"):
        raise ApiError(
            422, "validation_error", "The field `domain_id` is not supported: give `domains`, a list of names."
        )
    domains = fields.get("domains") or []
    if not isinstance(domains, list) or not all(
        isinstance(d, str) and re.fullmatch(r"[^\s@]{1,255}", d) for d in domains
    ):
        raise ApiError(422, "validation_error", "The `domains` field must be a list of domain names.")
    expires_at = None
    if text := fields.get("expires_at"):
        try:
            expires_at = datetime.fromisoformat(text)
            expires_at = expires_at if expires_at.tzinfo else expires_at.replace(tzinfo=UTC)
        except (TypeError, ValueError):
            raise ApiError(422, "validation_error", "The `expires_at` field must be a moment in ISO 8601.") from None
    return {
        "name": name.strip(),
        "permission": permission,
        "domains": [domain.lower() for domain in domains],
        "expires_at": expires_at,
    }


def suppressed_address(value: object) -> str:
    if not isinstance(value, str):
        raise ApiError(422, "missing_required_field", "The `email` field is missing: give an address.")
    try:
        return Address.parse(value).mailbox.lower()
    except ValueError as error:
        raise ApiError(422, "validation_error", f"The `email` field: {error}") from None


def suppressions_by(key: str) -> QuerySet:
    id = as_uuid(key)
    return Suppression.objects.filter(pk=id) if id else Suppression.objects.filter(mailbox=key.strip().lower())


def suppression(key: str) -> Suppression:
    if not (row := suppressions_by(key).first()):
        raise not_found(f"{key} is not on the suppression list.")
    return row


def batch_of(request: Request, name: str) -> list[str]:
    items = json_object(request).get(name)
    if not isinstance(items, list) or not 1 <= len(items) <= MAX_BATCH or not all(isinstance(i, str) for i in items):
        raise ApiError(422, "validation_error", f"The `{name}` field must be a list of 1 to {MAX_BATCH} strings.")
    return items


def idempotency_key(request: Request) -> Once | None:
    """What `Idempotency-Key` asks for: the same key and the same body store their emails once within 24 hours."""
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


def json_body(request: Request) -> object:
    if "Transfer-Encoding" in request.headers:  # WSGI gives Django no body without its length
        raise ApiError(411, "validation_error", "The body's length is missing: send `Content-Length`, not chunks.")
    return request.data


def json_object(request: Request) -> dict:
    body = json_body(request)
    if not isinstance(body, dict):
        raise ApiError(422, "validation_error", 'The body must be a JSON object, such as {"from": …, "to": …}.')
    return body


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
