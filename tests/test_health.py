"""What a machine learns that asks whether Mailsite can accept mail, and whether what was accepted moves on."""

import os
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from django.db import connection, transaction
from django.test import Client
from django.utils import timezone

from emails import doorbell, health, login, surroundings
from emails.models import ApiKey, EmailRequest, Hold, Worker
from tests.conftest import test_database_url as database_url
from tests.environment import ON_POSTGRESQL, wait_until
from tests.running import ROOT
from tests.test_supervisor import free_port

pytestmark = [pytest.mark.stores, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def alive():
    return Worker.objects.create(name="moss", host="here", pid=1)


@pytest.fixture
def web(transactional_db):
    """Starts a web server with stores of its own; its address."""
    running = []

    def start(**environment: str) -> str:
        port = free_port()
        arguments = ["--interface", "wsgi", "--port", str(port), "--no-ws", "mailsite.wsgi:application"]
        running.append(
            subprocess.Popen([sys.executable, "-m", "granian", *arguments], cwd=ROOT, env={**os.environ, **environment})
        )
        url = f"http://127.0.0.1:{port}"

        def answers() -> bool:
            with suppress(httpx.TransportError):
                return httpx.get(f"{url}/health/live").text == "ok\n"
            return False

        wait_until(answers, "the web server did not start")
        return url

    yield start
    for process in running:
        process.terminate()
        process.wait(30)


def ready() -> tuple[int, dict]:
    response = Client().get("/health/ready")
    return response.status_code, response.json()


def check(name: str) -> tuple[str, str]:
    found = ready()[1]["checks"][name]
    return found["status"], found["message"]


def test_all_is_well_and_each_part_is_named_with_the_time_it_took(alive):
    status, report = ready()
    assert (status, report["status"]) == (200, "ok")
    assert list(report["checks"]) == ["database", "worker", "oldest", "redis"]
    for found in report["checks"].values():
        assert found["status"] == "ok" and found["message"].endswith(".") and 0 <= found["seconds"] < 3
    assert report["checks"]["worker"]["message"] == "1 worker was seen within the last 60 s."


def test_nobody_is_asked_to_log_in_and_nothing_is_kept_by_caches(alive, django_assert_num_queries):
    with django_assert_num_queries(0):  # by the request's own connection, which might hang
        response = Client().get("/health/ready")
    assert "no-store" in response["Cache-Control"]
    assert Client().head("/health/ready").status_code == 200
    assert Client().post("/health/ready").status_code == 405


def test_without_a_worker_mail_is_accepted_and_it_warns():
    status, report = ready()
    assert (status, report["status"]) == (200, "warning")
    assert check("worker") == ("warning", "No worker has been seen yet: start one with `manage.py rqworker`.")


def test_a_message_that_is_due_for_too_long_makes_it_warn(alive, submit):
    assert check("oldest") == ("ok", "No message is due.")
    submit(scheduled_at="in 2 hours")
    submit(priority=2)
    assert check("oldest") == ("ok", "The oldest message that is due has waited for 0 s.")
    EmailRequest.objects.filter(priority=2).update(due_at=timezone.now() - timedelta(minutes=40))
    assert ready()[1]["status"] == "warning"
    assert check("oldest") == (
        "warning",
        "The oldest message that is due has waited for 40 minutes: more than 15 minutes.",
    )


def test_what_is_paused_on_purpose_does_not_lag(alive, submit):
    submit(priority=2)
    EmailRequest.objects.update(due_at=timezone.now() - timedelta(minutes=40))
    Hold.objects.create(target="low", reason="freeze", by="jen")
    assert check("oldest") == ("ok", "No message is due but what is paused.")
    submit(priority=1)
    assert check("oldest") == ("ok", "The oldest message that is due has waited for 0 s.")
    Hold.objects.create(target="relay", reason="freeze", by="jen")
    assert check("oldest") == ("ok", "No message is due but what is paused.")


def test_workers_are_judged_by_the_databases_clock(monkeypatch):
    Worker.objects.create(name="moss", host="here", pid=1)
    Worker.objects.update(heartbeat_at=timezone.now() - timedelta(minutes=6))
    clock = timezone.now
    monkeypatch.setattr(timezone, "now", lambda: clock() - timedelta(hours=1))  # this machine's is wrong
    assert check("worker") == (
        "warning",
        "No worker has been seen for 6 minutes: start one with `manage.py rqworker`.",
    )


def test_without_redis_mail_is_accepted_and_it_warns(alive, no_redis):
    status, report = ready()
    assert (status, report["status"]) == (200, "warning")
    assert check("redis") == (
        "warning",
        "Redis can't be reached: mail is accepted, and workers take it from the database.",
    )


@pytest.mark.skipif(ON_POSTGRESQL, reason="PostgreSQL's disk is looked after elsewhere")
def test_a_disk_that_is_nearly_full_makes_it_warn(alive, monkeypatch):
    monkeypatch.setattr(surroundings, "NEARLY_FULL", 10**9)
    assert ready()[0] == 200
    assert check("database")[0] == "warning" and "MB left" in check("database")[1]


def test_a_redis_that_says_nothing_is_not_waited_for(alive, settings):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings.RQ_QUEUES = {name: {"URL": f"redis://127.0.0.1:{silent.getsockname()[1]}"} for name in doorbell.QUEUES}
        doorbell.queue.cache_clear()
        began = timezone.now()
        status, report = ready()
        assert (status, report["checks"]["redis"]["status"]) == (200, "warning")
        assert timezone.now() - began < timedelta(seconds=4)
    doorbell.queue.cache_clear()


@pytest.mark.parametrize("path", ["/", "/messages/{}/status", "/playground/live", "/admin/", "/health/ready"])
def test_pages_wait_once_for_a_redis_that_says_nothing(client, alive, submit, settings, path):
    path = path.format(submit().pk)
    client.force_login(login.local_administrator())
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings.RQ_QUEUES = {name: {"URL": f"redis://127.0.0.1:{silent.getsockname()[1]}"} for name in doorbell.QUEUES}
        doorbell.queue.cache_clear()
        began = timezone.now()
        assert [client.get(path).status_code for _ in range(3)] == [200] * 3
        assert timezone.now() - began < timedelta(seconds=4)
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):  # nobody else has called
            silent.accept()
    doorbell.queue.cache_clear()


