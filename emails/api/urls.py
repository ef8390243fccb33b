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
    path("emails/batch", views.Batch.as_view(), name="api-batch"),
    path("emails/<str:id>", views.Email.as_view(), name="api-email"),
    path("emails/<str:id>/cancel", views.Cancel.as_view(), name="api-cancel"),
    path("emails/<str:id>/events", views.Events.as_view(), name="api-events"),
    path("emails/<str:id>/attachments", views.Attachments.as_view(), name="api-attachments"),
    path("emails/<str:id>/attachments/<str:attachment_id>", views.OneAttachment.as_view(), name="api-attachment"),
    path("downloads/<str:token>", views.download, name="api-download"),
    path("api-keys", views.ApiKeys.as_view(), name="api-keys"),
    path("api-keys/<str:id>", views.OneApiKey.as_view(), name="api-key"),
    path("suppressions", views.Suppressions.as_view(), name="api-suppressions"),
    path("suppressions/batch/add", views.AddSuppressions.as_view(), name="api-suppressions-add"),
    path("suppressions/batch/remove", views.RemoveSuppressions.as_view(), name="api-suppressions-remove"),
    path("suppressions/<str:id>", views.OneSuppression.as_view(), name="api-suppression"),
    path("sandbox/messages", views.SandboxMessages.as_view(), name="api-sandbox-messages"),
    path("sandbox/messages/<str:id>.eml", views.SandboxMessageBytes.as_view(), name="api-sandbox-message"),
    re_path(rf"^(?:{'|'.join(NAMES)})(?s:/.*)?$", views.Unknown.as_view()),
]
