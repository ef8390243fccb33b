from django.contrib.auth.views import LogoutView
from django.templatetags.static import static
from django.urls import path, re_path
from django.views.generic import RedirectView

from emails import views

urlpatterns = [
    path("", views.home, name="home"),
    path("overview/live", views.overview_live, name="overview_live"),
    path("messages", views.mail, name="mail"),
    path("keys", views.keys, name="keys"),
    path("send", views.send, name="send"),
    path("messages/<uuid:id>", views.message, name="message"),
    path("messages/<uuid:id>/status", views.message_status, name="message_status"),
    path("messages/<uuid:id>/html", views.message_html, name="message_html"),
    path("messages/<uuid:id>/raw", views.message_raw, name="message_raw"),
    path("messages/<uuid:id>/attachments/<int:index>", views.message_attachment, name="message_attachment"),
    path("relay", views.relay, name="relay"),
    path("requests", views.requests, name="requests"),
    path("sandbox", views.sandbox, name="sandbox"),
    path("sandbox/delete", views.sandbox_delete, name="sandbox_delete"),
    path("sandbox/<uuid:id>", views.sandbox_message, name="sandbox_message"),
    path("sandbox/<uuid:id>/html", views.sandbox_html, name="sandbox_html"),
    path("sandbox/<uuid:id>/source", views.sandbox_source, name="sandbox_source"),
    path("sandbox/<uuid:id>/attachments/<int:index>", views.sandbox_attachment, name="sandbox_attachment"),
    path("login", views.LogIn.as_view(), name="login"),
    path("login/<str:token>", views.login_link, name="login_link"),
    path("logout", LogoutView.as_view(), name="logout"),
    path("playground", views.playground_page, name="playground"),
    path("playground/live", views.playground_live, name="playground_live"),
    path("playground/direct", views.playground_direct, name="playground_direct"),
    path("send-email", views.send_email, name="send_email_form"),
    re_path(r"^send-email/(?P<email>[\s\S]+)$", views.send_email, name="send_email"),
    path("health/live", views.live, name="live"),
    path("health/ready", views.ready, name="ready"),
    path("metrics", views.metrics, name="metrics"),
    # What people type and browsers ask for.
    path("admin", RedirectView.as_view(pattern_name="admin:index")),
    path("favicon.ico", RedirectView.as_view(url=static("favicon.svg"))),
]
