"""The operator's desk. It shows what is; only `submit` and the worker make and change mail."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.options import ActionLocation
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import ValidationError
from django.core.paginator import Page, Paginator
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.template.defaultfilters import filesizeformat
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.text import Truncator, capfirst
from django.utils.timezone import localtime
from django_rq import admin as django_rq_admin
from django_rq.models import Dashboard
from django_rq.views import job_detail
from uuid_utils.compat import uuid7

from emails import states, why
from emails.addresses import Address
from emails.models import (
    ApiKey,
    Attachment,
    EmailRequest,
    Event,
    Hold,
    Holds,
    Priority,
    Recipient,
    SandboxMessage,
    SandboxRecipient,
    Suppression,
    Worker,
    database_now,
)
from emails.search import BEGINNINGS, Keys, Search, as_uuid, begins, by_id_or_recipient, to_domain
from emails.states import FINISHED, State, Transition
from emails.templatetags.sentences import code
from emails.views import job_page

admin.site.site_header = admin.site.site_title = "Mailsite"
admin.site.index_title = "Mailsite: the operator's desk"
admin.site.enable_nav_sidebar = False  # it takes the room that tables need
admin.site.login_template = "login.html"  # the administrator has no password: the page says how to get a link


MOMENT = forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M")


class CappedPaginator(Paginator):
    """Counts no further than anybody pages: counting a million rows takes longer than showing a hundred."""

    LIMIT = 5000

    @cached_property
    def count(self) -> int:
        return self.object_list[: self.LIMIT].count()


class ReadOnly:
    """History is looked at. What has happened can't be added, changed or deleted without making it a lie;
    and a message deleted while a worker holds it would still be sent."""

    def has_add_permission(self, request: HttpRequest, obj=None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj=None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj=None) -> bool:
        return False


class Listed(ReadOnly, admin.ModelAdmin):
    """A long list, newest first, that stays fast: no sorting by columns without an index, no counting."""

    ordering = ["-pk"]
    sortable_by = ()
    paginator = CappedPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER

    def changelist_view(self, request: HttpRequest, extra_context: dict | None = None) -> HttpResponse:
        """What is only looked at is not to be selected."""
        title = capfirst(self.opts.verbose_name_plural)
        return super().changelist_view(request, {"title": title, **(extra_context or {})})


class RecipientInline(ReadOnly, admin.TabularInline):
    model = Recipient
    fields = ["address", "state", "reply"]


class EventInline(ReadOnly, admin.TabularInline):
    model = Event
    fields = readonly_fields = ["moment", "kind", "detail"]
    verbose_name_plural = "Timeline"

    @admin.display(description="at")
    def moment(self, event: Event) -> str:
        return f"{localtime(event.at):%Y-%m-%d %H:%M:%S}"


class AttachmentInline(ReadOnly, admin.TabularInline):
    """Names and sizes; the bytes stay where they are until somebody downloads them."""

    model = Attachment
    fields = readonly_fields = ["file", "bytes", "content_type", "content_id"]
    ordering = ["position"]

    @admin.display(description="file")
    def file(self, attachment: Attachment) -> str:
        url = reverse("message_attachment", args=[attachment.email_id, attachment.position])
        return format_html('<a href="{}" download>{}</a>', url, attachment.filename)

    @admin.display(description="size")
    def bytes(self, attachment: Attachment) -> str:
        return filesizeformat(attachment.size)


class SearchForm(forms.Form):
    """What the list of emails is asked for. The list's own filters only make links; Search finds."""

    q = forms.CharField(required=False)
    state = forms.ChoiceField(choices=[("", ""), *State.choices], required=False)
    queue = forms.ChoiceField(choices=[("", ""), *((name, name) for name in Priority.labels)], required=False)
    tag = forms.CharField(label="Tag", required=False, help_text="name or name:value")
    domain = forms.CharField(label="Recipient's domain", required=False)
    after = forms.DateTimeField(label="Accepted after", required=False, widget=MOMENT)
    before = forms.DateTimeField(label="Accepted before", required=False, widget=MOMENT)
    TYPED = ("tag", "domain", "after", "before")

    def clean_domain(self) -> str:
        asked = self.cleaned_data["domain"].lower()
        domain = asked.lstrip("@")
        if asked and not domain:
            raise ValidationError("A domain is called example.com, say.")
        return domain

    def search(self) -> Search:
        if not self.is_valid():
            return Search(to=(Keys(EmailRequest.objects.none()),))
        asked = self.cleaned_data
        name, _, value = asked["tag"].partition(":")
        return Search(
            to=(
                *([by_id_or_recipient(asked["q"])] if asked["q"] else []),
                *([to_domain(asked["domain"])] if asked["domain"] else []),
            ),
            state=asked["state"],
            priority=Priority[asked["queue"].upper()] if asked["queue"] else None,
            tag=(name, value) if name else None,
            after=asked["after"],
            before=asked["before"],
        )


