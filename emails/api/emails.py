"""Emails: accepting, looking, changing one's mind."""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

import orjson
from django.conf import settings
from django.core import signing
from django.db.models import Prefetch, QuerySet
from django.http import HttpResponse
from django.utils import timezone
from django.utils.http import content_disposition_header
from rest_framework.request import Request
from rest_framework.response import Response

from emails import advice
from emails.addresses import Address, shortened
from emails.api import description as api
from emails.api import limits
from emails.api.description import described
from emails.api.errors import ApiError, invalid_parameter, not_found, translate
from emails.api.lists import choice, page
from emails.api.serializers import (
    DOWNLOAD_LIFETIME,
    DOWNLOAD_SALT,
    attachment_as_json,
    email_as_json,
    event_as_json,
)
from emails.api.shapes import BINARY, TEXT
from emails.api.view import ApiView, as_uuid, json_body, json_object
from emails.drafts import Draft, Invalid, new_time
from emails.models import (
    ApiKey,
    Attachment,
    EmailRequest,
    IdempotencyKey,
    Once,
    OnceConflict,
    Priority,
    Recipient,
    Suppression,
    Tag,
)
from emails.states import State

MAX_BATCH = 100


# Accepting


class Emails(ApiView):
    sending = ("POST",)

    @described(
        "sendEmail",
        "Send an email",
        api.one_of("Accepted", "DryRun"),
        body="NewEmail",
        parameters=[api.DRY_RUN, api.IDEMPOTENCY_KEY],
        errors=[409],
    )
    def post(self, request: Request) -> Response:
        """Accepts one email: stores it, and a worker sends it. With `?dry_run=true` nothing is stored.

        An `Idempotency-Key` makes a retry safe: within 24 hours the same key and body store one email.
        """
        fields, once = json_object(request), idempotency_key(request)
        if choice(request, "dry_run", ["true", "false"]) == "true":
            return Response(dry_run(draft_of(request.auth, fields)))
        if first := first_use(once):
            return replayed({"id": first.emails[0]})
        draft = draft_of(request.auth, fields)
        return stored(request, once, [draft], Priority(request.auth.priority), lambda ids: {"id": ids[0]})

    @described("listEmails", "List emails", "EmailPage", parameters=[*api.PAGE, *api.FILTERS])
    def get(self, request: Request) -> Response:
        """The newest emails, without their bodies; narrowed by `to`, `state`, `tag` and `created_after`."""
        emails = EmailRequest.objects.select_related("content").defer("content__html", "content__text")
        return page(request, narrowed(request, emails), lambda email: email_as_json(email, with_bodies=False))


class Batch(ApiView):
    sending = ("POST",)

    @described(
        "sendBatch",
        "Send up to a hundred emails",
        "AcceptedBatch",
        body="NewBatch",
        parameters=[api.VALIDATION, api.IDEMPOTENCY_KEY],
        errors=[409],
    )
    def post(self, request: Request) -> Response:
        """Accepts 1 to 100 emails: in strict mode all or none, in permissive mode those that are in order.

        The ids stand in the order of the emails. Unless they say otherwise, they are sent with low priority.
        """
        items = json_body(request)
        if not isinstance(items, list):
            raise ApiError(422, "validation_error", "The body must be a list of emails, each a JSON object.")
        if not 1 <= len(items) <= MAX_BATCH:
            message = f"The list has {len(items)} emails: 1 to {MAX_BATCH} are allowed in a batch."
            raise ApiError(422, "validation_error", message)
        if "dry_run" in request.query_params:
            raise invalid_parameter("`dry_run` is for a single email: POST it to /emails.")
        permissive = is_permissive(request)
        once = idempotency_key(request)
        if first := first_use(once):
            return replayed(batch_answer(first.emails, first.errors, permissive))
        drafts, errors = drafts_of(request, items, permissive)
        if not drafts:
            return Response(batch_answer([], errors, permissive))
        if once:
            once.errors.extend(errors)
        return stored(request, once, drafts, Priority.LOW, lambda ids: batch_answer(ids, errors, permissive))


