"""The log: one line for each thing that happened, found by its ids in all processes, as text or as JSON."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from datetime import datetime, timedelta
from io import StringIO

import httpx
import pytest
from django.core.signing import dumps
from django.db import OperationalError, connection, transaction
from django.test import Client
from django.utils import timezone

from emails import login
from emails.drafts import Draft
from emails.models import EmailRequest, Event
from emails.states import State
from mailsite import logs
from tests.conftest import ROOT, Process
from tests.environment import wait_until
from tests.running import Copy, free_port


def record(message: str, **extra: object) -> logging.LogRecord:
    return logging.getLogger("emails.test").makeRecord(
        "emails.test", logging.INFO, __file__, 1, message, (), None, extra=extra
    )


def lines_of(process: Process) -> list[dict]:
    return [json.loads(line) for line in process.text().splitlines() if line.startswith("{")]


def test_a_line_in_json_has_its_time_in_utc_and_its_ids():
    line = json.loads(logs.JsonFormatter().format(record("Two\nlines", email="01a2", request="01a3")))
    assert datetime.fromisoformat(line.pop("time")).utcoffset() == timedelta(0)
    assert line == {
        "level": "INFO", "logger": "emails.test", "message": "Two\nlines", "email": "01a2", "request": "01a3",
    }  # fmt: skip


def test_what_a_library_adds_to_its_lines_is_left_out(rf):
    line = json.loads(logs.JsonFormatter().format(record("Not found", request=rf.get("/login/a-token"), subject="Hi")))
    assert set(line) == {"time", "level", "logger", "message"}


def test_half_a_character_breaks_no_line():
    assert json.loads(logs.JsonFormatter().format(record("\ud800")))["message"] == "\\ud800"


def test_a_traceback_stays_in_its_line():
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        failed = record("It failed.")
        failed.exc_info = sys.exc_info()
    [line] = logs.JsonFormatter().format(failed).splitlines()
    assert "RuntimeError: broken" in json.loads(line)["exception"]


class Writes(StringIO):
    """A stream that remembers what came in one piece."""

    def __init__(self):
        super().__init__()
        self.pieces = []

    def write(self, text):
        self.pieces.append(text)


def test_many_lines_of_one_thread_go_in_one_write_and_hold_up_no_other():
    console, stream = logs.Console(), Writes()
    console.setStream(stream)
    with console.together():
        console.handle(record("One"))
        thread = threading.Thread(target=console.handle, args=[record("Another thread's")])
        thread.start()
        thread.join()
        console.handle(record("Two"))
    console.handle(record("Three"))
    assert [piece for piece in stream.pieces if piece] == ["Another thread's\n", "One\nTwo\n", "Three\n"]


def test_a_line_in_text_names_its_request():
    formatter = logs.TextFormatter()
    assert formatter.format(record("Done", request="01a3")).endswith("emails.test: Done (request 01a3)")
    assert formatter.format(record("Done, request 01a3", request="01a3")).endswith("emails.test: Done, request 01a3")
    assert formatter.format(record("Done")).endswith("emails.test: Done")


# What opens a session or a download


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("error", "status"), [(OperationalError("away"), 503), (RuntimeError("broken"), 500)])
@pytest.mark.parametrize("formatter", [logs.TextFormatter, logs.JsonFormatter])
def test_a_login_link_whose_page_fails_still_works_and_stands_in_no_line(error, status, formatter):
    def broken(execute, sql, params, many, context):
        raise error

    path = login.one_time_url().partition("8000")[2]
    handler = logging.StreamHandler(stream := StringIO())
    handler.setFormatter(formatter())
    logging.getLogger().addHandler(handler)
    try:
        with connection.execute_wrapper(broken):
            answer = Client(raise_request_exception=False).get(path)
    finally:
        logging.getLogger().removeHandler(handler)
    assert answer.status_code == status
    assert f"GET /login/… {status}" in stream.getvalue() and answer["request-id"] in stream.getvalue()
    assert path.removeprefix("/login/") not in stream.getvalue()
    assert ("RuntimeError: broken" in stream.getvalue()) == (status == 500)
    assert Client().get(path).status_code == 302


def test_a_link_stands_in_no_line_of_runserver_either(start):
    port, token = free_port(), dumps(1)
    web = start("runserver", "--noreload", str(port))
    wait_until(lambda: "Quit the server" in web.text(), "runserver did not start")
    for path in ("/login/", "/downloads/"):
        httpx.get(f"http://localhost:{port}{path}{token}")
        web.wait_for(f"GET {path}…")
    assert token not in web.text()


# A message's life


def told(caplog, email: EmailRequest) -> list[str]:
    """What the log says of a message, without its id."""
    mine = [line for line in caplog.records if getattr(line, "email", None) == str(email.pk)]
    return [line.getMessage().removeprefix(f"Message {email.pk}: ") for line in mine]


@pytest.mark.django_db(transaction=True)
def test_what_people_decide_is_told_with_their_names(submit, caplog):
    caplog.set_level(logging.INFO)
    email = submit()
    mine, moment = EmailRequest.objects.filter(pk=email.pk), timezone.now() + timedelta(hours=1)
    mine.reschedule(moment, by="moss")
    mine.send_now(by="jen")
    mine.cancel(by="roy")
    assert told(caplog, email) == [
        "Accepted and queued: a test; queue default",
        f"Scheduled: for {moment:%Y-%m-%d %H:%M:%S} UTC by moss",
        "Made due at once: by jen",
        "Canceled: by roy",
    ]


@pytest.mark.django_db(transaction=True)
def test_what_is_rolled_back_is_not_told(submit, caplog):
    caplog.set_level(logging.INFO)
    with pytest.raises(RuntimeError), transaction.atomic():
        email = submit()
        raise RuntimeError
    assert not told(caplog, email)


@pytest.mark.django_db(transaction=True)
def test_an_accepted_message_is_told_with_request_and_key(api):
    handler = logging.StreamHandler(stream := StringIO())
    handler.setFormatter(logs.JsonFormatter())
    logging.getLogger("emails").addHandler(handler)
    try:
        email = {"from": "shop@example.com", "to": "moss@example.com", "subject": "A subject", "text": "A body"}
        answer = api.post("/emails", email)
    finally:
        logging.getLogger("emails").removeHandler(handler)
    accepted, asked = map(json.loads, stream.getvalue().splitlines())
    assert accepted["email"] == answer.json()["id"]
    assert accepted["request"] == asked["request"] == answer["request-id"]
    assert accepted["key"] == asked["key"]
    assert (asked["method"], asked["path"], asked["status"]) == ("POST", "/emails", 200)
    assert "A subject" not in stream.getvalue() and "A body" not in stream.getvalue()


@pytest.mark.django_db(transaction=True)
def test_a_message_that_another_requests_thread_stores_keeps_its_own_request(rf, caplog):
    caplog.set_level(logging.INFO)
    mine, others = rf.post("/emails"), rf.post("/emails")
    mine.id, others.id = "mine", "others"
    token = logs.request_at_hand.set(mine)
    draft = Draft.clean({"from": "shop@example.com", "to": "moss@example.com", "subject": "Hi", "text": "Hi"})
    email = EmailRequest.from_draft(draft, 1, origin="a test")
    logs.request_at_hand.set(others)
    EmailRequest.objects.store([email])
    logs.request_at_hand.reset(token)
    [line] = [line for line in caplog.records if getattr(line, "email", "") == str(email.pk)]
    assert line.request == "mine"


@pytest.mark.parametrize("command", ["rqworker", "rqworker-pool"])
def test_a_worker_warns_of_settings_in_json_too(command, start, relay):
    process = start(command, "--burst", EMAIL_URL=relay.url, LOG_FORMAT="json", SMTP_TIMEOUT_FINAL="5")
    process.popen.wait(30)
    assert "System check" not in process.text()
    warnings = {line["message"] for line in lines_of(process) if "SMTP_TIMEOUT_FINAL is 5 s" in line["message"]}
    assert len(warnings) == 1 and warnings.pop().startswith("mailsite.W003: ")


def test_the_worker_tells_what_the_relay_said_in_json(start, relay, submit):
    worker = start("rqworker", EMAIL_URL=relay.url, LOG_FORMAT="json")
    email = submit()
    wait_until(lambda: EmailRequest.objects.get(pk=email.pk).state == State.SENT, "it was not sent")
    worker.stop()
    assert all(line.startswith("{") for line in worker.text().splitlines()), worker.text()  # RQ's own lines, too
    [sent] = [line for line in lines_of(worker) if line.get("email") == str(email.pk)]
    detail = Event.objects.get(email=email, kind=Event.Kind.SENT).detail
    assert sent["message"] == f"Message {email.pk}: Sent: {detail}"
    assert sent["worker"] and all(line["worker"] == sent["worker"] for line in lines_of(worker) if "worker" in line)


def test_a_whole_mailsite_writes_json_and_no_login_link(tmp_path):
    copy = Copy(tmp_path)
    copy.environment |= {"LOG_FORMAT": "json"}
    copy.start()
    try:
        email = {"from": "shop@example.com", "to": "moss@example.com", "subject": "Hello", "text": "Hello"}
        id = copy.api.post("/emails", json=email).json()["id"]
        copy.arrived("moss@example.com")
        wait_until(lambda: f"{id}: Sent" in copy.said, "the worker did not say that it was sent")
    finally:
        copy.stop()
    lines = [json.loads(line) for line in copy.said.splitlines()]
    assert [line["message"].split(": ")[1] for line in lines if line.get("email") == id] == [
        "Accepted and queued",
        "Sent",
    ]
    assert "/login/" not in copy.said


def test_the_web_servers_own_lines_are_json_in_containers(tmp_path):
    copy = Copy(tmp_path)
    command = [
        sys.executable, "-m", "granian", "--interface", "wsgi", "--port", str(copy.port), "--no-ws",
        "--log-config", "mailsite/granian.json", "mailsite.wsgi:application",
    ]  # fmt: skip
    with subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"LOG_FORMAT": "json"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as server:  # fmt: skip
        first = server.stdout.readline()
        server.send_signal(signal.SIGTERM)
        rest = server.stdout.read()
    lines = [json.loads(line) for line in (first + rest).splitlines()]
    assert {line["logger"] for line in lines} == {"_granian"}