class Links(admin.SimpleListFilter):
    def queryset(self, request: HttpRequest, emails: QuerySet) -> QuerySet:
        return emails


class StateFilter(Links):
    title = parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin) -> list:
        return State.choices


class QueueFilter(Links):
    title = parameter_name = "queue"

    def lookups(self, request: HttpRequest, model_admin) -> list:
        return [(name, name.capitalize()) for name in Priority.labels]


class TypedFilter(admin.ListFilter):
    title = "tag, domain and time"
    template = "admin/emails/emailrequest/typed_filter.html"

    def __init__(self, request: HttpRequest, params: dict, model, model_admin):
        super().__init__(request, params, model, model_admin)
        self.form = SearchForm(request.GET)
        self.used_parameters = {name: params.pop(name) for name in SearchForm.TYPED if name in params}

    def has_output(self) -> bool:
        return True

    def expected_parameters(self) -> list[str]:
        return list(SearchForm.TYPED)

    def queryset(self, request: HttpRequest, emails: QuerySet) -> QuerySet:
        return emails

    def choices(self, changelist: ChangeList) -> Iterator[dict]:
        """The fields, and what else is asked for: the form keeps it."""
        others = [(name, value) for name, value in changelist.filter_params.items() if name not in SearchForm.TYPED]
        kept = [(name, value) for name, values in others for value in values]
        yield {"fields": [self.form[name] for name in SearchForm.TYPED], "kept": kept, "used": self.used_parameters}


class NewestPaginator(Paginator):
    """The pages of the newest messages that match: whoever looks for others narrows the search."""

    LIMIT = 1000

    @cached_property
    def count(self) -> int:
        return len(self.object_list)

    def _get_page(self, ids: list, *arguments) -> Page:
        return super()._get_page(EmailRequest.objects.filter(pk__in=ids).order_by("-pk"), *arguments)


class EmailChangeList(ChangeList):
    def get_queryset(self, request: HttpRequest, **options) -> QuerySet:
        """All that match. Nothing reads it whole: the page and the actions read it by its keys."""
        self.keys = SearchForm(request.GET).search().keys
        return super().get_queryset(request, **options).filter(pk__in=self.keys.subquery)

    def get_results(self, request: HttpRequest) -> None:
        newest = self.keys.cut(NewestPaginator.LIMIT + 1)
        self.has_more = len(newest) > NewestPaginator.LIMIT
        self.paginator = NewestPaginator(newest[: NewestPaginator.LIMIT], self.list_per_page)
        self.result_count, self.full_result_count = self.paginator.count, None
        self.result_list = self.paginator.get_page(self.page_num).object_list
        self.multi_page = self.result_count > self.list_per_page
        self.can_show_all = self.show_full_result_count = False
        self.show_admin_actions = True


