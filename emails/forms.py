from collections.abc import Iterable
from typing import Any
from zoneinfo import ZoneInfo

from django import forms
from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.utils.html import format_html

from emails.drafts import MAX_BYTES, Draft, Invalid
from emails.relaycheck import mail_to


class FilesInput(forms.FileInput):
    allow_multiple_selected = True


class SendForm(forms.Form):
    """A message by hand. `Draft.clean` is the only judge, so the fields themselves check nothing."""

    sender = forms.Field(
        label="From", required=False, widget=forms.TextInput(attrs={"placeholder": "Your Shop <shop@example.com>"})
    )
    to = forms.Field(
        label="To", required=False, help_text="One address a line.",
        widget=forms.Textarea(attrs={"rows": 2, "placeholder": "moss@example.com"}),
    )  # fmt: skip
    cc = forms.Field(label="Cc", required=False, widget=forms.Textarea(attrs={"rows": 1}))
    bcc = forms.Field(label="Bcc", required=False, widget=forms.Textarea(attrs={"rows": 1}))
    subject = forms.Field(label="Subject", required=False)
    text = forms.Field(label="Text", required=False, widget=forms.Textarea(attrs={"rows": 8}))
    html = forms.Field(
        label="HTML", required=False, help_text="Text, HTML or both.",
        widget=forms.Textarea(attrs={"rows": 8, "spellcheck": "false", "class": "code"}),
    )  # fmt: skip
    attachments = forms.Field(
        label="Attachments", required=False, help_text=f"Together under {MAX_BYTES * 3 // 4 // 2**20} MB.",
        widget=FilesInput(attrs={"multiple": True}),
    )  # fmt: skip
    scheduled_at = forms.Field(label="Time", required=False, widget=forms.TextInput(attrs={"type": "datetime-local"}))
    time_zone = forms.Field(required=False, widget=forms.HiddenInput)  # the browser's, where it has JavaScript

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.fields["scheduled_at"].help_text = format_html(
            '<span id="zone">{}</span> time; empty: now.', settings.TIME_ZONE
        )

    def add_prefix(self, field_name: str) -> str:
        """The names on the page are the API's; `from` is only none that Python allows."""
        return super().add_prefix("from" if field_name == "sender" else field_name)

    def clean(self) -> dict[str, Any]:
        typed = {name: self.cleaned_data.get(name) or "" for name in self.fields}
        zone = typed["time_zone"] or settings.TIME_ZONE
        if not is_known(zone):
            self.add_error("scheduled_at", f"The time zone {zone[:80]!r} is not known here.")
            return self.cleaned_data
        try:
            self.draft = Draft.clean(
                {
                    "from": typed["sender"],
                    **{name: lines(typed[name]) for name in ("to", "cc", "bcc")},
                    **{name: typed[name] for name in ("subject", "text", "html", "scheduled_at")},
                    "attachments": contents(typed["attachments"]),
                },
                time_zone=zone,
            )
        except Invalid as invalid:
            for problem in invalid.problems:
                sentence = problem.message.removeprefix(f"The `{problem.field}` field: ").replace("`", "")
                self.add_error("sender" if problem.field == "from" else problem.field, sentence)
        return self.cleaned_data

    @property
    def lost(self) -> list[UploadedFile]:
        """Files that were chosen, but that no browser keeps when the page comes back with errors."""
        return self.files.getlist("attachments") if self.errors else []


class RelayForm(forms.Form):
    """Where the relay check is to send a mail, if anywhere."""

    address = forms.Field(label="Test mail to", required=False, help_text="Empty: no mail is sent.")
    sender = forms.Field(
        label="From", required=False, help_text="Empty: the relay's login if that is an address, else the receiver."
    )
    draft: Draft | None = None

    def clean(self) -> dict[str, Any]:
        address, sender = (self.cleaned_data.get(name) or "" for name in ("address", "sender"))
        try:
            self.draft = mail_to(address, sender) if address else None
        except Invalid as invalid:
            for problem in invalid.problems:
                sentence = problem.message.removeprefix(f"The `{problem.field}` field: ").replace("`", "")
                self.add_error("address" if problem.field == "to" or not sender else "sender", sentence)
        return self.cleaned_data


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n") if line.strip()]


def contents(files: Iterable[UploadedFile]) -> list[dict[str, Any]]:
    """The files as the API has them. Of what is too much in any case no more is read than shows that."""
    found, left = [], MAX_BYTES
    for file in files:
        content = file.read(left)
        left -= len(content)
        found.append({"filename": file.name, "content": content, "content_type": file.content_type})
    return found


def is_known(time_zone: str) -> bool:
    try:
        return bool(ZoneInfo(time_zone))
    except (KeyError, ValueError, OSError):  # no such zone; a name that is none; a folder of zones
        return False
