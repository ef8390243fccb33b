"""`Idempotency-Key`: a retry gets the first answer, whatever has happened meanwhile."""

import json
import os
import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest
from django.db import connection
from django.utils import timezone

from emails import schedule
from emails.models import ApiKey, EmailRequest, IdempotencyKey
from tests.environment import wait_until
from tests.test_api import FULL, refuse
from tests.test_bad_input import Server

pytestmark = [pytest.mark.stores, pytest.mark.django_db]

GOOD = {"from": "shop@example.com", "to": "moss@example.com", "subject": "Hello", "text": "Hello"}
KEY = {"Idempotency-Key": "order-1"}
PERMISSIVE = {"x-batch-validation": "permissive"}


def test_a_replay_says_that_it_is_one(api):
    first = api.post("/emails", FULL, headers=KEY)
    again = api.post("/emails", FULL, headers=KEY)
    assert "idempotent-replayed" not in first
    assert again["idempotent-replayed"] == "true"
    assert first.json() == again.json()
    assert EmailRequest.objects.count() == 1


@pytest.mark.parametrize("name", ["idempotency-key", "IDEMPOTENCY-KEY", "Idempotency-key"])
def test_the_headers_case_does_not_matter(api, name):
    first = api.post("/emails", FULL, headers=KEY)
    assert api.post("/emails", FULL, headers={name: "order-1"}).json() == first.json()


def test_the_order_of_the_fields_does_not_matter(api):
    first = api.post("/emails", FULL, headers=KEY)
    assert api.post("/emails", dict(reversed(FULL.items())), headers=KEY).json() == first.json()


def test_a_batch_has_one_key(api):
    items = [{**GOOD, "subject": f"{n}"} for n in range(3)]
    first = api.post("/emails/batch", items, headers=KEY)
    again = api.post("/emails/batch", items, headers=KEY)
    assert first.json() == again.json() and again["idempotent-replayed"] == "true"
    assert EmailRequest.objects.count() == 3
    refuse(api.post("/emails/batch", items[:2], headers=KEY), 409, "invalid_idempotent_request")
    refuse(api.post("/emails/batch", items[::-1], headers=KEY), 409, "invalid_idempotent_request")
    refuse(api.post("/emails", items[0], headers=KEY), 409, "invalid_idempotent_request")
    assert EmailRequest.objects.count() == 3


def test_a_replayed_batch_tells_of_the_bad_ones_too(api):
    items = [GOOD, {**GOOD, "to": "nobody"}, GOOD]
    first = api.post("/emails/batch", items, headers={**KEY, **PERMISSIVE})
    again = api.post("/emails/batch", items, headers={**KEY, **PERMISSIVE})
    assert first.json() == again.json() and again["idempotent-replayed"] == "true"
    assert [error["index"] for error in again.json()["errors"]] == [1]
    assert len(again.json()["data"]) == 2


def test_a_batch_without_a_good_one_leaves_its_key_free(api):
    api.post("/emails/batch", [{}], headers={**KEY, **PERMISSIVE})
    assert api.post("/emails/batch", [GOOD], headers=KEY).status_code == 200


def test_a_replay_after_the_scheduled_time_gets_the_first_answer(api, monkeypatch):
    """By then the time is past, and as a new request it would be refused."""
    soon = {**GOOD, "scheduled_at": (timezone.now() + timedelta(seconds=1)).isoformat()}
    items = [GOOD, soon]
    first = api.post("/emails", soon, headers=KEY)
    batch = api.post("/emails/batch", items, headers={**PERMISSIVE, "Idempotency-Key": "batch"})
    later = timezone.now() + timedelta(hours=2)
    monkeypatch.setattr(schedule, "datetime", type("later", (datetime,), {"now": classmethod(lambda *_: later)}))
    refuse(api.post("/emails", soon), 422, "validation_error")
    assert api.post("/emails", soon, headers=KEY).json() == first.json()
    again = api.post("/emails/batch", items, headers={**PERMISSIVE, "Idempotency-Key": "batch"})
    assert again.json() == batch.json()


