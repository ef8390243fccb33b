import re

from django.urls import path, re_path

from emails.api import attachments, docs, emails, keys, logs, sandbox, suppressions
from emails.api.paths import NAMES
from emails.api.view import Unknown

# No trailing slashes and no redirects: a redirect would turn a client's POST into a GET.
urlpatterns = [
    path("emails", emails.Emails.as_view(), name="api-emails"),
    path("emails/batch", emails.Batch.as_view(), name="api-batch"),
    path("emails/metrics", Unknown.as_view()),
    path("emails/receiving", Unknown.as_view()),
    path("emails/<str:id>", emails.Email.as_view(), name="api-email"),
    path("emails/<str:id>/cancel", emails.Cancel.as_view(), name="api-cancel"),
    path("emails/<str:id>/events", emails.Events.as_view(), name="api-events"),
    path("emails/<str:id>/attachments", attachments.Attachments.as_view(), name="api-attachments"),
    path("emails/<str:id>/attachments/<str:attachment_id>", attachments.OneAttachment.as_view(), name="api-attachment"),
    path("downloads/<str:token>", attachments.Download.as_view(), name="api-download"),
    path("api-keys", keys.ApiKeys.as_view(), name="api-keys"),
    path("api-keys/<str:id>", keys.OneApiKey.as_view(), name="api-key"),
    path("suppressions", suppressions.Suppressions.as_view(), name="api-suppressions"),
    path("suppressions/batch/add", suppressions.AddSuppressions.as_view(), name="api-suppressions-add"),
    path("suppressions/batch/remove", suppressions.RemoveSuppressions.as_view(), name="api-suppressions-remove"),
    path("suppressions/<path:id>", suppressions.OneSuppression.as_view(), name="api-suppression"),
    path("logs", logs.Logs.as_view(), name="api-logs"),
    path("logs/<str:id>", logs.OneLog.as_view(), name="api-log"),
    path("openapi.json", docs.OpenApi.as_view(), name="api-description"),
    path("docs", docs.page, name="api-docs"),
    path("sandbox/messages", sandbox.SandboxMessages.as_view(), name="api-sandbox-messages"),
    path("sandbox/messages/<str:id>.eml", sandbox.SandboxMessageBytes.as_view(), name="api-sandbox-message"),
    re_path(rf"^(?:{'|'.join(map(re.escape, NAMES))})(?s:/.*)?$", Unknown.as_view()),
]
