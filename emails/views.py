"""The pages. What they show is read here; whatever changes something is a method of the models."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce, wraps
from itertools import pairwise
from urllib.parse import urlsplit
from uuid import UUID

from django.conf import settings
from django.contrib import messages
from django.contrib.auth import login
from django.contrib.auth.decorators import login_required, permission_required
from django.contrib.auth.views import LoginView
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.crypto import constant_time_compare
from django.utils.http import content_disposition_header
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST, require_safe
from django_htmx.http import HttpResponseClientRefresh, reswap
from django_rq.settings import get_queues_map
from prometheus_client import CONTENT_TYPE_LATEST
from redis.exceptions import RedisError
from rq.job import Job

from emails import health, playground, staging, why
from emails import metrics as prometheus
from emails.api.errors import ApiError
from emails.drafts import Invalid
from emails.forms import RelayForm, SendForm
from emails.login import LinkProblem, user_of
from emails.models import ApiKey, Attachment, EmailRequest, Hold, RequestLog, SandboxMessage, SandboxRecipient
from emails.overview import Overview
from emails.received import Received
from emails.relaycheck import check_within
from emails.search import Keys, as_uuid, by_id_or_recipient, in_sandbox, rarest_first
from emails.surroundings import impatient_redis
from mailsite.proxies import address

PAGE = 50
TAKEN_APART = 8 * 1024 * 1024  # bytes of a message for its page: bodies and pictures come first, attachments last
SHOWN_SOURCE = 200_000  # bytes of a mail's source that its page holds; the rest is behind a link
CHECK_TIME = 15.0  # seconds that a request may spend on the relay check
MAIN_HEADERS = ("From", "To", "Cc", "Reply-To", "Date")
LOCKED = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"
KEPT_AS = re.compile(r"kept in the sandbox as ([0-9a-f-]{36})")


def transport(request: HttpRequest) -> dict:
    """For every page: where mail goes, to whom only, and what holds it back."""
    in_force = "Sandbox: nothing leaves this machine" if settings.RELAY.is_sandbox else f"Relay {settings.RELAY}"
    return {
        "transport": in_force,
        "transport_is_sandbox": settings.RELAY.is_sandbox,
        "staging": staging.in_words(settings.ONLY_TO, settings.REDIRECT_TO),
        "playground_is_on": settings.PLAYGROUND,
        "holds": lambda: why.standing(Hold.in_force()) if request.user.is_authenticated else [],
    }


# Lists


@dataclass
class Page:
    """Some rows of a list, newest first, and the ids that its neighbours begin at."""

    rows: list
    newer: UUID | None
    older: UUID | None

    @classmethod
    def of(cls, rows: QuerySet, request: HttpRequest, keys: Keys | None = None) -> "Page":
        """The page that `?after=` or `?before=` an id asks for: by keyset, so the last is as fast as the first.

        `keys` are those of the rows that are wanted.
        """
        after, before = (as_uuid(request.GET.get(name, "")) for name in ("after", "before"))
        keys = keys or Keys(rows)
        if before:
            found = list(rows.filter(pk__in=keys.cut(PAGE + 1, above=before)).order_by("pk"))
            if len(found) > PAGE:
                found = found[:PAGE][::-1]
                return cls(found, found[0].pk, found[-1].pk)
            after = None  # at the top: the first page, whole
        found = list(rows.filter(pk__in=keys.cut(PAGE + 1, below=after)).order_by("-pk"))
        more, found = len(found) > PAGE, found[:PAGE]
        return cls(found, found[0].pk if found and after else None, found[-1].pk if more else None)


def searched(request: HttpRequest) -> str:
    return request.GET.get("q", "").replace("\0", "").strip()


@login_required
@never_cache
def home(request: HttpRequest) -> HttpResponse:
    """For staff whether all is well, for others their mail."""
    if request.user.is_staff:
        return render(request, "overview.html", {"overview": Overview.now()})
    return mail(request)


@login_required
@never_cache
def overview_live(request: HttpRequest) -> HttpResponse:
    """The part that changes; the verdict is read out where it is another than `?seen=`."""
    if not request.user.is_staff:
        raise PermissionDenied
    overview = Overview.now()
    said = {"overview": overview, "is_news": request.GET.get("seen") != overview.kind}
    return render(request, "overview.html#live", said)


@login_required
def mail(request: HttpRequest) -> HttpResponse:
    query = searched(request)
    page = Page.of(EmailRequest.objects.all(), request, by_id_or_recipient(query) if query else None)
    return render(request, "home.html", {"page": page, "query": query})


@login_required
@never_cache
@require_http_methods(["GET", "POST"])
def keys(request: HttpRequest) -> HttpResponse:
    """Makes an API key, shown in this answer and never again."""
    if request.method == "GET":
        return render(request, "key.html")
    _, token = ApiKey.create(f"Made on the page of keys by {request.user}"[:100])
    return render(request, "key.html", {"token": token, "origin": origin(request)})


def origin(request: HttpRequest) -> str:
    """How this browser reaches us: PUBLIC_URL if it came by that name, since a proxy may hide the scheme."""
    if request.get_host() == urlsplit(settings.PUBLIC_URL).netloc:
        return settings.PUBLIC_URL
    return request.build_absolute_uri("/").rstrip("/")


# Messages


@login_required
def send(request: HttpRequest) -> HttpResponse:
    form = SendForm(request.POST, request.FILES) if request.method == "POST" else SendForm()
    if form.is_valid():
        [email] = EmailRequest.objects.submit([form.draft], origin=f"web form, {request.user}")
        return redirect(email)
    return render(request, "send.html", {"form": form})


@login_required
def message(request: HttpRequest, id: UUID) -> HttpResponse:
    status = status_of(request, id)
    email = status["email"]
    context = {"attachments": email.attachments.order_by("position"), "undated": email.date is None}
    raw = source_of(email)[:TAKEN_APART]
    return render(request, "message.html", {**context, **sides_of(raw), **status})


@login_required
@never_cache
def message_status(request: HttpRequest, id: UUID) -> HttpResponse:
    """The part of the page that changes; while it is what `?seen=` names, only the sentence that says why."""
    status = status_of(request, id)
    if request.GET.get("seen") == status["seen"]:  # at most the sentence has changed
        return reswap(render(request, "message.html#why", status), "none")
    return render(request, "message.html#status", status)


@login_required
def message_html(request: HttpRequest, id: UUID) -> HttpResponse:
    email = get_object_or_404(EmailRequest.objects.select_related("content"), pk=id)
    if email.content.attachments:  # which may be pictures in it
        return locked(Received.parse(source_of(email)[:TAKEN_APART]).self_contained_html)
    return locked(email.content.html or "")


@login_required
def message_raw(request: HttpRequest, id: UUID) -> HttpResponse:
    email = get_object_or_404(EmailRequest.objects.select_related("content"), pk=id)
    return plain(source_of(email))


@login_required
def message_attachment(request: HttpRequest, id: UUID, index: int) -> HttpResponse:
    attachment = get_object_or_404(Attachment.objects.select_related("blob"), email=id, position=index)
    return download(attachment.filename, bytes(attachment.blob.content))


def source_of(email: EmailRequest) -> bytes:
    try:
        return email.raw()
    except Exception as error:  # such a message has failed, and its page must say so
        return f"This message can't be built: {error}\n".encode()


def status_of(request: HttpRequest, id: UUID) -> dict:
    """The message is read first: its page is looked at again until it is final, and then its timeline must be whole."""
    email = get_object_or_404(EmailRequest.objects.select_related("worker"), pk=id)
    events = list(email.events.all())
    for earlier, later in pairwise(events):
        later.before, later.seconds = earlier.at, (later.at - earlier.at).total_seconds()
    recipients = list(email.recipients.all())
    return {
        "email": email,
        "why": why.explain(email),
        "events": events,
        "recipients": recipients,
        "seen": f"{email.state}-{len(events)}",
        "job": job_of(request, email),
        "copy": copy_in_sandbox(recipients),
    }


def job_of(request: HttpRequest, email: EmailRequest) -> dict:
    """Whether the message's RQ job is still in Redis, and its page for those who may see it."""
    try:
        with impatient_redis() as redis:
            kept = Job.exists(str(email.pk), connection=redis)
    except RedisError:
        return {"redis_is_away": True}
    may_look = request.user.is_staff and request.user.has_perm("django_rq.admin")
    return {"kept": kept, "url": job_page(email) if kept and may_look else ""}