def draft_of(key: ApiKey, fields: object) -> Draft:
    if not isinstance(fields, dict):
        raise ApiError(422, "validation_error", 'An email is a JSON object, such as {"from": …, "to": …}.')
    draft = Draft.clean(fields, time_zone=key.time_zone)
    if not key.may_send_from(draft.sender):
        message = f"This API key may send from {', '.join(key.domains)} only, not from {draft.sender.domain}."
        raise ApiError(422, "invalid_from_address", f"The `from` field: {message}")
    return draft


def is_permissive(request: Request) -> bool:
    mode = request.headers.get("x-batch-validation", "strict")
    if mode not in ("strict", "permissive"):
        raise invalid_parameter("The header `x-batch-validation` must be `strict` or `permissive`.")
    return mode == "permissive"


def drafts_of(request: Request, items: list, permissive: bool) -> tuple[list[Draft], list[dict]]:
    drafts, errors = [], []
    for index, item in enumerate(items):
        try:
            drafts.append(draft_of(request.auth, item))
        except (Invalid, ApiError) as error:
            known = translate(error, request)
            if not permissive:
                raise ApiError(known.status, known.name, f"Email {index} (counted from 0): {known.message}") from None
            errors.append({"index": index, "message": known.message})
    return drafts, errors


def batch_answer(ids: list[str], errors: list[dict], permissive: bool) -> dict:
    return {"data": [{"id": id} for id in ids], **({"errors": errors} if permissive else {})}


def stored(
    request: Request, once: Once | None, drafts: list[Draft], priority: Priority, answer: Callable[[list[str]], dict]
) -> Response:
    """Stores what was checked, and answers with the ids."""
    with limits.quota(request.auth, len(drafts)) as spent:
        try:
            emails = EmailRequest.objects.submit(drafts, origin=by_key(request), priority=priority, once=once)
        except OnceConflict as conflict:
            raise idempotency_error(conflict) from None
        spent.keep = not emails[0].is_replay
    body = answer([str(email.pk) for email in emails])
    return replayed(body) if emails[0].is_replay else Response(body)


def by_key(request: Request) -> str:
    return f"API, key {request.auth.name}"


# Idempotency


