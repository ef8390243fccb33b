from django.urls import path, re_path

from emails.api import views

# The API's names at the root: below them everything answers in JSON, whoever asks.
NAMES = (
    "api-keys", "audiences", "automations", "broadcasts", "contact-properties", "contacts", "domains", "emails",
    "events", "inboxes", "logs", "oauth", "segments", "suppressions", "templates", "topics", "usage", "webhooks",
    "sandbox/messages",
)  # fmt: skip

# No trailing slashes and no redirects: a redirect would turn a client's POST into a GET.
urlpatterns = [
    path("emails", views.Emails.as_view(), name="api-emails"),
    path("emails/<str:id>", views.Email.as_view(), name="api-email"),
    path("emails/<str:id>/cancel", views.Cancel.as_view(), name="api-cancel"),
    path("sandbox/messages", views.SandboxMessages.as_view(), name="api-sandbox-messages"),
    path("sandbox/messages/<str:id>.eml", views.SandboxMessageBytes.as_view(), name="api-sandbox-message"),
    re_path(rf"^(?:{'|'.join(NAMES)})(?s:/.*)?$", views.Unknown.as_view()),
]