@dataclass(frozen=True)
class Decision:
    """What an operator may decide about many messages: a method of their QuerySet, and what is said of it."""

    method: str
    title: str
    done: str
    effect: str
    states: Sequence[State]  # in which it may be taken; it changes no message into one of a later state


def sources(transition: Transition) -> list[State]:
    return sorted(transition.sources, key=lambda state: (state not in transition.targets, state))


SEND_NOW = Decision(
    "send_now", "Send now", "Due at once",
    "Each is due at once, in its old place. One that is uncertain is sent again with the same Message-ID: "
    "if it did arrive, its recipient has it twice.",
    sources(states.SEND_NOW),
)  # fmt: skip
GIVE_UP = Decision(
    "give_up", "Give up", "Given up",
    "There is no further attempt: each has failed. Recipients who have it already keep it.",
    sources(states.GIVE_UP),
)  # fmt: skip
CANCEL = Decision(
    "cancel", "Cancel", "Canceled",
    "Each is taken back and is not sent. What a worker has picked up meanwhile still goes out. One that is uncertain "
    "is not sent again, but may have arrived.",
    sources(states.CANCEL),
)  # fmt: skip
CONFIRM = Decision(
    "confirm", "Note that it arrived", "Noted as sent",
    "Each uncertain message counts as sent, and is not sent again.", sources(states.CONFIRM),
)  # fmt: skip
SEND_AGAIN = Decision(
    "send_again", "Send again as new", "Sent again as new",
    "A new message is made of each, with the same content, for all its recipients: who has the old one gets another.",
    sorted(FINISHED),
)  # fmt: skip
DECISIONS = (SEND_NOW, GIVE_UP, CANCEL, CONFIRM, SEND_AGAIN)