def job_page(email: EmailRequest) -> str:
    return reverse("admin:django_rq_job_detail", args=[get_queues_map()[email.queue], email.pk])


def copy_in_sandbox(recipients: list) -> SandboxMessage | None:
    """What the sandbox has made of the message: its replies name what they keep."""
    ids = {found[1] for recipient in recipients if (found := KEPT_AS.search(recipient.reply))}
    return SandboxMessage.objects.only("pk").filter(pk__in=filter(None, map(as_uuid, ids))).first()


def message_of(received: Received) -> EmailRequest | None:
    """Of which message a mail in the sandbox is a copy: its Message-ID begins with the message's id."""
    id = as_uuid(received.header("Message-ID").strip("<").partition("@")[0])
    return EmailRequest.objects.only("pk").filter(pk=id).first()


def sides_of(raw: bytes) -> dict:
    """A mail for mail.html: taken apart, and its source as far as a page should hold it."""
    received = Received.parse(raw)
    return {
        "received": received,
        "main_headers": [(name, received.header(name)) for name in MAIN_HEADERS if received.header(name)],
        "source": raw[:SHOWN_SOURCE].decode(errors="replace"),
        "is_cut": len(raw) > SHOWN_SOURCE,
    }


def locked(html: str) -> HttpResponse:
    """A stranger's HTML: it runs nothing, loads nothing, and has no origin."""
    response = HttpResponse(html, content_type="text/html; charset=utf-8")
    response["Content-Security-Policy"] = LOCKED
    return response