def test_after_a_day_the_key_is_free_again(api):
    first = api.post("/emails", FULL, headers=KEY).json()
    IdempotencyKey.objects.update(created_at=timezone.now() - timedelta(hours=24, seconds=1))
    again = api.post("/emails", {**FULL, "subject": "Another"}, headers=KEY)
    assert again.status_code == 200 and again.json() != first
    assert "idempotent-replayed" not in again


def test_a_dry_run_uses_no_key_up(api):
    assert api.post("/emails?dry_run=true", FULL, headers=KEY).status_code == 200
    assert "idempotent-replayed" not in api.post("/emails", FULL, headers=KEY)


@pytest.mark.parametrize("key", ["", "x" * 257, "a\tb"])
def test_a_key_that_is_none(api, key):
    for path, body in (("/emails", GOOD), ("/emails/batch", [GOOD])):
        refuse(api.post(path, body, headers={"Idempotency-Key": key}), 400, "invalid_idempotency_key")


@pytest.mark.parametrize("key", ["x" * 256, " order 1 ", "a/b?c=d", "é"])
def test_a_key_may_be_any_text(api, key):
    first = api.post("/emails", GOOD, headers={"Idempotency-Key": key})
    assert api.post("/emails", GOOD, headers={"Idempotency-Key": key}).json() == first.json()


# At the same moment, through the real web server


@pytest.fixture
def server(transactional_db, tmp_path):
    server = Server(tmp_path / "web.log")
    yield server
    server.stop()


@pytest.mark.django_db(transaction=True)
def test_of_fifty_at_once_all_get_one_answer(server):
    key = ApiKey.create("tests")[1]
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    body = b'{"from": "a@example.com", "to": "b@example.com", "subject": "x", "text": "x"}'
    batch = b"[" + body + b"," + body + b"]"

    def post(n: int):
        if n % 2:
            return server.ask("POST", "/emails/batch", batch, **headers, **{"Idempotency-Key": "batch"})
        return server.ask("POST", "/emails", body, **headers, **{"Idempotency-Key": "single"})

    with ThreadPoolExecutor(25) as callers:
        answers = list(callers.map(post, range(100)))
    for kind in (answers[::2], answers[1::2]):
        assert {answer.status for answer in kind} == {200}, server.log.read_text()[-3000:]
        assert len({answer.content for answer in kind}) == 1
        assert sum(answer.getheader("idempotent-replayed") is None for answer in kind) == 1
    assert EmailRequest.objects.count() == 3
    assert IdempotencyKey.objects.count() == 2
    connection.close()


@pytest.mark.django_db(transaction=True)
def test_a_web_server_that_is_killed_between_commit_and_answer(transactional_db, tmp_path):
    """It rings after the commit: a Redis that takes the call and says nothing holds it right there."""
    headers = {"Authorization": f"Bearer {ApiKey.create('tests')[1]}", "Content-Type": "application/json", **KEY}
    body = b'{"from": "a@example.com", "to": "b@example.com", "subject": "x", "text": "x"}'
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor(1) as caller:
        dying = Server(tmp_path / "dying.log", REDIS_URL=f"redis://127.0.0.1:{silent.getsockname()[1]}")
        asked = caller.submit(dying.ask, "POST", "/emails", body, **headers)
        wait_until(EmailRequest.objects.exists, "nothing was stored")
        assert not asked.done()
        for pid in (dying.process.pid, *children_of(dying.process.pid)):
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(OSError):
            asked.result()
        dying.process.wait()
    other = Server(tmp_path / "other.log")
    try:
        again = other.ask("POST", "/emails", body, **headers)
    finally:
        other.stop()
    assert again.status == 200 and again.getheader("idempotent-replayed") == "true"
    assert json.loads(again.content)["id"] == str(EmailRequest.objects.get().pk)


def children_of(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    return [int(child) for child, parent in map(str.split, listed.splitlines()) if int(parent) == pid]