def idempotency_key(request: Request) -> Once | None:
    """What `Idempotency-Key` asks for: the same key and the same body store their emails once within 24 hours."""
    if (key := request.headers.get("Idempotency-Key")) is None:
        return None
    if not 1 <= len(key) <= 256 or not key.isprintable():
        message = "The header `Idempotency-Key` must have 1 to 256 printable characters."
        raise ApiError(400, "invalid_idempotency_key", message)
    digest = hashlib.sha256(orjson.dumps(request.data, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return Once(request.auth, key, digest)


def first_use(once: Once | None) -> IdempotencyKey | None:
    """The key's earlier use, if there was one: its answer holds, even if its time has passed meanwhile."""
    try:
        return once.first_use() if once else None
    except OnceConflict as conflict:
        raise idempotency_error(conflict) from None


def replayed(body: dict) -> Response:
    return Response(body, headers={"idempotent-replayed": "true"})


def idempotency_error(conflict: OnceConflict) -> ApiError:
    if conflict.concurrent:
        message = "The first request with this `Idempotency-Key` is still being stored: try again."
        return ApiError(409, "concurrent_idempotent_requests", message)
    message = "This `Idempotency-Key` was used within the last 24 hours for another body."
    return ApiError(409, "invalid_idempotent_request", message)


# Trying


def dry_run(draft: Draft) -> dict:
    """What would be sent, to whom, and what an expert would say; nothing is stored."""
    email = EmailRequest.from_draft(draft, Priority.DEFAULT, delay=0)
    email.date = timezone.now()
    suppressed = Suppression.among(draft.recipients)
    return {
        "object": "dry_run",
        "raw": email.preview(draft).decode(),
        "recipients": [address.mailbox for address in draft.recipients if address not in suppressed],
        "suppressed": [address.mailbox for address in draft.recipients if address in suppressed],
        "warnings": advice.warnings(draft, settings.RELAY),
    }


# Looking


class Email(ApiView):
    @described("getEmail", "Look at an email", "Email", parameters=[api.EMAIL_ID])
    def get(self, request: Request, id: str) -> Response:
        """The email with its bodies, what became of it, and of each recipient."""
        recipients = Prefetch("recipients", Recipient.objects.order_by("pk"))
        emails = EmailRequest.objects.select_related("content").prefetch_related(recipients)
        return Response(email_as_json(found(emails, id)))

    @described("rescheduleEmail", "Move an email to another time", "Changed", body="NewTime", parameters=[api.EMAIL_ID])
    def patch(self, request: Request, id: str) -> Response:
        """Moves an email that waits to another time."""
        moment = new_time(json_object(request), request.auth.time_zone)
        return decided(id, "rescheduled", lambda chosen: chosen.reschedule(moment, by_key(request)))


class Cancel(ApiView):
    @described("cancelEmail", "Take an email back", "Changed", parameters=[api.EMAIL_ID], errors=[422])
    def post(self, request: Request, id: str) -> Response:
        """Takes back an email that waits. One that a worker has picked up goes out."""
        return decided(id, "canceled", lambda chosen: chosen.cancel(by_key(request)))


class Events(ApiView):
    @described("listEvents", "An email's timeline", "EventPage", parameters=[api.EMAIL_ID, *api.EVENTS_PAGE])
    def get(self, request: Request, id: str) -> Response:
        """What happened to the email, oldest first."""
        email = found(EmailRequest.objects.all(), id)
        return page(request, email.events.all(), event_as_json, oldest_first=True, default=100)


def decided(id: str, done: str, decide: Callable[[QuerySet], int]) -> Response:
    """A decision about an email that waits; the answer tells whether it came in time."""
    chosen = EmailRequest.objects.filter(pk=as_uuid(id))
    if decide(chosen):
        return Response({"object": "email", "id": str(as_uuid(id))})
    state = State(found(chosen, id).state).label.lower()
    raise ApiError(422, "validation_error", f"The email can't be {done} any more: it is {state}.")


def found(emails: QuerySet, id: str) -> EmailRequest:
    if not (email := emails.filter(pk=as_uuid(id)).first()):
        raise not_found(f"There is no email {shortened(id)}.")
    return email


# Filters: each is served by an index


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


# Attachments


class Attachments(ApiView):
    @described(
        "listAttachments", "An email's attachments", "AttachmentPage", parameters=[api.EMAIL_ID, *api.WHOLE_PAGE]
    )
    def get(self, request: Request, id: str) -> Response:
        """The email's attachments, each with a link by which whoever has it can download it for an hour."""
        email = found(EmailRequest.objects.all(), id)
        return page(request, email.attachments.all(), attachment_as_json, oldest_first=True, default=100)


class OneAttachment(ApiView):
    @described(
        "getAttachment",
        "One attachment",
        "Attachment",
        parameters=[api.EMAIL_ID, api.in_path("attachment_id", "The attachment's id.")],
    )
    def get(self, request: Request, id: str, attachment_id: str) -> Response:
        """One attachment, with a link by which it can be downloaded for an hour."""
        email = found(EmailRequest.objects.all(), id)
        if not (row := email.attachments.filter(pk=as_uuid(attachment_id)).first()):
            raise not_found(f"The email has no attachment {shortened(attachment_id)}.")
        return Response({"object": "attachment", **attachment_as_json(row)})


class Download(ApiView):
    authentication_classes: list = []  # the link is the key

    @described(
        "downloadAttachment",
        "Download an attachment",
        BINARY,
        media_type="application/octet-stream",
        parameters=[api.in_path("token", "From a `download_url`.", TEXT)],
    )
    def get(self, request: Request, token: str) -> HttpResponse:
        """An attachment's bytes, to whoever has a link that was signed within the hour."""
        try:
            id = signing.loads(token, salt=DOWNLOAD_SALT, max_age=DOWNLOAD_LIFETIME)
        except signing.BadSignature:
            raise not_found("This download link is not valid, or not any more.") from None
        if not (attachment := Attachment.objects.select_related("blob").filter(pk=id).first()):
            raise not_found("The attachment is gone.")
        response = HttpResponse(bytes(attachment.blob.content), content_type="application/octet-stream")
        response["Content-Disposition"] = content_disposition_header(True, attachment.filename)
        response["Content-Security-Policy"] = "sandbox; default-src 'none'"
        return response
