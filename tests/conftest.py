import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from django.conf import settings

from emails import doorbell
from emails.drafts import Draft
from emails.models import ApiKey, EmailRequest, Worker
from emails.smtp import Relay as RelayAddress
from tests import sinks
from tests.environment import DATA, IN_CI, ON_POSTGRESQL, wait_until
from tests.running import BROWSERS, ROOT, Copy


@pytest.fixture(scope="session")
def django_db_modify_db_settings():
    if not ON_POSTGRESQL:
        settings.DATABASES["default"]["TEST"]["NAME"] = str(DATA / "test.sqlite3")


@pytest.fixture(autouse=True)
def empty_redis():
    yield
    doorbell.queue("default").connection.flushall()


@pytest.fixture
def relay(settings):
    """A real SMTP server; mail goes there."""
    server = sinks.Relay()
    settings.RELAY = RelayAddress.from_url(server.url)
    yield server
    server.close()


@pytest.fixture
def submit():
    """Accepts a message with sensible fields; returns it."""

    def submit(to="moss@example.com", priority=1, delay=0, **fields) -> EmailRequest:
        fields = {"from": "Shop <shop@example.com>", "to": to, "subject": "Hello", "text": "Hello", **fields}
        return EmailRequest.objects.submit([Draft.clean(fields)], origin="a test", priority=priority, delay=delay)[0]

    return submit


@pytest.fixture
def api(client, monkeypatch):
    """A client of the API with a valid key: api.post("/emails", {...}), api.get("/emails")."""
    monkeypatch.setattr(ApiKey, "KNOWN_FOR", timedelta(hours=1))  # however slow the machine: reads are counted
    client.defaults["HTTP_AUTHORIZATION"] = f"Bearer {ApiKey.create('tests')[1]}"
    post = client.post
    client.post = lambda path, data=None, **extra: post(
        path, data=data, content_type=extra.pop("content_type", "application/json"), **extra
    )
    return client


@pytest.fixture
def no_redis(settings):
    """Redis is away for this process."""
    doorbell.queue.cache_clear()
    settings.RQ_QUEUES = {name: {"URL": "redis://127.0.0.1:1"} for name in doorbell.QUEUES}
    yield
    doorbell.queue.cache_clear()


class Process:
    """A real process of this project, with its output in lines."""

    def __init__(self, *arguments: str, **environment: str):
        self.output: Path = DATA / f"output-{os.urandom(4).hex()}"
        with self.output.open("wb") as output:
            self.popen = subprocess.Popen(
                [sys.executable, "manage.py", *arguments],
                cwd=ROOT, env={**os.environ, "DATABASE_URL": test_database_url(), **environment},
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def wait_for(self, text: str) -> None:
        wait_until(
            lambda: text in self.text() or self.popen.poll() is not None, f"{text!r} was never said:\n{self.text()}"
        )
        assert text in self.text(), self.text()

    def stop(self, signum: int = signal.SIGTERM) -> int:
        if self.popen.poll() is None:
            self.popen.send_signal(signum)
        return self.popen.wait(40)


def test_database_url() -> str:
    database = settings.DATABASES["default"]
    if ON_POSTGRESQL:
        return f"postgres://postgres@{database['HOST'].replace('/', '%2F')}/{database['NAME']}"
    return f"sqlite:///{database['NAME']}"


@pytest.fixture
def start(transactional_db):
    """Starts `manage.py …` on the tests' database and Valkey; it is stopped with the test."""
    running = []

    def start(*arguments: str, **environment: str) -> Process:
        running.append(Process(*arguments, **environment))
        return running[-1]

    yield start
    for process in running:
        process.stop(signal.SIGKILL)


@pytest.fixture
def worker(start, relay):
    """A `manage.py rqworker` that delivers to `relay`."""
    process = start("rqworker", EMAIL_URL=relay.url)
    wait_until(Worker.alive().exists, "the worker did not report")
    return process


@pytest.fixture(scope="session")
def mailsite() -> Iterator[Copy]:
    """A whole Mailsite, as `manage.py run` starts it, with stores of its own."""
    with tempfile.TemporaryDirectory(prefix="mailsite-") as folder:
        copy = Copy(Path(folder))
        copy.start()
        yield copy
        copy.stop()


@pytest.fixture(scope="module")
def browser(request) -> Iterator:
    """An installed Chromium. Ends with this module, since its event loop would be in the ORM's way."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        own = Path(playwright.chromium.executable_path)
        found = next(filter(None, map(shutil.which, BROWSERS)), own if own.exists() else None)
        if not found:
            missing(request.config, "NOT TESTED IN A BROWSER: there is no Chromium (on Debian: apt install chromium).")
        arguments = ["--disable-component-update", *(["--no-sandbox"] if os.getuid() == 0 else [])]
        chromium = playwright.chromium.launch(executable_path=found, args=arguments)
        yield chromium
        chromium.close()


def missing(config: pytest.Config, sentence: str) -> None:
    """Skips with a line that nobody overlooks what needs a program that is not here; CI must have it."""
    if IN_CI:
        pytest.fail(sentence)
    with config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n{sentence}", file=sys.stderr)
    pytest.skip(sentence)
