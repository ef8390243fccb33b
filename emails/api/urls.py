from django.urls import path, re_path

from emails.api import views

# No trailing slashes and no redirects: a redirect would turn a client's POST into a GET.
urlpatterns = [
    path("emails", views.Emails.as_view(), name="api-emails"),
    path("emails/<str:id>", views.Email.as_view(), name="api-email"),
    path("emails/<str:id>/cancel", views.Cancel.as_view(), name="api-cancel"),
    path("sandbox/messages", views.SandboxMessages.as_view(), name="api-sandbox-messages"),
    path("sandbox/messages/<str:id>.eml", views.SandboxMessageBytes.as_view(), name="api-sandbox-message"),
    re_path(
        r"^(emails|api-keys|suppressions|webhooks|templates|domains|logs|contacts|audiences|broadcasts|topics|segments"
        r"|sandbox/messages)(/.*)?$",
        views.Unknown.as_view(),
    ),
]
