"""Resend's official clients, unmodified, against a running Mailsite: every call that they offer for what we have.

Each test runs for the client for Python, for its asynchronous half, and for the client for Node.
"""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from email.message import EmailMessage
from uuid import UUID, uuid4

import httpx
import pytest
from resend import exceptions

from tests.clients import drivers
from tests.clients.drivers import AsyncPython, Node, Python, Refused
from tests.conftest import missing
from tests.environment import wait_until
from tests.running import Copy

CONTENT = bytes(range(256)) * 3
PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII=")
NOBODY = "01900000-0000-7000-8000-000000000000"

Client = Python | Node


@pytest.fixture(scope="session")
def node(mailsite: Copy, pytestconfig: pytest.Config) -> Iterator[Node]:
    if why_not := drivers.why_not_node():
        missing(pytestconfig, f"NOT TESTED WITH RESEND'S CLIENT FOR NODE: {why_not}")
    client = Node(mailsite.url, mailsite.key)
    yield client
    client.close()


@pytest.fixture(params=["python", "asynchronous python", "node"])
def resend(request, mailsite: Copy) -> Client:
    """One of the clients, with a key that may do everything."""
    if request.param == "node":
        client = request.getfixturevalue("node")
        client.key = mailsite.key
        return client
    return {"python": Python, "asynchronous python": AsyncPython}[request.param](mailsite.url, mailsite.key)


@pytest.fixture
def to() -> str:
    """An address of this test's own."""
    return f"{uuid4().hex}@example.com"


def letter(to: str | list[str], **fields) -> dict:
    return {"from": "Shop <shop@example.com>", "to": to, "subject": "Hello", "text": "Hello, Moss.", **fields}


def refused(resend: Client, status: int, name: str, call: str, *words, **options) -> Refused:
    with pytest.raises(Refused) as caught:
        resend(call, *words, **options)
    assert (caught.value.status, caught.value.name) == (status, name), caught.value
    return caught.value


def settled(resend: Client, id: str) -> str:
    """The email's last event, once it is one that stays."""
    wait_until(lambda: resend("emails.get", id)["last_event"] != "queued", f"email {id} is still queued")
    return resend("emails.get", id)["last_event"]


def attachments(mail: EmailMessage) -> dict[str, bytes]:
    return {part.get_filename(): part.get_content() for part in mail.iter_attachments()}


# Sending