def plain(content: bytes) -> HttpResponse:
    response = HttpResponse(content, content_type="text/plain; charset=utf-8")
    response["Content-Security-Policy"] = LOCKED
    return response


def download(name: str, content: bytes) -> HttpResponse:
    """Of no declared kind, and never shown: nothing that a stranger made may open in our name."""
    response = HttpResponse(content, content_type="application/octet-stream")
    response["Content-Disposition"] = content_disposition_header(True, name)
    response["Content-Security-Policy"] = LOCKED
    return response


# The relay


@login_required
@permission_required("emails.add_hold", raise_exception=True)
@never_cache
@require_http_methods(["GET", "POST"])
def relay(request: HttpRequest) -> HttpResponse:
    """Tries the relay on demand, as `manage.py checkrelay` does; whoever may pause it may."""
    form = RelayForm(request.POST) if request.method == "POST" else RelayForm()
    check = check_within(CHECK_TIME, form.draft) if form.is_valid() else None
    return render(request, "relay.html", {"form": form, "check": check, "seconds": CHECK_TIME})


# The sandbox's viewer


@login_required
def sandbox(request: HttpRequest) -> HttpResponse:
    query = searched(request)
    page = Page.of(SandboxMessage.objects.defer("raw"), request, in_sandbox(query) if query else None)
    return render(request, "sandbox.html", {"page": page, "query": query})


@login_required
@require_http_methods(["GET", "POST"])
def sandbox_delete(request: HttpRequest) -> HttpResponse:
    """Asks first, on a page of its own."""
    if request.method == "GET":
        return render(request, "sandbox_delete.html")
    with transaction.atomic():
        SandboxRecipient.objects.all().delete()
        deleted = SandboxMessage.objects.only("pk").delete()[1].get("emails.SandboxMessage", 0)
    messages.success(request, f"The sandbox is empty: {deleted} mail{'' if deleted == 1 else 's'} deleted.")
    return redirect("sandbox")


@login_required
def sandbox_message(request: HttpRequest, id: UUID) -> HttpResponse:
    mail = get_object_or_404(SandboxMessage, pk=id)
    sides = sides_of(bytes(mail.raw))
    context = {"mail": mail, "size": len(mail.raw), "email": message_of(sides["received"]), **sides}
    return render(request, "sandbox_message.html", context)


@login_required
def sandbox_html(request: HttpRequest, id: UUID) -> HttpResponse:
    return locked(received_in_sandbox(id).self_contained_html)


@login_required
def sandbox_source(request: HttpRequest, id: UUID) -> HttpResponse:
    return plain(bytes(get_object_or_404(SandboxMessage, pk=id).raw))


@login_required
def sandbox_attachment(request: HttpRequest, id: UUID, index: int) -> HttpResponse:
    attachments = received_in_sandbox(id).attachments
    if index >= len(attachments):
        raise Http404
    return download(attachments[index].name, attachments[index].content)


def received_in_sandbox(id: UUID) -> Received:
    return Received.parse(bytes(get_object_or_404(SandboxMessage, pk=id).raw))


# The request log


