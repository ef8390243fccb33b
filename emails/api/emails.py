"""Emails: accepting, looking, changing one's mind."""

from collections.abc import Callable

from django.conf import settings
from django.db.models import Prefetch, QuerySet
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response

from emails import accepting, advice, why
from emails.addresses import shortened
from emails.api import description as api
from emails.api import limits
from emails.api.description import described
from emails.api.errors import ApiError, invalid_parameter, not_found, translate
from emails.api.filters import search
from emails.api.idempotency import conflicted, first_use, idempotency_key, replayed
from emails.api.lists import choice, page
from emails.api.serializers import email_as_json, event_as_json
from emails.api.view import ApiView, json_body, json_object
from emails.drafts import Draft, Invalid, new_time
from emails.models import ApiKey, EmailRequest, Once, OnceConflict, Priority, Recipient, Suppression
from emails.search import as_uuid
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
        keys = search(request).keys
        return page(request, emails, lambda email: email_as_json(email, with_bodies=False), keys=keys)


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
            emails = accepting.submit(drafts, origin=by_key(request), priority=priority, once=once)
        except OnceConflict as conflict:
            raise conflicted(conflict) from None
        spent.keep = not emails[0].is_replay
    body = answer([str(email.pk) for email in emails])
    return replayed(body) if emails[0].is_replay else Response(body)


def by_key(request: Request) -> str:
    return f"API, key {request.auth.name}"


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
        """The email with its bodies, why it waits or how it ended, and what became of each recipient."""
        recipients = Prefetch("recipients", Recipient.objects.order_by("pk"))
        emails = EmailRequest.objects.select_related("content", "worker").prefetch_related(recipients)
        email = found(emails, id)
        return Response({**email_as_json(email), "explanation": why.explain(email)})

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
