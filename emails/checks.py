"""System checks: settings that are each valid but can't work together. Run by every management command."""

from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register

from mailsite import env


@register("mailsite")
def stores(app_configs, **options) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    database = settings.DATABASES["default"]
    if database["ENGINE"].endswith("sqlite3") and ":memory:" in str(database["NAME"]):
        found.append(
            Error(
                "The database is in memory: web, worker and sandbox would each have their own.",
                hint="Set DATABASE_URL to a file or to PostgreSQL, or leave it unset.",
                id="mailsite.E001",
            )
        )
    return found


@register("mailsite")
def queue(app_configs, **options) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    apps = list(settings.INSTALLED_APPS)
    if "django_rq" in apps and apps.index("emails") > apps.index("django_rq"):
        found.append(
            Error(
                "django_rq stands before emails: its own rqworker would run, and it delivers no mail.",
                hint="Put emails before django_rq in INSTALLED_APPS.",
                id="mailsite.E002",
            )
        )
    if settings.RQ.get("WORKER_CLASS") != "emails.worker.MailWorker":
        found.append(
            Error(
                "RQ's worker class is not Mailsite's: no mail would be delivered.",
                hint='Set RQ = {"WORKER_CLASS": "emails.worker.MailWorker"}.',
                id="mailsite.E003",
            )
        )
    return found


@register("mailsite")
def proxy(app_configs, **options) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    encrypted = settings.PUBLIC_URL.startswith("https://")
    if encrypted and not settings.TRUSTED_PROXIES:
        found.append(
            Warning(
                "PUBLIC_URL begins with https:// but no proxy is trusted: every request seems to come unencrypted and "
                "from the proxy itself.",
                hint="Set TRUSTED_PROXIES to the address from which your proxy connects, such as 127.0.0.1.",
                id="mailsite.W004",
            )
        )
    local = env.is_loopback(urlsplit(settings.PUBLIC_URL).hostname or "")
    if settings.METRICS_ALLOW and not (local or settings.TRUSTED_PROXIES):
        found.append(
            Warning(
                "METRICS_ALLOW is set but no proxy is trusted: all who come through one seem to ask from its address, "
                "and may read /metrics if that is allowed.",
                hint="Set TRUSTED_PROXIES to the address from which your proxy connects, or use METRICS_TOKEN instead.",
                id="mailsite.W008",
            )
        )
    if not (encrypted or local):
        found.append(
            Warning(
                f"PUBLIC_URL is {settings.PUBLIC_URL}: passwords, API keys and mail can be read on their way.",
                hint="Put a proxy with TLS in front (docs/operating.md), and set PUBLIC_URL to its https:// address.",
                id="mailsite.W005",
            )
        )
    if settings.SECURE_HSTS_SECONDS and not encrypted:
        found.append(
            Error(
                "HSTS_SECONDS is set, but PUBLIC_URL begins with http://: browsers would refuse to open it.",
                hint="Set PUBLIC_URL to an https:// address, or unset HSTS_SECONDS.",
                id="mailsite.E006",
            )
        )
    for origin in settings.CSRF_TRUSTED_ORIGINS if encrypted else []:
        if origin.startswith("http://"):
            found.append(
                Error(
                    f"CSRF_TRUSTED_ORIGINS names {origin}, but as PUBLIC_URL is https:// cookies go over TLS only: "
                    "nobody could log in there.",
                    hint="Reach Mailsite by https:// there, too, or remove the origin.",
                    id="mailsite.E007",
                )
            )
    return found


@register("mailsite")
def secrets(app_configs, **options) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    is_public = not env.is_loopback(urlsplit(settings.PUBLIC_URL).hostname or "")
    if settings.DEBUG and (is_public or not settings.ON_LOOPBACK):
        found.append(
            Warning(
                "DEBUG is on while other machines can reach Mailsite: its error pages show code and settings to them.",
                hint="Unset DEBUG.",
                id="mailsite.W006",
            )
        )
    if settings.SECRET_KEY in settings.SECRET_KEY_FALLBACKS:
        found.append(
            Warning(
                "SECRET_KEY_FALLBACKS holds SECRET_KEY itself: the key has not been replaced.",
                hint="Set SECRET_KEY to a new key; the former one belongs in SECRET_KEY_FALLBACKS.",
                id="mailsite.W007",
            )
        )
    return found


@register("mailsite")
def delivery(app_configs, **options) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    relay = settings.RELAY
    if settings.RETRY_SCHEDULE[0] >= settings.RETRY_MAX_AGE:
        found.append(
            Error(
                "RETRY_MAX_AGE_HOURS ends before the first step of RETRY_SCHEDULE: nothing would be tried twice.",
                hint="Lengthen RETRY_MAX_AGE_HOURS or shorten the first step.",
                id="mailsite.E004",
            )
        )
    if settings.ONLY_TO and settings.REDIRECT_TO:
        found.append(
            Error(
                "ONLY_TO and REDIRECT_TO are both set: mail can be held back or redirected, not both.",
                hint="Unset one of them.",
                id="mailsite.E005",
            )
        )
    if relay.username and relay.tls == "offered":
        found.append(
            Warning(
                "EMAIL_URL has a login but begins with smtp://: where the relay offers no TLS, nothing is sent.",
                hint="Use submission:// (STARTTLS, port 587) or smtps:// (port 465).",
                id="mailsite.W001",
            )
        )
    if settings.EHLO_NAME and "." not in settings.EHLO_NAME and not settings.EHLO_NAME.startswith("["):
        found.append(
            Warning(
                f"EHLO_NAME {settings.EHLO_NAME!r} is no fully qualified name: many receivers refuse it.",
                hint="Use a name such as mail.example.com, or leave it unset.",
                id="mailsite.W002",
            )
        )
    if settings.SMTP_TIMEOUTS.final < 60:
        found.append(
            Warning(
                f"SMTP_TIMEOUT_FINAL is {settings.SMTP_TIMEOUTS.final:g} s: a slow relay's 250 would come too late, "
                "and the message would be sent twice (RFC 1047).",
                hint="RFC 5321 asks for 600 s after the final dot.",
                id="mailsite.W003",
            )
        )
    return found