@admin.register(EmailRequest)
class EmailRequestAdmin(Listed):
    list_display = ["recipient", "badge", "short_subject", "queue", "accepted", "due", "whole_id"]
    list_filter = [StateFilter, QueueFilter, TypedFilter]
    search_fields = ["recipients__mailbox"]
    search_help_text = "An address, a domain (@example.com), an address's beginning, a message's id or its Message-ID."
    inlines = [RecipientInline, AttachmentInline, EventInline]
    actions = [*(decision.method for decision in DECISIONS), "export"]
    readonly_fields = ["links", "explanation", "recipients"]
    fieldsets = [
        (None, {"fields": ["links", "explanation", ("state", "priority"), ("sender", "recipients"), "subject"]}),
        ("Times", {"fields": [("created_at", "scheduled_at"), ("due_at", "date", "finished_at")]}),
        ("Delivery", {"fields": [("worker", "claims"), ("attempts", "strikes"), ("on_unknown", "delay")]}),
        ("On the wire", {"fields": ["envelope_sender", "message_id"]}),
    ]
    BATCH = 500  # messages that one transaction locks
    AT_ONCE = 100_000  # messages that one request decides about

    @admin.display(description="id")
    def whole_id(self, email: EmailRequest) -> str:
        """Shown by its end, which differs most, but copied whole: so it can be searched for."""
        return format_html('<a href="{}" title="{}"><bdi>{}</bdi></a>', email.get_absolute_url(), email.pk, email.pk)

    @admin.display(description="state")
    def badge(self, email: EmailRequest) -> str:
        return format_html('<span class="state {}">{}</span>', email.state, email.get_state_display())

    @admin.display(description="subject")
    def short_subject(self, email: EmailRequest) -> str:
        return Truncator(email.subject).chars(48)

    @admin.display(description="to")
    def recipient(self, email: EmailRequest) -> str:
        return Truncator(email.first_recipient).chars(40)

    @admin.display(description="accepted")
    def accepted(self, email: EmailRequest) -> str:
        return f"{localtime(email.created_at):%Y-%m-%d %H:%M}"

    @admin.display(description="due", empty_value="")
    def due(self, email: EmailRequest) -> str | None:
        return f"{localtime(email.due_at):%Y-%m-%d %H:%M}" if email.due_at else None

    @admin.display(description="why")
    def explanation(self, email: EmailRequest) -> str:
        return code(why.explain(email))

    @admin.display(description="to")
    def recipients(self, email: EmailRequest) -> str:
        return ", ".join(email.to)

    @admin.display(description="see also")
    def links(self, email: EmailRequest) -> str:
        message, job = email.get_absolute_url(), job_page(email)
        return format_html('<a href="{}">Message page</a> · <a href="{}">RQ job</a>', message, job)

    def get_changelist(self, request: HttpRequest, **options) -> type[ChangeList]:
        return EmailChangeList

    def get_search_results(self, request: HttpRequest, emails: QuerySet, query: str) -> tuple[QuerySet, bool]:
        return emails, False  # Search has seen to it

    def has_decide_permission(self, request: HttpRequest) -> bool:
        """Rows are read-only, but whoever may change mail may decide what becomes of it."""
        return request.user.has_perm("emails.change_emailrequest")

    @admin.action(description="Send now", permissions=["decide"])
    def send_now(self, request: HttpRequest, emails: QuerySet) -> HttpResponse:
        return self._decide(request, SEND_NOW)

    @admin.action(description="Give up", permissions=["decide"])
    def give_up(self, request: HttpRequest, emails: QuerySet) -> HttpResponse:
        return self._decide(request, GIVE_UP)

    @admin.action(description="Cancel", permissions=["decide"])
    def cancel(self, request: HttpRequest, emails: QuerySet) -> HttpResponse:
        return self._decide(request, CANCEL)

    @admin.action(description="Uncertain ones: note that they arrived", permissions=["decide"])
    def confirm(self, request: HttpRequest, emails: QuerySet) -> HttpResponse:
        return self._decide(request, CONFIRM)

    @admin.action(description="Send again as new messages", permissions=["decide"])
    def send_again(self, request: HttpRequest, emails: QuerySet) -> HttpResponse:
        return self._decide(request, SEND_AGAIN)

    @admin.action(description="Export as CSV", permissions=["view"])
    def export(self, request: HttpRequest, emails: QuerySet) -> HttpResponse:
        name = f"emails-{localtime():%Y-%m-%d}.csv"
        lines = csv_of(batch for keys in self._chosen(request) for batch in keys.batches(self.BATCH))
        return StreamingHttpResponse(
            lines, "text/csv; charset=utf-8", headers={"Content-Disposition": f'attachment; filename="{name}"'}
        )

    def _chosen(self, request: HttpRequest, among: Sequence[State] = ()) -> list[Keys]:
        """What was selected, or all that match: those in the states `among`, one state after another."""
        if request.POST.get("select_across") == "1":
            search = SearchForm(request.GET).search()
            return [
                replace(search, state=state).keys for state in among or [search.state] if search.state in ("", state)
            ]
        rows = EmailRequest.objects.filter(pk__in=filter(None, map(as_uuid, request.POST.getlist("_selected_action"))))
        return [Keys(rows.filter(state__in=among) if among else rows)]

    def _decide(self, request: HttpRequest, decision: Decision) -> HttpResponse:
        """Asks first, on a page that says how many; then decides in batches, so that no lock is held for long.

        What is confirmed is the question, named by the moment at which it was asked: what has come since, from this
        very decision perhaps, is not meant.
        """
        now = uuid7()
        asked = as_uuid(request.POST.get("confirmed", ""))
        below = min(asked, now) if asked else now
        chosen = self._chosen(request, decision.states)
        batches = islice(
            (batch for keys in chosen for batch in keys.batches(self.BATCH, below=below)), self.AT_ONCE // self.BATCH
        )
        if not asked:
            return self._ask(request, decision, [id for batch in batches for id in batch], now)
        by = str(request.user)
        done = sum(getattr(EmailRequest.objects.filter(pk__in=batch), decision.method)(by=by) for batch in batches)
        messages.success(request, f"{decision.done}: {done:,} {'email' if done == 1 else 'emails'}.")
        return redirect(self._back(request))

    def _back(self, request: HttpRequest) -> str:
        """To where it was asked: the page of a message, or the list."""
        id = as_uuid(request.POST.get("page_of", ""))
        return reverse("message", args=[id]) if id else request.get_full_path()

    def _ask(self, request: HttpRequest, decision: Decision, ids: list, now: UUID) -> HttpResponse:
        across = request.POST.get("select_across") == "1"
        selected = request.POST.getlist("_selected_action")
        context = {
            **self.admin_site.each_context(request),
            "title": decision.title,
            "opts": self.opts,
            "decision": decision,
            "now": now,
            "count": len(ids),
            "is_cut": len(ids) >= self.AT_ONCE,
            "others": 0 if across else len(selected) - len(ids),
            "some": EmailRequest.objects.filter(pk__in=ids[:10]).order_by("-pk"),
            "more": len(ids) - 10,
            "across": across,
            "selected": selected[:1] if across else selected,
            "page_of": request.POST.get("page_of", ""),
            "back": self._back(request),
        }
        return TemplateResponse(request, "admin/emails/emailrequest/decide.html", context)


