"""Settings and surroundings that can't work are said before they do harm."""

import os
import subprocess
import sys
from datetime import timedelta

import pytest
from django.conf import settings
from django.core.checks import run_checks

from emails import doorbell, surroundings
from emails.addresses import Address
from emails.models import Worker
from emails.smtp import Relay, Timeouts
from emails.staging import OnlyTo
from mailsite import env
from tests.running import ROOT


def ids() -> list[str]:
    return [message.id for message in run_checks() if message.id.startswith("mailsite.")]


@pytest.mark.django_db
def test_the_settings_as_they_come_are_fine():
    assert ids() == []


@pytest.mark.filterwarnings("ignore:Overriding setting DATABASES")
@pytest.mark.parametrize(
    "id, name, value",
    [
        ("mailsite.E001", "DATABASES", {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}),
        ("mailsite.E002", "INSTALLED_APPS", ["django_rq", "emails"]),
        ("mailsite.E003", "RQ", {}),
        ("mailsite.E004", "RETRY_MAX_AGE", timedelta(seconds=1)),
        ("mailsite.E006", "SECURE_HSTS_SECONDS", 3600),
        ("mailsite.W005", "PUBLIC_URL", "http://mail.example.com"),
        ("mailsite.W007", "SECRET_KEY_FALLBACKS", [settings.SECRET_KEY]),
        ("mailsite.W001", "RELAY", Relay.from_url("smtp://user:password@relay.example.com")),
        ("mailsite.W002", "EHLO_NAME", "localhost"),
        ("mailsite.W003", "SMTP_TIMEOUTS", Timeouts(final=5)),
    ],
)
def test_settings_that_cannot_work_are_named_with_a_hint(settings, id, name, value):
    from emails import checks

    setattr(settings, name, value)
    parts = (checks.stores, checks.queue, checks.proxy, checks.secrets, checks.delivery)
    found = [message for check in parts for message in check(None)]
    assert [message.id for message in found] == [id]
    assert found[0].hint


@pytest.mark.django_db
def test_what_tls_needs_besides(settings, monkeypatch):
    settings.PUBLIC_URL, settings.SECURE_HSTS_SECONDS = "https://mail.example.com", 3600
    settings.CSRF_TRUSTED_ORIGINS = [settings.PUBLIC_URL, "https://mail.internal"]
    assert ids() == ["mailsite.W004"]
    monkeypatch.setenv("PROXIES", "127.0.0.1")
    settings.TRUSTED_PROXIES = env.networks("PROXIES")
    assert ids() == []
    settings.CSRF_TRUSTED_ORIGINS.append("http://mail.internal")
    assert ids() == ["mailsite.E007"]


@pytest.mark.django_db
def test_metrics_are_allowed_by_address_only_where_that_is_the_clients(settings, monkeypatch):
    monkeypatch.setenv("NETWORKS", "127.0.0.1")
    settings.METRICS_ALLOW = env.networks("NETWORKS")
    assert ids() == []
    settings.PUBLIC_URL, settings.CSRF_TRUSTED_ORIGINS = "https://mail.example.com", []
    assert ids() == ["mailsite.W004", "mailsite.W008"]
    settings.TRUSTED_PROXIES = env.networks("NETWORKS")
    assert ids() == []


@pytest.mark.django_db
def test_pages_for_developers_are_not_for_other_machines(settings):
    settings.DEBUG, settings.ON_LOOPBACK = True, False
    assert ids() == ["mailsite.W006"]
    settings.ON_LOOPBACK, settings.PUBLIC_URL = True, "http://mail.example.com"  # behind a proxy
    assert ids() == ["mailsite.W005", "mailsite.W006"]


def test_a_deployment_as_the_documentation_wants_it_is_fine():
    environment = {"PUBLIC_URL": "https://mail.example.com", "TRUSTED_PROXIES": "127.0.0.1", "HSTS_SECONDS": "3600"}
    command = [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"]
    checked = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.django_db
def test_staging_safety_is_of_one_kind(settings):
    settings.ONLY_TO, settings.REDIRECT_TO = OnlyTo.parse("example.com"), Address.parse("moss@example.com")
    assert ids() == ["mailsite.E005"]


@pytest.mark.django_db
def test_workers_of_several_hosts_on_one_sqlite_file_are_warned_about():
    for host in ("here", "there"):
        Worker.objects.create(name=host, host=host, pid=1)
    assert "several hosts (here, there) share one SQLite file" in surroundings.warnings()[0]


@pytest.mark.django_db
def test_a_redis_that_evicts_or_keeps_nothing_is_warned_about():
    redis = doorbell.queue("default").connection
    before = redis.config_get("maxmemory", "maxmemory-policy", "appendonly", "save")
    try:
        redis.config_set("maxmemory", "100mb", "maxmemory-policy", "allkeys-lru", "save", "")
        said = "\n".join(surroundings.warnings())
        assert "allkeys-lru" in said and "keeps nothing on disk" in said
        redis.config_set("maxmemory", "0", "save", "60 1")
        assert surroundings.warnings() == []
    finally:
        for name, value in before.items():
            redis.config_set(name, value)
