"""The operator's desk. It shows what is; only `submit` and the worker make and change mail."""

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.options import ActionLocation
from django.core.exceptions import ValidationError
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.template.defaultfilters import filesizeformat
from django.urls import path, reverse
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.text import Truncator
from django.utils.timezone import localtime
from django_rq import admin as django_rq_admin
from django_rq.models import Dashboard
from django_rq.views import job_detail

from emails import why
from emails.addresses import Address
from emails.models import (
    ApiKey,
    Attachment,
    EmailRequest,
    Event,
    Hold,
    Recipient,
    SandboxMessage,
    SandboxRecipient,
    Suppression,
    Worker,
)
from emails.search import BEGINNINGS, begins, to_recipient
from emails.views import as_uuid, job_page

admin.site.site_header = admin.site.site_title = "Mailsite"
admin.site.index_title = "Mailsite: the operator's desk"
admin.site.login_template = "login.html"  # the administrator has no password: the page says how to get a link


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


@admin.register(EmailRequest)
class EmailRequestAdmin(Listed):
    list_display = ["short_id", "state", "first_recipient", "short_subject", "queue", "created_at", "due_at"]
    list_filter = ["state", "priority"]
    search_fields = ["recipients__mailbox"]
    search_help_text = "An address, a domain (@example.com), an address's beginning, or a message's id."
    inlines = [RecipientInline, AttachmentInline, EventInline]
    actions = ["send_now", "give_up", "cancel", "confirm"]
    readonly_fields = ["links", "explanation", "recipients"]
    fieldsets = [
        (None, {"fields": ["links", "explanation", ("state", "priority"), ("sender", "recipients"), "subject"]}),
        ("Times", {"fields": [("created_at", "scheduled_at"), ("due_at", "date", "finished_at")]}),
        ("Delivery", {"fields": [("worker", "claims"), ("attempts", "strikes"), ("on_unknown", "delay")]}),
        ("On the wire", {"fields": ["envelope_sender", "message_id"]}),
    ]

    @admin.display(description="id")
    def short_id(self, email: EmailRequest) -> str:
        return email.pk.hex[-8:]

    @admin.display(description="subject")
    def short_subject(self, email: EmailRequest) -> str:
        return Truncator(email.subject).chars(48)

    @admin.display(description="why")
    def explanation(self, email: EmailRequest) -> str:
        return why.explain(email)

    @admin.display(description="to")
    def recipients(self, email: EmailRequest) -> str:
        return ", ".join(email.to)

    @admin.display(description="see also")
    def links(self, email: EmailRequest) -> str:
        message, job = email.get_absolute_url(), job_page(email)
        return format_html('<a href="{}">Message page</a> · <a href="{}">RQ job</a>', message, job)

    def get_search_results(self, request: HttpRequest, queryset: QuerySet, search_term: str) -> tuple[QuerySet, bool]:
        """By the index of recipients, instead of a LIKE over every row."""
        if id := as_uuid(search_term.strip()):
            return queryset.filter(pk=id), False
        return queryset.filter(pk__in=to_recipient(search_term).cut(5000)) if search_term else queryset, False

    def has_decide_permission(self, request: HttpRequest) -> bool:
        """Rows are read-only, but whoever may change mail may decide what becomes of what waits."""
        return request.user.has_perm("emails.change_emailrequest")

    @admin.action(description="Send now: due at once, uncertain ones that are held too", permissions=["decide"])
    def send_now(self, request: HttpRequest, emails: QuerySet) -> None:
        self._tell(request, "Due at once", emails.send_now(by=str(request.user)), emails.count())

    @admin.action(description="Give up: no further attempt", permissions=["decide"])
    def give_up(self, request: HttpRequest, emails: QuerySet) -> None:
        self._tell(request, "Given up", emails.give_up(by=str(request.user)), emails.count())

    @admin.action(description="Cancel: take back what waits", permissions=["decide"])
    def cancel(self, request: HttpRequest, emails: QuerySet) -> None:
        self._tell(request, "Canceled", emails.cancel(by=str(request.user)), emails.count())

    @admin.action(description="Confirm: uncertain ones did arrive", permissions=["decide"])
    def confirm(self, request: HttpRequest, emails: QuerySet) -> None:
        self._tell(request, "Noted as sent", emails.confirm(by=str(request.user)), emails.count())

    def _tell(self, request: HttpRequest, done: str, count: int, chosen: int) -> None:
        rest = f" The state of the other {chosen - count} did not allow it." if chosen > count else ""
        messages.success(request, f"{done}: {count} of {chosen} selected.{rest}")


@admin.register(Hold)
class HoldAdmin(admin.ModelAdmin):
    """Adding a hold pauses a queue or the relay, deleting it resumes. Trouble with the relay shows here, too."""

    list_display = ["target", "reason", "paused_by", "since"]
    actions = ["resume"]
    fields = ["target", "reason"]

    @admin.display(description="by")
    def paused_by(self, hold: Hold) -> str:
        return hold.by or "found by itself; ends by itself"

    def formfield_for_choice_field(self, db_field, request: HttpRequest, **options):
        if db_field.name == "target":  # trouble is found, not made
            options["choices"] = [
                (value, label) for value, label in Hold.Target.choices if value != Hold.Target.TROUBLE
            ]
        return super().formfield_for_choice_field(db_field, request, **options)

    def get_actions(self, request: HttpRequest, action_location=ActionLocation.CHANGE_LIST) -> dict:
        """Without Django's "Delete selected": here that is called Resume."""
        actions = super().get_actions(request, action_location)
        return {name: action for name, action in actions.items() if name != "delete_selected"}

    @admin.action(description="Resume", permissions=["delete"])
    def resume(self, request: HttpRequest, holds: QuerySet) -> None:
        names = [hold.get_target_display() for hold in holds]
        holds.delete()
        messages.success(request, f"Resumed: {', '.join(names)}.")

    def has_change_permission(self, request: HttpRequest, obj: Hold | None = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: Hold, form, change: bool) -> None:
        obj.by = str(request.user)
        super().save_model(request, obj, form, change)


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
    list_display = [
        "name", "start", "permission", "from_domains", "rate_limit", "daily_quota", "last_used_at", "expires_at",
        "revoked_at",
    ]  # fmt: skip
    list_filter = ["permission"]
    fields = [
        "name", ("permission", "expires_at"), "domains", ("priority", "time_zone"), ("rate_limit", "daily_quota"),
    ]  # fmt: skip
    readonly_fields = ["start", "created_at", "last_used_at", "revoked_at"]
    ordering = ["-pk"]
    actions = ["revoke"]

    @admin.display(description="from-domains")
    def from_domains(self, key: ApiKey) -> str:
        return ", ".join(key.domains) or "any"

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