@login_required
def requests(request: HttpRequest) -> HttpResponse:
    if not request.user.is_staff:
        raise PermissionDenied
    names = {"status": "status_class", "path": "path", "key": "key", "request": "request"}
    given = {field: request.GET.get(name, "").replace("\0", "").strip() for name, field in names.items()}
    wanted = {field: text for field, text in given.items() if text}
    if wanted.get("status_class", "2") not in ("2", "3", "4", "5"):
        raise Http404
    rows = RequestLog.objects.all()
    criteria = rarest_first(Keys(rows, equal={name: value}) for name, value in wanted.items())
    page = Page.of(rows, request, reduce(Keys.and_also, criteria or [Keys(rows)]))
    return render(request, "requests.html", {"page": page, "wanted": wanted, "days": settings.REQUEST_LOG_DAYS})


# Metrics


@require_safe
@never_cache
def metrics(request: HttpRequest) -> HttpResponse:
    """For Prometheus: whoever has the token, or asks from an address that may."""
    token, networks = settings.METRICS_TOKEN, settings.METRICS_ALLOW
    if not token and not networks:
        return plain_text("Metrics are off: set METRICS_TOKEN or METRICS_ALLOW.\n", status=404)
    given = request.headers.get("Authorization", "").removeprefix("Bearer ")
    client = address(request.META.get("REMOTE_ADDR", ""))
    if (token and constant_time_compare(given, token)) or (client and any(client in network for network in networks)):
        return HttpResponse(prometheus.text(), content_type=CONTENT_TYPE_LATEST)
    return plain_text(
        "Send `Authorization: Bearer` and METRICS_TOKEN.\n", status=401, headers={"WWW-Authenticate": "Bearer"}
    )


def plain_text(text: str, **options) -> HttpResponse:
    return HttpResponse(text, content_type="text/plain; charset=utf-8", **options)


# Logging in


class LogIn(LoginView):
    template_name = "login.html"
    redirect_authenticated_user = True

    def get(self, request: HttpRequest, *args, **kwargs) -> HttpResponse:
        if request.htmx:  # a fragment was asked for by a page whose login has ended
            return HttpResponseClientRefresh()
        return super().get(request, *args, **kwargs)


@never_cache
@require_GET
def login_link(request: HttpRequest, token: str) -> HttpResponse:
    try:
        login(request, user_of(token))
    except LinkProblem as problem:
        page = LogIn.as_view(extra_context={"problem": problem}, redirect_authenticated_user=False)(request)
        page.status_code = problem.status
        return page
    return redirect("home")


# Health


@require_safe
def live(request: HttpRequest) -> HttpResponse:
    """The process answers; nothing else is asked."""
    return plain_text("ok\n")


@require_safe
@never_cache
def ready(request: HttpRequest) -> JsonResponse:
    report = health.report()
    return JsonResponse(report, status=503 if report["status"] == health.FAILED else 200)


# The playground


def playground_only(view: Callable) -> Callable:
    """These pages exist only while the playground does."""

    @wraps(view)
    def guarded(request: HttpRequest, *args, **kwargs) -> HttpResponse:
        if not settings.PLAYGROUND:
            raise Http404
        return view(request, *args, **kwargs)

    return guarded


@playground_only
@require_GET
def send_email(request: HttpRequest, email: str = "") -> JsonResponse:
    """The slow email: accepted at once, sent by a worker after the delay."""
    try:
        accepted = playground.send_by_queue(email or request.GET.get("email", ""))
    except Invalid as invalid:
        return JsonResponse(ApiError(422, "validation_error", str(invalid)).body, status=422)
    return JsonResponse({"message": "Email sending task has been queued.", "job_id": str(accepted.pk)})


@playground_only
def playground_page(request: HttpRequest, result: playground.Direct | None = None) -> HttpResponse:
    context = {"view": playground.View.now(), "delay": settings.PLAYGROUND_DELAY, "result": result}
    return render(request, "playground.html", context)


@playground_only
@never_cache
def playground_live(request: HttpRequest) -> HttpResponse:
    return render(request, "playground.html#live", {"view": playground.View.now()})


@playground_only
@require_POST
def playground_direct(request: HttpRequest) -> HttpResponse:
    """The same email without the queue: this request takes as long as the sending does."""
    result = playground.send_directly(request.POST.get("email", ""))
    if request.htmx:
        return render(request, "playground.html#direct", {"result": result})
    return playground_page(request, result)
