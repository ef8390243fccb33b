from typing import Any

from django import forms

from emails.drafts import Draft, Invalid


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

    def add_prefix(self, field_name: str) -> str:
        """The names on the page are the API's; `from` is only none that Python allows."""
        return super().add_prefix("from" if field_name == "sender" else field_name)

    def clean(self) -> dict[str, Any]:
        typed = {name: self.cleaned_data.get(name) or "" for name in self.fields}
        try:
            self.draft = Draft.clean(
                {
                    "from": typed["sender"],
                    **{name: lines(typed[name]) for name in ("to", "cc", "bcc")},
                    **{name: typed[name] for name in ("subject", "text", "html")},
                }
            )
        except Invalid as invalid:
            for problem in invalid.problems:
                sentence = problem.message.removeprefix(f"The `{problem.field}` field: ").replace("`", "")
                self.add_error("sender" if problem.field == "from" else problem.field, sentence)
        return self.cleaned_data


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n") if line.strip()]