COLUMNS = ["id", "accepted", "state", "queue", "from", "to", "subject", "tags", "attempts", "finished", "Message-ID"]


def csv_of(batches: Iterable[list]) -> Iterator[str]:
    """Lines of CSV, made while they are read."""
    writer = csv.writer(Line())
    yield writer.writerow(COLUMNS)
    for ids in batches:
        emails = EmailRequest.objects.select_related("content").defer("content__html", "content__text")
        for email in emails.filter(pk__in=ids).order_by("-pk"):
            tags = ", ".join(f"{name}:{value}" for name, value in email.content.tags)
            finished = email.finished_at.isoformat() if email.finished_at else ""
            cells = [
                email.pk, email.created_at.isoformat(), email.state, email.queue, email.sender, ", ".join(email.to),
                email.subject, tags, email.attempts, finished, email.message_id,
            ]  # fmt: skip
            yield writer.writerow([harmless(str(cell)) for cell in cells])


class Line:
    """What csv.writer writes to: it hands the line back."""

    def write(self, line: str) -> str:
        return line


def harmless(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else cell


def waiting(target: str, others: Holds) -> str:
    """How many messages would go if only `others` kept some back, of those that `target` concerns; in words."""
    queues = [queue for queue in others.open if target == queue.label or target not in Priority.labels]
    return why.wait(EmailRequest.objects.count_due(queues, database_now(), why.COUNTED))


@admin.register(Hold)
class HoldAdmin(admin.ModelAdmin):
    """Adding a hold pauses a queue or the relay. Trouble with the relay shows here, too."""

    list_display = ["target", "reason", "paused_by", "since"]
    list_display_links = None
    actions = ["resume"]
    fields = ["target", "reason"]

    @admin.display(description="by")
    def paused_by(self, hold: Hold) -> str:
        return hold.by or "found by itself; ends by itself"

    def formfield_for_choice_field(self, db_field, request: HttpRequest, **options):
        if db_field.name == "target":  # trouble is found, not made
            holds = Hold.in_force()
            options["choices"] = [
                (value, f"{label} ({waiting(value, holds.without([value]))})")
                for value, label in Hold.Target.choices
                if value != Hold.Target.TROUBLE
            ]
        return super().formfield_for_choice_field(db_field, request, **options)

    def get_actions(self, request: HttpRequest, action_location=ActionLocation.CHANGE_LIST) -> dict:
        """Without Django's "Delete selected": here that is called Resume."""
        actions = super().get_actions(request, action_location)
        return {name: action for name, action in actions.items() if name != "delete_selected"}

    @admin.action(description="Resume", permissions=["delete"])
    def resume(self, request: HttpRequest, holds: QuerySet) -> HttpResponse | None:
        """Ends what was shown: a pause that has begun since is another's."""
        versions = {f"{hold.pk} {hold.since.isoformat()}": hold for hold in holds}
        if versions and "confirmed" not in request.POST:
            others = Hold.in_force().without([hold.target for hold in holds])
            pauses = [(hold, waiting(hold.target, others), version) for version, hold in versions.items()]
            context = {**self.admin_site.each_context(request), "title": "Resume", "opts": self.opts, "pauses": pauses}
            return TemplateResponse(request, "admin/emails/hold/resume.html", context)
        shown = [versions[version] for version in request.POST.getlist("shown") if version in versions]
        ended = [hold for hold in shown if hold.resume(by=str(request.user))]
        asked = len(request.POST.getlist("_selected_action"))
        self.log_deletions(request, ended)
        if ended:
            messages.success(request, f"Resumed: {', '.join(hold.get_target_display() for hold in ended)}.")
        if left := asked - len(ended):
            messages.warning(
                request, f"Not resumed, since what was shown had ended already or was paused anew: {left} of {asked}."
            )
        return None

    def has_change_permission(self, request: HttpRequest, obj: Hold | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Hold | None = None) -> bool:
        """The one way to end a pause is Resume, in the list."""
        return obj is None and super().has_delete_permission(request)

    def save_model(self, request: HttpRequest, obj: Hold, form, change: bool) -> None:
        obj.pause(by=str(request.user))


class ApiKeyForm(forms.ModelForm):
    domains = forms.CharField(
        label="From-domains", required=False, help_text="One a line; none means any.",
        widget=forms.Textarea(attrs={"rows": 2, "cols": 40}),
    )  # fmt: skip

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if "domains" in self.initial:
            self.initial["domains"] = "\n".join(self.initial["domains"])

    def clean_domains(self) -> list[str]:
        return [line.strip() for line in self.cleaned_data["domains"].splitlines() if line.strip()]


@admin.register(ApiKey)
class ApiKeyAdmin(admin.ModelAdmin):
    """Keys are made, limited and revoked. Deleting one would take away the trace of who had access."""

    form = ApiKeyForm
    list_display = ["name", "start", "permission", "from_domains", "limits", "last_used", "ends"]
    fields = [
        "name", ("permission", "expires_at"), "domains", ("priority", "time_zone"), ("rate_limit", "daily_quota"),
    ]  # fmt: skip
    readonly_fields = ["start", "created_at", "last_used_at", "revoked_at"]
    ordering = ["-pk"]
    actions = ["revoke"]

    @admin.display(description="from-domains")
    def from_domains(self, key: ApiKey) -> str:
        return Truncator(", ".join(key.domains)).chars(32) or "any"

    @admin.display(description="limits", empty_value="none")
    def limits(self, key: ApiKey) -> str:
        limits = {"second": key.rate_limit, "day": key.daily_quota}
        return ", ".join(f"{limit:,} a {span}" for span, limit in limits.items() if limit is not None)

    @admin.display(description="last used", ordering="last_used_at", empty_value="never")
    def last_used(self, key: ApiKey) -> str | None:
        return f"{localtime(key.last_used_at):%Y-%m-%d %H:%M}" if key.last_used_at else None

    @admin.display(description="ends", empty_value="")
    def ends(self, key: ApiKey) -> str | None:
        if key.revoked_at:
            return f"revoked {localtime(key.revoked_at):%Y-%m-%d}"
        return f"{localtime(key.expires_at):%Y-%m-%d %H:%M}" if key.expires_at else None

    def has_delete_permission(self, request: HttpRequest, obj=None) -> bool:
        return False

    def get_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> list:
        known = [("start", "created_at"), ("last_used_at", "revoked_at")] if obj else []
        return self.fields + known

    def save_model(self, request: HttpRequest, obj: ApiKey, form, change: bool) -> None:
        if change:
            return super().save_model(request, obj, form, change)
        key, token = ApiKey.create(**form.cleaned_data)
        obj.pk = key.pk
        messages.success(request, f"The key, shown this once: {token}")

    @admin.action(description="Revoke the selected keys", permissions=["change"])
    def revoke(self, request: HttpRequest, keys: QuerySet) -> None:
        valid = list(keys.filter(revoked_at=None))
        for key in valid:
            key.revoke()
            self.log_change(request, key, "Revoked.")
        messages.success(request, f"Revoked: {', '.join(key.name for key in valid) or 'none, they were already'}.")


class SuppressionForm(forms.ModelForm):
    def clean_mailbox(self) -> str:
        try:
            return Address.parse(self.cleaned_data["mailbox"]).mailbox.lower()
        except ValueError as error:
            raise ValidationError(str(error)) from None


@admin.register(Suppression)
class SuppressionAdmin(Listed):
    """The list of addresses that are not sent to: by hand they are added, and released by deleting."""

    form = SuppressionForm
    list_display = ["mailbox", "origin", "created_at"]
    fields = ["mailbox"]
    search_fields = ["mailbox"]
    search_help_text = "An address, or its beginning."

    def has_add_permission(self, request: HttpRequest, obj=None) -> bool:
        return admin.ModelAdmin.has_add_permission(self, request)

    def has_delete_permission(self, request: HttpRequest, obj=None) -> bool:
        return admin.ModelAdmin.has_delete_permission(self, request, obj)

    def get_search_results(self, request: HttpRequest, queryset: QuerySet, search_term: str) -> tuple[QuerySet, bool]:
        """By the unique index."""
        if not search_term:
            return queryset, False
        found = Suppression.objects.filter(begins("mailbox", search_term.strip().lower()))
        return queryset.filter(pk__in=list(found.values_list("pk", flat=True)[:BEGINNINGS])), False


@admin.register(Worker)
class WorkerAdmin(Listed):
    list_display = ["name", "host", "pid", "started_at", "heartbeat_at", "stopped_at"]


class SandboxRecipientInline(ReadOnly, admin.TabularInline):
    model = SandboxRecipient
    fields = ["mailbox"]


@admin.register(SandboxMessage)
class SandboxMessageAdmin(Listed):
    list_display = ["subject", "sender", "envelope_to", "received_at"]
    fields = ["viewer", "subject", "sender", "envelope_from", "envelope_to", "received_at"]
    readonly_fields = ["viewer"]

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        return super().get_queryset(request).defer("raw")

    @admin.display(description="see also")
    def viewer(self, message: SandboxMessage) -> str:
        return format_html('<a href="{}">As its reader sees it</a>', reverse("sandbox_message", args=[message.pk]))


class QueueAdmin(django_rq_admin.QueueAdmin):
    """django-rq's dashboard, which answers 404 for a job that has expired: ours says so, and where the message is."""

    def get_urls(self) -> list:
        ours = self.admin_site.admin_view(job_or_what_is_left)
        return [
            path("queues/<int:queue_index>/<str:job_id>/", ours, name="django_rq_job_detail"),
            *super().get_urls(),
        ]


def job_or_what_is_left(request: HttpRequest, queue_index: int, job_id: str) -> HttpResponse:
    request.current_app = admin.site.name
    try:
        return job_detail(request, queue_index, job_id)
    except Http404:
        email = EmailRequest.objects.filter(pk=as_uuid(job_id)).first()
        context = {**admin.site.each_context(request), "job_id": job_id, "email": email}
        return render(request, "django_rq/job_expired.html", context, status=200 if email else 404)


admin.site.unregister(Dashboard)
admin.site.register(Dashboard, QueueAdmin)
