"""What the caller is told is true, whatever happens to the stores behind the answer."""

import html
import http.client
import json
import os
import socket
import subprocess
import sys
from contextlib import closing, contextmanager

import pytest

from emails.models import ApiKey, EmailRequest, IdempotencyKey
from tests.conftest import ROOT
from tests.environment import wait_until

MAIL = {"from": "a@example.com", "to": "b@example.com", "subject": "Hello", "text": "Hello"}


@pytest.mark.django_db(transaction=True)
def test_with_redis_away_mail_is_accepted_all_the_same(api, no_redis):
    answer = api.post("/emails", MAIL)
    assert answer.status_code == 200
    assert EmailRequest.objects.get(pk=answer.json()["id"]).state == "queued"


@contextmanager
def web(**environment: str):
    """The web server as `make run` starts it; yields a function that calls it."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "granian", "--interface", "wsgi", "--port", str(port), "mailsite.wsgi:application"]
    server = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"PORT": str(port)} | environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip

    def call(path: str, data: dict | None, **headers: str):
        """POSTs `data`, or GETs with none; the answer and its body."""
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
            headers = {"Content-Type": "application/json", **headers}
            connection.request("POST" if data else "GET", path, json.dumps(data) if data else None, headers)
            with connection.getresponse() as answer:
                text = answer.read().decode()
                is_json = answer.headers["content-type"] == "application/json"
                return answer, json.loads(text) if is_json else text

    def up() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return True
        except OSError:
            return False

    try:
        wait_until(up, "the web server did not start")
        yield call
    finally:
        server.terminate()
        server.wait(30)


def test_with_the_database_away_the_caller_is_asked_to_come_again():
    with web(DATABASE_URL="postgres://nobody@127.0.0.1:1/nothing") as call:
        answer, body = call("/emails", MAIL, Authorization="Bearer ms_whatever")
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) > 0
    assert body["name"] == "application_error" and body["statusCode"] == 503


@pytest.mark.django_db(transaction=True)
def test_with_the_disk_full_nothing_is_half_stored(api, django_db_blocker):
    from django.db import connection

    if connection.vendor != "sqlite":
        pytest.skip("a full disk is played by SQLite's own page limit")
    with connection.cursor() as cursor:
        cursor.execute("VACUUM")  # no page is left free by other tests
        pages = cursor.execute("PRAGMA page_count").fetchone()[0]
        cursor.execute(f"PRAGMA max_page_count = {pages}")
    try:
        answer = api.post("/emails", {**MAIL, "text": "x" * 4096 * 100})
    finally:
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA max_page_count = 4294967294")
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert not EmailRequest.objects.exists()
    assert api.post("/emails", MAIL).status_code == 200


@pytest.mark.django_db
def test_a_retry_with_its_key_gets_the_first_answer(api):
    first = api.post("/emails", MAIL, headers={"Idempotency-Key": "order-1"})
    again = api.post("/emails", MAIL, headers={"Idempotency-Key": "order-1"})
    assert first.status_code == again.status_code == 200
    assert first.json() == again.json()
    assert EmailRequest.objects.count() == 1
    other = api.post("/emails", {**MAIL, "subject": "Another"}, headers={"Idempotency-Key": "order-1"})
    assert (other.status_code, other.json()["name"]) == (409, "invalid_idempotent_request")


@pytest.mark.django_db
@pytest.mark.parametrize("key", ["", "x" * 257])
def test_a_key_that_is_none_is_refused(api, key):
    answer = api.post("/emails", MAIL, headers={"Idempotency-Key": key})
    assert (answer.status_code, answer.json()["name"]) == (400, "invalid_idempotency_key")
    assert not IdempotencyKey.objects.exists()


@pytest.mark.django_db
def test_a_refused_request_leaves_its_key_free(api):
    headers = {"Idempotency-Key": "order-1"}
    assert api.post("/emails", {**MAIL, "to": "nobody"}, headers=headers).status_code == 422
    assert api.post("/emails", MAIL, headers=headers).status_code == 200


@pytest.mark.django_db
def test_the_same_key_of_two_callers_are_two(api, client):
    headers = {"Idempotency-Key": "order-1"}
    first = api.post("/emails", MAIL, headers=headers).json()["id"]
    other = {**headers, "Authorization": f"Bearer {ApiKey.create('other')[1]}"}
    assert api.post("/emails", MAIL, headers=other).json()["id"] != first


@pytest.mark.django_db
def test_canceling_tells_whether_it_won(api):
    id = api.post("/emails", MAIL).json()["id"]
    assert api.post(f"/emails/{id}/cancel").json() == {"object": "email", "id": id}
    assert api.get(f"/emails/{id}").json()["last_event"] == "canceled"
    late = api.post(f"/emails/{id}/cancel")
    assert late.status_code == 422 and "it is canceled" in late.json()["message"]
    assert api.post("/emails/00000000-0000-0000-0000-000000000000/cancel").status_code == 404


def test_with_the_database_away_pages_say_so_and_ask_the_reader_to_come_again():
    with web(DATABASE_URL="postgres://nobody@127.0.0.1:1/nothing") as call:
        answer, body = call("/send-email/moss@example.com", None)
        assert (answer.status, body["name"]) == (503, "application_error")
        answer, page = call("/send-email/moss@example.com", None, Accept="text/html")
        assert answer.status == 503 and "The database can't be reached" in html.unescape(page)
