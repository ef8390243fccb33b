"""The API's names at the root: below them everything answers in JSON, whoever asks; and what is not there."""

from urllib.parse import quote

from emails.addresses import shortened
from mailsite.logs import without_tokens

OURS = ("api-keys", "downloads", "emails", "logs", "openapi.json", "sandbox/messages", "suppressions")
LATER = ("domains", "templates", "webhooks")
# Resend has these, and its clients the calls for them; they are for marketing, for inboxes or for its accounts.
NEVER = (
    "audiences", "automations", "broadcasts", "contact-properties", "contacts", "events", "inboxes", "oauth",
    "segments", "topics", "usage",
)  # fmt: skip
NAMES = OURS + LATER + NEVER


def is_of_the_api(path: str) -> bool:
    return any(path == f"/{name}" or path.startswith(f"/{name}/") for name in NAMES)


def for_the_log(path: str) -> str:
    """The path without what could break a line, and without what opens a download or a session."""
    path = without_tokens(quote(path))
    return path if len(path) <= 200 else f"{path[:200]}…"


def nothing_at(path: str) -> str:
    """The sentence for a path at which there is nothing."""
    name = path.strip("/").split("/")[0]
    why = "."
    if name in LATER or path.startswith("/emails/metrics"):
        why = ": this version of Mailsite has no such calls yet."
    elif name in NEVER or path.startswith("/emails/receiving") or path.endswith("/share"):
        why = ": Mailsite sends transactional email and nothing else, so it has no such calls."
    return f"There is nothing at {shortened(path)}{why}"