def test_all_that_an_email_can_have(resend, mailsite, to):
    id = resend(
        "emails.send",
        {
            "from": "Jen Barber <jen@example.com>",
            "to": [to, f"Moß <cc-{to}>"],
            "cc": f"carbon-{to}",
            "bcc": [f"blind-{to}"],
            "reply_to": ["Help <help@example.com>", "desk@example.com"],
            "subject": "Ünïted — 1 of 2",
            "html": '<h1>Hello</h1><img src="cid:logo" alt="Our logo">',
            "text": "Hello ✓",
            "headers": {"X-Order": "1001", "List-Unsubscribe": "<https://example.com/stop?a=1>"},
            "tags": [{"name": "kind", "value": "order-1"}, {"name": "shop", "value": "7"}],
            "attachments": [
                {"filename": "bill №7.bin", "content": CONTENT},
                {"filename": "logo.png", "content": PNG, "content_type": "image/png", "content_id": "logo"},
            ],
        },
    )["id"]
    assert UUID(id)

    [mail] = mailsite.arrived(to)
    assert mail["From"] == "Jen Barber <jen@example.com>"
    assert mail["To"] == f"{to}, Moß <cc-{to}>"
    assert (mail["Cc"], mail["Bcc"]) == (f"carbon-{to}", None)
    assert mail["Reply-To"] == "Help <help@example.com>, desk@example.com"
    assert (mail["Subject"], mail["X-Order"]) == ("Ünïted — 1 of 2", "1001")
    assert mail["List-Unsubscribe"] == "<https://example.com/stop?a=1>"
    assert mail.get_body(["html"]).get_content().startswith("<h1>Hello</h1>")
    assert mail.get_body(["plain"]).get_content().strip() == "Hello ✓"
    parts = {part.get_filename(): part for part in mail.walk() if part.get_filename()}
    assert parts["bill №7.bin"].get_payload(decode=True) == CONTENT
    assert parts["bill №7.bin"].get_content_disposition() == "attachment"
    logo = parts["logo.png"]
    assert (logo["Content-ID"], logo.get_content_type(), logo.get_payload(decode=True)) == ("<logo>", "image/png", PNG)
    assert logo.get_content_disposition() == "inline"
    assert [mail["Message-ID"] for mail in mailsite.arrived(f"blind-{to}")] == [mail["Message-ID"]]

    email = resend("emails.get", id)
    assert (email["object"], email["id"], email["message_id"]) == ("email", id, mail["Message-ID"])
    assert (email["from"], email["to"]) == ("Jen Barber <jen@example.com>", [to, f"Moß <cc-{to}>"])
    assert (email["cc"], email["bcc"]) == ([f"carbon-{to}"], [f"blind-{to}"])
    assert email["reply_to"] == ["Help <help@example.com>", "desk@example.com"]
    assert (email["subject"], email["text"]) == ("Ünïted — 1 of 2", "Hello ✓")
    assert email["html"].startswith("<h1>")
    assert email["tags"] == [{"name": "kind", "value": "order-1"}, {"name": "shop", "value": "7"}]
    assert email["scheduled_at"] is None
    assert datetime.fromisoformat(email["created_at"]).tzinfo
    assert settled(resend, id) == "sent"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(CONTENT, id="the client's own bytes"),
        pytest.param(base64.b64encode(CONTENT).decode(), id="base64"),
        pytest.param(list(CONTENT), id="a list of byte values"),
        pytest.param({"type": "Buffer", "data": list(CONTENT)}, id="a Buffer as JSON"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_an_attachment_in_each_form(resend, mailsite, to, content):
    resend("emails.send", letter(to, attachments=[{"filename": "a.bin", "content": content}]))
    [mail] = mailsite.arrived(to)
    assert attachments(mail) == {"a.bin": CONTENT if content else b""}


@pytest.mark.parametrize("kind", ["Uint8Array", "ArrayBuffer"])
def test_nodes_other_kinds_of_bytes(node, mailsite, to, kind):
    node.key = mailsite.key
    file = {"filename": "a.bin", "content": drivers.as_buffer(CONTENT, kind)}
    node("emails.send", letter(to, attachments=[file]))
    [mail] = mailsite.arrived(to)
    assert attachments(mail) == {"a.bin": CONTENT}


def test_pythons_other_name_of_a_content_id(mailsite, to):
    image = {"filename": "logo.png", "content": PNG, "inline_content_id": "logo"}
    html = '<img src="cid:logo" alt="">'
    Python(mailsite.url, mailsite.key)("emails.send", letter(to, html=html, attachments=[image]))
    [mail] = mailsite.arrived(to)
    [part] = [part for part in mail.walk() if part["Content-ID"]]
    assert (part["Content-ID"], part.get_content_type()) == ("<logo>", "image/png")


def test_attachments_are_listed_and_downloaded(resend, to):
    files = [
        {"filename": "a.pdf", "content": CONTENT},
        {"filename": "b.txt", "content": b"Hello", "content_type": "text/plain", "content_id": "b"},
    ]
    id = resend("emails.send", letter(to, attachments=files))["id"]
    listed = resend("emails.attachments.list", id)
    assert (listed["object"], listed["has_more"]) == ("list", False)
    one, two = listed["data"]
    assert (one["filename"], one["size"], one["content_type"]) == ("a.pdf", len(CONTENT), "application/pdf")
    assert (one["content_disposition"], two["content_disposition"]) == ("attachment", "inline")
    assert (two["content_id"], two["content_type"]) == ("b", "text/plain")
    again = resend("emails.attachments.get", id, one["id"])
    assert (again["object"], again["id"], again["filename"]) == ("attachment", one["id"], "a.pdf")
    assert datetime.fromisoformat(again["expires_at"]) > datetime.now(UTC)
    assert httpx.get(again["download_url"]).content == CONTENT  # without a key: the link is signed
    refused(resend, 404, "not_found", "emails.attachments.get", id, NOBODY)


def test_the_list_of_attachments_has_pages(resend, to):
    files = [{"filename": f"{n}.txt", "content": b"x"} for n in range(3)]
    id = resend("emails.send", letter(to, attachments=files))["id"]
    first = resend("emails.attachments.list", id, {"limit": 2})
    assert ([part["filename"] for part in first["data"]], first["has_more"]) == (["0.txt", "1.txt"], True)
    rest = resend("emails.attachments.list", id, {"limit": 2, "after": first["data"][-1]["id"]})
    assert ([part["filename"] for part in rest["data"]], rest["has_more"]) == (["2.txt"], False)
    before = resend("emails.attachments.list", id, {"before": rest["data"][0]["id"]})
    assert [part["filename"] for part in before["data"]] == ["0.txt", "1.txt"]


def test_emails_are_listed_page_by_page(resend, to):
    ids = [resend("emails.send", letter(to, subject=str(n)))["id"] for n in range(3)]
    first = resend("emails.list", {"limit": 2})
    assert (first["object"], first["has_more"]) == ("list", True)
    assert [email["id"] for email in first["data"]] == [ids[2], ids[1]]
    assert (first["data"][0]["to"], first["data"][0]["subject"]) == ([to], "2")
    assert resend("emails.list", {"limit": 1, "after": ids[1]})["data"][0]["id"] == ids[0]
    assert [email["id"] for email in resend("emails.list", {"before": ids[0]})["data"]] == [ids[2], ids[1]]
    assert len(resend("emails.list")["data"]) <= 20


# At a time


@pytest.mark.parametrize(
    "time",
    [
        lambda now: (now + timedelta(hours=2)).isoformat(),
        lambda now: (now + timedelta(hours=2)).astimezone(timezone(timedelta(hours=5, minutes=45))).isoformat(),
        lambda now: f"{now + timedelta(hours=2):%Y-%m-%dT%H:%M:%S.123Z}",  # as JavaScript's toISOString
        lambda now: "in 2 hours",
        lambda now: "in 120 min",
    ],
    ids=["UTC", "an offset", "JavaScript", "a phrase", "a short phrase"],
)
def test_an_email_waits_for_its_time_is_moved_and_taken_back(resend, to, time):
    now = datetime.now(UTC)
    id = resend("emails.send", letter(to, scheduled_at=time(now)))["id"]
    email = resend("emails.get", id)
    assert email["last_event"] == "scheduled"
    expected = now + timedelta(hours=2)
    assert abs(datetime.fromisoformat(email["scheduled_at"]) - expected) < timedelta(seconds=30)

    moved = {"id": id, "scheduled_at": (now + timedelta(days=3)).isoformat()}
    assert resend("emails.update", moved) == {"object": "email", "id": id}
    assert resend("emails.get", id)["scheduled_at"] == moved["scheduled_at"]

    assert resend("emails.cancel", id) == {"object": "email", "id": id}
    assert resend("emails.get", id)["last_event"] == "canceled"
    assert "canceled" in refused(resend, 422, "validation_error", "emails.cancel", id).message
    assert "canceled" in refused(resend, 422, "validation_error", "emails.update", moved).message


def test_what_is_due_in_a_second_goes_out_then(resend, mailsite, to):
    moment = datetime.now(UTC) + timedelta(seconds=1)
    resend("emails.send", letter(to, scheduled_at=moment.isoformat()))
    [mail] = mailsite.arrived(to)
    assert mail["Date"].datetime >= moment.replace(microsecond=0)


@pytest.mark.parametrize("time", ["whenever", "2020-01-01T00:00:00Z", "in 31 days", "31/12/2026"])
def test_a_time_that_can_not_be(resend, to, time):
    assert (
        "scheduled_at" in refused(resend, 422, "validation_error", "emails.send", letter(to, scheduled_at=time)).message
    )


def test_what_is_sent_can_not_be_taken_back(resend, to):
    id = resend("emails.send", letter(to))["id"]
    assert settled(resend, id) == "sent"
    assert "sent" in refused(resend, 422, "validation_error", "emails.cancel", id).message


# Batches


def test_a_batch(resend, mailsite, to):
    emails = [
        letter(to, subject=str(n), attachments=[{"filename": "a.bin", "content": CONTENT}], tags=[]) for n in range(3)
    ]
    answer = resend("batch.send", emails)
    assert answer.keys() == {"data"}
    assert [resend("emails.get", item["id"])["subject"] for item in answer["data"]] == ["0", "1", "2"]
    assert {mail["Subject"] for mail in mailsite.arrived(to, 3)} == {"0", "1", "2"}
    assert all(attachments(mail) == {"a.bin": CONTENT} for mail in mailsite.arrived(to, 3))


def test_a_strict_batch_is_all_or_nothing(resend, to):
    last = resend("emails.send", letter(to))["id"]
    for options in ({}, {"batch_validation": "strict"}):
        emails = [letter(to), letter("moss"), letter(to)]
        error = refused(resend, 422, "validation_error", "batch.send", emails, **options)
        assert "moss" in error.message and "1" in error.message
    assert resend("emails.list", {"limit": 1})["data"][0]["id"] == last


def test_a_permissive_batch_sends_the_good_ones_and_tells_about_the_others(resend, mailsite, to):
    emails = [letter(to), letter("moss"), {"to": to}, letter(to)]
    answer = resend("batch.send", emails, batch_validation="permissive")
    assert len(answer["data"]) == 2
    assert [error["index"] for error in answer["errors"]] == [1, 2]
    assert "moss" in answer["errors"][0]["message"] and "from" in answer["errors"][1]["message"]
    assert len(mailsite.arrived(to, 2)) == 2
    assert resend("batch.send", [letter(to)], batch_validation="permissive")["errors"] == []


def test_a_batch_at_a_time(resend, to):
    emails = [letter(to, scheduled_at="in 1 hour")] * 2
    for item in resend("batch.send", emails)["data"]:
        assert resend("emails.get", item["id"])["last_event"] == "scheduled"
        resend("emails.cancel", item["id"])


# The same request again


def test_the_same_request_again_sends_nothing_new(resend, mailsite, to):
    key = f"order {to}"
    first = resend("emails.send", letter(to), idempotency_key=key)
    assert "idempotent-replayed" not in resend.headers
    assert resend("emails.send", letter(to), idempotency_key=key) == first
    assert resend.headers["idempotent-replayed"] == "true"
    changed = letter(to, subject="Changed")
    refused(resend, 409, "invalid_idempotent_request", "emails.send", changed, idempotency_key=key)
    refused(resend, 400, "invalid_idempotency_key", "emails.send", letter(to), idempotency_key="x" * 257)
    resend("emails.send", letter(to, subject="Last"))
    assert sorted(mail["Subject"] for mail in mailsite.arrived(to, 2)) == ["Hello", "Last"]


def test_the_same_batch_again_sends_nothing_new(resend, mailsite, to):
    emails = [letter(to, subject=str(n)) for n in range(2)]
    first = resend("batch.send", emails, idempotency_key=to)
    assert resend("batch.send", emails, idempotency_key=to) == first
    assert resend.headers["idempotent-replayed"] == "true"
    refused(resend, 409, "invalid_idempotent_request", "batch.send", emails[:1], idempotency_key=to)


# Keys


def test_a_key_is_made_listed_renamed_used_and_revoked(resend, to):
    key = resend("api_keys.create", {"name": "shop"})
    assert key.keys() == {"id", "token"}
    [listed] = [item for item in resend("api_keys.list", {"limit": 100})["data"] if item["id"] == key["id"]]
    assert (listed["name"], listed["last_used_at"]) == ("shop", None)
    assert datetime.fromisoformat(listed["created_at"]).tzinfo
    assert key["token"] not in json.dumps(resend("api_keys.list"))

    assert resend("api_keys.update", {"id": key["id"], "name": "bakery"}) == {"object": "api_key", "id": key["id"]}
    everything, resend.key = resend.key, key["token"]
    assert resend("emails.send", letter(to))["id"]
    resend.key = everything
    [listed] = [item for item in resend("api_keys.list", {"limit": 100})["data"] if item["id"] == key["id"]]
    assert listed["name"] == "bakery" and listed["last_used_at"]

    resend("api_keys.remove", key["id"])
    refused(resend, 404, "not_found", "api_keys.remove", key["id"])
    resend.key = key["token"]
    refused(resend, 403, "invalid_api_key", "emails.send", letter(to))


def test_a_key_for_sending_only_sends_and_does_nothing_else(resend, to):
    resend.key = resend("api_keys.create", {"name": "shop", "permission": "sending_access"})["token"]
    id = resend("emails.send", letter(to))["id"]
    resend("batch.send", [letter(to)])
    for call, *words in (
        ("emails.get", id),
        ("emails.list",),
        ("emails.cancel", id),
        ("api_keys.list",),
        ("suppressions.add", {"email": to}),
    ):
        refused(resend, 401, "restricted_api_key", call, *words)


# The request log


def test_the_request_log_is_listed_and_looked_at(resend, to):
    id = resend("emails.send", letter(to))["id"]
    resend("emails.get", id)
    found = []

    def logged() -> bool:
        found[:] = [row for row in resend("logs.list", {"limit": 100})["data"] if row["endpoint"] == f"/emails/{id}"]
        return bool(found)

    wait_until(logged, "the request did not appear in the log")
    row = resend("logs.get", found[0]["id"])
    assert (row["object"], row["method"], row["response_status"]) == ("log", "GET", 200)
    assert row["user_agent"].startswith("resend-") and row["request_body"] is None and row["response_body"] is None


# Suppressions


def test_an_address_is_suppressed_and_released(resend, to):
    added = resend("suppressions.add", {"email": to.upper()})
    assert (added["object"], resend("suppressions.add", {"email": to})["id"]) == ("suppression", added["id"])
    for name in (to, added["id"]):
        row = resend("suppressions.get", name)
        assert (row["object"], row["id"], row["email"], row["origin"]) == ("suppression", added["id"], to, "manual")
        assert row["source_id"] is None and datetime.fromisoformat(row["created_at"]).tzinfo
    listed = resend("suppressions.list", {"limit": 1, "origin": "manual"})
    assert [row["id"] for row in listed["data"]] == [added["id"]]
    assert added["id"] not in json.dumps(resend("suppressions.list", {"origin": "bounce"}))

    id = resend("emails.send", letter(to))["id"]
    assert settled(resend, id) == "suppressed"

    assert resend("suppressions.remove", to) == {"object": "suppression", "id": added["id"], "deleted": True}
    refused(resend, 404, "not_found", "suppressions.get", to)
    refused(resend, 404, "not_found", "suppressions.remove", added["id"])
    assert settled(resend, resend("emails.send", letter(to))["id"]) == "sent"


def test_addresses_are_suppressed_and_released_together(resend, to):
    addresses = [to, f"also-{to}"]
    added = resend("suppressions.batch.add", {"emails": [*addresses, to.upper()]})["data"]
    assert {row["id"] for row in added} == {resend("suppressions.get", address)["id"] for address in addresses}
    assert len(added) == 2  # one that was named twice is there once
    removed = resend("suppressions.batch.remove", {"emails": [to, f"never-{to}"]})["data"]
    assert removed == [{"object": "suppression", "id": added[0]["id"], "deleted": True}]
    assert len(resend("suppressions.batch.remove", {"ids": [row["id"] for row in added]})["data"]) == 1


# What can go wrong


@pytest.mark.parametrize(
    ("fields", "name", "sentence", "error"),
    [
        ({"from": None}, "missing_required_field", "from", exceptions.MissingRequiredFieldsError),
        ({"to": []}, "missing_required_field", "to", exceptions.MissingRequiredFieldsError),
        ({"subject": None}, "missing_required_field", "subject", exceptions.MissingRequiredFieldsError),
        ({"text": None}, "missing_required_field", "html", exceptions.MissingRequiredFieldsError),
        ({"from": "nobody"}, "invalid_from_address", "nobody", exceptions.ResendError),
        ({"to": "moss"}, "validation_error", "moss", exceptions.ValidationError),
        ({"to": ["a@example.com"] * 51}, "validation_error", "50", exceptions.ValidationError),
        ({"cc": 7}, "validation_error", "cc", exceptions.ValidationError),
        ({"tags": [{"name": "ü", "value": "x"}]}, "validation_error", "tag", exceptions.ValidationError),
        ({"headers": {"Subject": "x"}}, "validation_error", "Subject", exceptions.ValidationError),
        ({"headers": {"X-A": "a\r\nBcc: b@example.com"}}, "validation_error", "X-A", exceptions.ValidationError),
        ({"attachments": [{"content": "aGk="}]}, "invalid_attachment", "filename", exceptions.ResendError),
        ({"attachments": [{"filename": "a", "content": "?"}]}, "invalid_attachment", "base64", exceptions.ResendError),
        ({"attachments": [{"filename": "a", "path": "http://localhost/"}]}, "invalid_attachment", "path",
         exceptions.ResendError),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_email_is_told_by_name(resend, to, fields, name, sentence, error):
    refusal = refused(resend, 422, name, "emails.send", letter(to) | fields)
    assert sentence in refusal.message
    assert isinstance(resend, Node) or type(refusal.error) is error


def test_without_a_key_nothing_is_done(resend, to):
    kinds = [("re_123456789", 403, "invalid_api_key", exceptions.InvalidApiKeyError)]
    if not isinstance(resend, AsyncPython):  # whose HTTP library sends no such header
        kinds.append((" ", 401, "missing_api_key", exceptions.MissingApiKeyError))
    for resend.key, status, name, error in kinds:
        for call, word in (("emails.send", letter(to)), ("emails.get", NOBODY), ("batch.send", [letter(to)])):
            refusal = refused(resend, status, name, call, word)
            assert isinstance(resend, Node) or type(refusal.error) is error


def test_what_is_not_there(resend):
    for call, *words in (
        ("emails.get", NOBODY),
        ("emails.get", "nothing"),
        ("emails.cancel", NOBODY),
        ("emails.update", {"id": NOBODY, "scheduled_at": "in 1 hour"}),
        ("emails.attachments.list", NOBODY),
        ("api_keys.remove", NOBODY),
        ("suppressions.get", "nobody@example.com"),
    ):
        refusal = refused(resend, 404, "not_found", call, *words)
        assert isinstance(resend, Node) or type(refusal.error) is exceptions.ResendError


@pytest.mark.parametrize("page", [{"limit": 0}, {"limit": 101}, {"after": "x"}, {"after": NOBODY, "before": NOBODY}])
def test_pages_that_do_not_exist(resend, page):
    refused(resend, 422, "invalid_parameter", "emails.list", page)


def test_batches_that_can_not_be(resend, to):
    for emails in ([], [letter(to)] * 101):
        assert "1 to 100" in refused(resend, 422, "validation_error", "batch.send", emails).message
    refused(resend, 422, "invalid_parameter", "batch.send", [letter(to)], batch_validation="lenient")


def test_too_much_for_one_email(resend, to):
    large = {"filename": "large.bin", "content": bytes(31 * 1024 * 1024)}
    if isinstance(resend, Python):
        large["content"] = base64.b64encode(large["content"]).decode()
    refused(resend, 422, "validation_error", "emails.send", letter(to, attachments=[large]))


def test_a_server_that_is_away(mailsite, to):
    error = refused(Python("http://localhost:1", mailsite.key), 500, "HttpClientError", "emails.send", letter(to))
    assert type(error.error) is exceptions.ResendError


def test_too_many_requests_in_a_second(resend):
    resend.key = resend("api_keys.create", {"name": "shop", "rate_limit": 2})["token"]
    with pytest.raises(Refused) as caught:
        for _ in range(1000):  # some seconds, each of which begins at its first request
            resend("emails.list")
            assert resend.headers["ratelimit-limit"] == "2"
    refusal = caught.value
    assert (refusal.status, refusal.name) == (429, "rate_limit_exceeded")
    assert refusal.headers["retry-after"] == "1"
    assert isinstance(resend, Node) or type(refusal.error) is exceptions.RateLimitError


def test_too_many_emails_in_a_day(resend, to):
    resend.key = resend("api_keys.create", {"name": "shop", "daily_quota": 2})["token"]
    first = resend("emails.send", letter(to), idempotency_key=to)
    refused(resend, 429, "daily_quota_exceeded", "batch.send", [letter(to)] * 2)
    resend("emails.send", letter(to))
    refusal = refused(resend, 429, "daily_quota_exceeded", "emails.send", letter(to))
    assert 0 < int(refusal.headers["retry-after"]) <= 86400
    assert isinstance(resend, Node) or type(refusal.error) is exceptions.RateLimitError
    assert resend("emails.send", letter(to), idempotency_key=to) == first  # nothing new, so nothing to count


def test_without_a_limit_nothing_is_said_of_one(resend):
    resend("emails.list")
    assert not [name for name in resend.headers if "limit" in name.lower()]
    assert resend.headers["request-id"]


# What we don't have


@pytest.mark.filterwarnings("ignore:Audiences is deprecated")
@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("contacts.list", []),
        ("contacts.create", [{"email": "moss@example.com"}]),
        ("contact_properties.list", []),
        ("audiences.list", []),
        ("segments.list", []),
        ("segments.create", [{"name": "x"}]),
        ("broadcasts.list", []),
        ("broadcasts.create", [{"segment_id": "x", "from": "a@example.com", "subject": "x", "html": "x"}]),
        ("topics.list", []),
        ("automations.list", []),
        ("events.list", []),
        ("inboxes.list", []),
        ("usage.get", []),
        ("emails.receiving.list", []),
        ("emails.share", ["x"]),
    ],
)
def test_what_is_not_ours_to_do(resend, call, words):
    assert "Mailsite sends transactional email" in refused(resend, 404, "not_found", call, *words).message


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("webhooks.list", []),
        ("webhooks.create", [{"endpoint": "https://example.com/", "events": ["email.sent"]}]),
        ("webhooks.remove", ["x"]),
        ("templates.list", []),
        ("templates.create", [{"name": "x", "html": "x"}]),
        ("templates.get", ["x"]),
        ("domains.list", []),
        ("domains.create", [{"name": "example.com"}]),
        ("domains.verify", ["x"]),
        ("emails.metrics", []),
    ],
)
def test_what_is_not_there_yet(resend, call, words):
    assert "yet" in refused(resend, 404, "not_found", call, *words).message


def test_an_email_by_a_template_is_not_there_yet(resend, to):
    fields = {"text": None, "template": {"id": "welcome", "variables": {"NAME": "Moss"}}}
    assert "template" in refused(resend, 422, "validation_error", "emails.send", letter(to) | fields).message


# As their users have them


def test_the_environment_alone_moves_a_python_program_here(mailsite, to):
    """An application moves by changing one URL."""
    program = f"import resend; print(resend.Emails.send({letter(to)!r})['id'])"
    environment = {**os.environ, "RESEND_API_URL": mailsite.url, "RESEND_API_KEY": mailsite.key}
    id = subprocess.check_output([sys.executable, "-c", program], env=environment, text=True).strip()
    [mail] = mailsite.arrived(to)
    assert UUID(id).hex in mail["Message-ID"]
