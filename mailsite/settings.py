"""Every setting, read top to bottom. What may differ between deployments comes from the environment."""

from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from django.http.request import split_domain_port
from django.utils.csp import CSP
from dotenv import load_dotenv

from emails.addresses import Address
from emails.smtp import Relay, Timeouts
from emails.staging import OnlyTo
from mailsite import env

BASE_DIR = Path(__file__).resolve().parent.parent
load_dotenv(BASE_DIR / ".env")

# Where this copy keeps its state: database, Valkey's data, secret key, sandbox's address.
DATA_DIR = Path(env.text("MAILSITE_DATA", str(BASE_DIR / "var"))).expanduser().absolute()

DEBUG = env.boolean("DEBUG", False)

# Addresses. A server that other machines can reach must be told its name and its secret.
HOST = env.text("HOST", "127.0.0.1")
PORT = env.integer("PORT", 8000, 1, 65535)
PUBLIC_URL = env.origin("PUBLIC_URL", "")
ON_LOOPBACK = env.is_loopback(HOST)
if not ON_LOOPBACK:
    for name, example in (("PUBLIC_URL", "https://mail.example.com"), ("SECRET_KEY", "50 random characters")):
        if not env.text(name):
            raise env.EnvironmentProblem(f"HOST={HOST} opens Mailsite to other machines: set {name} too ({example}).")
PUBLIC_URL = PUBLIC_URL or f"http://{'localhost' if HOST == '127.0.0.1' else HOST}:{PORT}"
ALLOWED_HOSTS = [
    "localhost",
    "127.0.0.1",
    "[::1]",
    split_domain_port(urlsplit(PUBLIC_URL).netloc)[0],
    *env.hosts("ALLOWED_HOSTS"),
]
CSRF_TRUSTED_ORIGINS = [PUBLIC_URL, *env.origins("CSRF_TRUSTED_ORIGINS")]
TRUSTED_PROXIES = env.networks("TRUSTED_PROXIES")  # who may say for whom, and over what, it asks
SECRET_KEY = env.secret_key("SECRET_KEY", DATA_DIR / "secret_key")
SECRET_KEY_FALLBACKS = env.secret_keys("SECRET_KEY_FALLBACKS")  # what they signed counts for a while

# The two stores: the database is the truth, Redis the doorbell.
DATABASES = {"default": env.database("DATABASE_URL", DATA_DIR / "mailsite.sqlite3")}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
VALKEY_SOCKET = env.socket_path(DATA_DIR / "valkey")
REDIS_URL = env.url("REDIS_URL", "", ("redis", "rediss", "unix"))
RQ_QUEUES = {
    name: {
        "URL": (REDIS_URL or f"unix://{VALKEY_SOCKET}")
        + ("&" if "?" in REDIS_URL else "?")
        + "socket_connect_timeout=2&socket_timeout=5",
        "DEFAULT_RESULT_TTL": 500,
    }
    for name in ("high", "default", "low")
}
RQ = {"WORKER_CLASS": "emails.worker.MailWorker"}

# Where mail goes: the sandbox (nothing leaves this machine) unless EMAIL_URL names a relay.
RELAY = env.parsed(
    "EMAIL_URL",
    Relay.beside(DATA_DIR / "sandbox.address"),
    Relay.from_url,
    "smtp://user:password@host:25, submission://…:587, smtps://…:465 or sandbox://host:port",
    secret=True,
)
# Staging safety: mail to nobody but these, or all of it to one.
ONLY_TO = env.parsed("ONLY_TO", OnlyTo(), OnlyTo.parse, "domains and addresses such as example.com,tester@example.org")
REDIRECT_TO = env.parsed("REDIRECT_TO", None, Address.parse, "one address such as tester@example.com")
SMTP_TIMEOUTS = Timeouts(
    **{
        stage: env.seconds(f"SMTP_TIMEOUT_{stage.upper()}", default, minimum=0.1)
        for stage, default in asdict(Timeouts()).items()
    }
)
EHLO_NAME = env.host_name("EHLO_NAME", "")
SENDERS = env.integer("SENDERS", 16, 1, 256)
MESSAGES_PER_CONNECTION = env.integer("MESSAGES_PER_CONNECTION", 0, 0, 1_000_000)
RELAY_RATE = env.rate("RELAY_RATE", 0)  # messages a second, by all workers together

# When an attempt fails: the steps between attempts (the last one repeated), and when to give up.
RETRY_SCHEDULE = [timedelta(seconds=step) for step in env.numbers("RETRY_SCHEDULE", [60, 300, 900, 3600, 14400])]
RETRY_MAX_AGE = timedelta(hours=env.integer("RETRY_MAX_AGE_HOURS", 72, 1, 720))
# A message of which nobody can know whether it was sent: sent again, or held for a person.
ON_UNKNOWN = env.choice("ON_UNKNOWN", "resend", ("resend", "hold"))
# A worker that has been silent for this long is dead, and its messages go to others.
LEASE = timedelta(seconds=env.integer("LEASE", 60, 2, 3600))
GRACE = env.seconds("GRACE", 30)  # for what is on the wire when a worker is stopped
# A message that is due for longer makes /health/ready warn.
HEALTH_OLDEST = timedelta(minutes=env.integer("HEALTH_OLDEST_MINUTES", 15, 1, 10080))