def test_a_round_that_hangs_is_given_up_after_a_while():
    ended = threading.Event()

    def hangs() -> health.Finding:
        ended.wait()
        return health.Finding(health.OK, "At last.")

    first = health.Round.under_way({"a store": hangs})
    try:
        assert health.Round.under_way({"a store": hangs}, now=first.began + 29) is first
        second = health.Round.under_way({"a store": hangs}, now=first.began + 31)
        assert second is not first
    finally:
        ended.set()
    second.join()
    assert second.so_far()["a store"].status == health.OK


@pytest.mark.skipif(ON_POSTGRESQL, reason="one writer at a time is SQLite's")
def test_a_database_that_cannot_be_written_means_that_nothing_is_accepted(alive):
    with connection.cursor() as cursor:
        cursor.execute("BEGIN IMMEDIATE")  # and nobody else can, as long as it lasts
        try:
            status, report = ready()
        finally:
            cursor.execute("ROLLBACK")
    assert (status, report["status"]) == (503, "failed")
    assert (
        report["checks"]["database"]["message"] == "The database can't be used: nothing is accepted until it answers."
    )
    assert report["checks"]["database"]["seconds"] >= 2.9
    wait_until(lambda: ready()[0] == 200, "it did not get ready again")


@pytest.mark.skipif(ON_POSTGRESQL, reason="one writer at a time is SQLite's")
def test_a_request_waits_for_a_locked_database_for_some_seconds_only(web):
    token, mailsite = ApiKey.create("tests")[1], web(DATABASE_URL=database_url())
    mail = {"from": "shop@example.com", "to": "moss@example.com", "subject": "Hello", "text": "Hello"}
    with transaction.atomic():  # which is SQLite's lock
        response = httpx.post(f"{mailsite}/emails", json=mail, headers={"Authorization": f"Bearer {token}"}, timeout=15)
    assert response.status_code == 503
    assert response.json()["message"] == "The database can't be used at the moment: try again in a few seconds."


