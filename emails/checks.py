"""System checks: settings that are each valid but can't work together. Run by every management command."""

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register


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