# Who may read /metrics; by default nobody.
METRICS_TOKEN = env.token("METRICS_TOKEN")
METRICS_ALLOW = env.networks("METRICS_ALLOW")

# The playground: a slow e-mail that shows why a queue exists. It can only reach the sandbox.
PLAYGROUND = env.boolean("PLAYGROUND", ON_LOOPBACK) and RELAY.is_sandbox
PLAYGROUND_DELAY = env.seconds("PLAYGROUND_DELAY", 10)

# How long each request of the API is kept, without bodies; 0 keeps none.
REQUEST_LOG_DAYS = env.integer("REQUEST_LOG_DAYS", 7, 0, 365)

INSTALLED_APPS = [
    "emails",  # before django_rq, whose rqworker commands it extends
    "django_rq",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.humanize",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "django_htmx",
    "rest_framework",
    "drf_spectacular_sidecar",  # the files of the API's page
]

MIDDLEWARE = [
    "mailsite.proxies.ForwardedMiddleware",
    "emails.api.middleware.RequestIdMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.middleware.csp.ContentSecurityPolicyMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "emails.api.middleware.ApiMiddleware",  # what stands below is for the pages alone
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "emails.middleware.DatabaseAwayMiddleware",
    "emails.middleware.DashboardMiddleware",
]

ROOT_URLCONF = "mailsite.urls"
WSGI_APPLICATION = "mailsite.wsgi.application"
APPEND_SLASH = False  # a redirect would turn an API client's POST into a GET

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "emails.views.transport",
            ],
        },
    },
]

STATIC_URL = "/static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
WHITENOISE_USE_FINDERS = True  # no collectstatic step, under runserver and in containers alike

# Pages.
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "login"
SECURE_CSP = {
    "default-src": [CSP.SELF],
    "img-src": [CSP.SELF, "data:"],
    "object-src": [CSP.NONE],
    "base-uri": [CSP.NONE],
    "form-action": [CSP.SELF],
    "frame-ancestors": [CSP.SELF],
}
X_FRAME_OPTIONS = "SAMEORIGIN"  # a message page frames the mail that it shows
SECURE_REFERRER_POLICY = "same-origin"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = PUBLIC_URL.startswith("https://")
SECURE_HSTS_SECONDS = env.integer("HSTS_SECONDS", 0, 0, 63072000)
SILENCED_SYSTEM_CHECKS = [  # of `manage.py check --deploy`, which knows nothing of these decisions
    "security.W005",  # HSTS for subdomains, and
    "security.W021",  # the preload list, are for the owner of the whole domain to decide
    "security.W008",  # the proxy sends browsers on to https://; machines ask for health in the clear
    "security.W019",  # X_FRAME_OPTIONS, above
]
# Browsers share cookies between the ports of one host: two copies side by side need names of their own.
SESSION_COOKIE_NAME = f"mailsite_session_{PORT}"
CSRF_COOKIE_NAME = f"mailsite_csrf_{PORT}"

LANGUAGE_CODE = "en"
USE_I18N = False
USE_TZ = True
TIME_ZONE = env.time_zone("TIME_ZONE", "UTC")

DATA_UPLOAD_MAX_MEMORY_SIZE = 45 * 1024 * 1024  # a mail has at most 40 MB after base64, as it stands in JSON
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["emails.api.auth.BearerKey"],  # refuses all who have no key
    "DEFAULT_PARSER_CLASSES": ["emails.api.parsers.StrictJSON"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_SCHEMA_CLASS": "emails.api.description.Description",
    "EXCEPTION_HANDLER": "emails.api.errors.handle",
    "UNAUTHENTICATED_USER": None,
}

SPECTACULAR_SETTINGS = {
    "TITLE": "Mailsite",
    "VERSION": "1",
    "OAS_VERSION": "3.1.1",
    "SERVERS": [{"url": "/"}],
    "POSTPROCESSING_HOOKS": ["emails.api.description.complete"],
}

LOG_FORMAT = env.choice("LOG_FORMAT", "text", ("text", "json"))
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"text": {"()": "mailsite.logs.TextFormatter"}, "json": {"()": "mailsite.logs.JsonFormatter"}},
    "handlers": {"console": {"class": "mailsite.logs.Console", "formatter": LOG_FORMAT}},
    "root": {"handlers": ["console"], "level": "WARNING"},
    "loggers": {
        "emails": {"level": "INFO"},
        "django": {"handlers": []},  # no second line by Django's own
        "django.server": {"handlers": ["console"]},  # the lines of `manage.py runserver`
        "django.request": {"level": "ERROR"},  # a stranger's wrong URL or host is worth no line
        "django.security.DisallowedHost": {"level": "CRITICAL"},
    },
}