@contextmanager
def read_only(database: Path) -> Iterator[None]:
    """For whoever opens it: on PostgreSQL as a standby is, on SQLite by the file's permissions."""
    if ON_POSTGRESQL:
        with connection.cursor() as cursor:
            name = connection.settings_dict["NAME"]
            cursor.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
            try:
                yield
            finally:
                cursor.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        return
    as_root = os.getuid() == 0  # whom permissions don't stop
    on, off = (["chattr", "+i"], ["chattr", "-i"]) if as_root else (["chmod", "a-w"], ["chmod", "u+w"])
    if subprocess.run([*on, database], capture_output=True).returncode:
        pytest.skip("no file can be made read-only here")
    try:
        yield
    finally:
        subprocess.run([*off, database], check=True)


def test_a_read_only_database_means_that_nothing_is_accepted_until_it_can_be_written_again(web, tmp_path):
    file, url, token = tmp_path / "mailsite.sqlite3", database_url(), ApiKey.create("tests")[1]
    if not ON_POSTGRESQL:
        with connection.cursor() as cursor:
            cursor.execute("VACUUM INTO %s", [str(file)])
        with closing(sqlite3.connect(file)) as copy:
            copy.execute("PRAGMA journal_mode=WAL")
        url = f"sqlite:///{file}"

    def accept() -> int:
        mail = {"from": "shop@example.com", "to": "moss@example.com", "subject": "Hello", "text": "Hello"}
        return httpx.post(f"{mailsite}/emails", json=mail, headers={"Authorization": f"Bearer {token}"}).status_code

    with read_only(file):
        mailsite = web(DATABASE_URL=url)
        assert accept() == 503
        response = httpx.get(f"{mailsite}/health/ready")
        assert (response.status_code, response.json()["checks"]["database"]["status"]) == (503, "failed")
        assert "nothing is accepted" in response.json()["checks"]["database"]["message"]
        assert "Not known" in response.json()["checks"]["worker"]["message"]  # it can't write that it is there
    assert accept() == 200
    assert httpx.get(f"{mailsite}/health/ready").json()["checks"]["database"]["status"] == "ok"


@pytest.mark.skipif(not ON_POSTGRESQL, reason="on SQLite a file that was opened for writing can be written")
def test_a_session_that_turns_read_only_is_told_as_a_database_that_is_away_and_ends(api):
    """As at a failover that leaves the sessions of the former primary open."""
    message = {"from": "shop@example.com", "to": "moss@example.com", "subject": "Hello", "text": "Hello"}
    with connection.cursor() as cursor:
        cursor.execute("SET default_transaction_read_only = on")
    assert api.post("/emails", message).status_code == 503
    connection.close_if_unusable_or_obsolete()  # what the end of a request does
    assert api.post("/emails", message).status_code == 200


def test_a_database_without_tables_means_that_nothing_is_accepted(web, tmp_path):
    url = web(DATABASE_URL=f"sqlite:///{tmp_path / 'empty.sqlite3'}")
    response = httpx.get(f"{url}/health/ready")
    assert response.status_code == 503
    assert response.json()["checks"]["database"]["message"] == (
        "The database lacks what this version needs: run `manage.py migrate`."
    )


def test_stores_that_hang_are_not_waited_for_and_no_stranger_learns_where_they_are(web):
    with socket.create_server(("127.0.0.1", 0)) as database, socket.create_server(("127.0.0.1", 0)) as redis:
        ports = [str(server.getsockname()[1]) for server in (database, redis)]
        url = web(
            DATABASE_URL=f"postgres://jen:secret@127.0.0.1:{ports[0]}/mailsite",
            REDIS_URL=f"redis://:secret@127.0.0.1:{ports[1]}",
        )
        for _ in range(2):  # the second finds the first one's threads still waiting
            response = httpx.get(f"{url}/health/ready", timeout=5)
            assert (response.status_code, response.json()["status"]) == (503, "failed")
            assert not any(word in response.text for word in ("127.0.0.1", "jen", "secret", *ports))
        assert httpx.get(f"{url}/health/live").status_code == 200
