"""Attachments: every form in which a client sends them, stored once, downloaded by a link that ends."""

import base64
import email.policy
import hashlib
from datetime import datetime, timedelta

import pytest
from django.core import signing
from django.utils import timezone

from emails.drafts import MAX_BYTES
from emails.models import ApiKey, Attachment, Blob, EmailRequest
from tests.test_api import FULL, ids, refuse

pytestmark = [pytest.mark.stores, pytest.mark.django_db]

CONTENT = bytes(range(256)) * 3
BASE64 = base64.b64encode(CONTENT).decode()


def send(api, *attachments: dict, **fields) -> EmailRequest:
    answer = api.post("/emails", {**FULL, "attachments": list(attachments), **fields})
    assert answer.status_code == 200, answer.content
    return EmailRequest.objects.get(pk=answer.json()["id"])


def parts(email_: EmailRequest) -> list[tuple[str, str, bytes]]:
    """Type, name and content of what is attached, read back from the bytes on the wire."""
    message = email.message_from_bytes(email_.raw(), policy=email.policy.default)
    found = [part for part in message.walk() if part.get_filename()]
    return [(part.get_content_type(), part.get_filename(), part.get_payload(decode=True)) for part in found]


@pytest.mark.parametrize(
    "content",
    [
        BASE64,
        "\r\n".join(BASE64[n : n + 76] for n in range(0, len(BASE64), 76)),  # as in a MIME part
        list(CONTENT),
        {"type": "Buffer", "data": list(CONTENT)},
    ],
    ids=["base64", "base64 in lines", "byte values", "Node's Buffer"],
)
def test_the_forms_of_content(api, content):
    assert parts(send(api, {"filename": "a.bin", "content": content})) == [
        ("application/octet-stream", "a.bin", CONTENT)
    ]


@pytest.mark.parametrize("content", ["", [], {"type": "Buffer", "data": []}])
def test_an_empty_file_is_one(api, content):
    assert parts(send(api, {"filename": "a.txt", "content": content})) == [("text/plain", "a.txt", b"")]


@pytest.mark.parametrize("name", ["content_type", "contentType"])
def test_the_type_is_the_callers_else_by_the_name(api, name):
    given, guessed = {"filename": "a.dat", name: "image/png"}, {"filename": "b.pdf", "path": None}
    found = parts(send(api, {**given, "content": BASE64}, {**guessed, "content": BASE64}))
    assert [type for type, _, _ in found] == ["image/png", "application/pdf"]


@pytest.mark.parametrize("name", ["content_id", "contentId", "inline_content_id"])
def test_a_content_id_makes_it_inline(api, name):
    html = '<img src="cid:logo" alt="Logo">'
    raw = send(api, {"filename": "logo.png", "content": BASE64, name: "logo"}, html=html).raw()
    assert b"Content-ID: <logo>" in raw
    assert b"Content-Disposition: inline" in raw


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        ({}, "`filename`"),
        ({"filename": "a"}, "`content` is missing"),
        ({"filename": "a", "content": None}, "`content` is missing"),
        ({"content": "YQ=="}, "`filename`"),
        ({"filename": "", "content": "YQ=="}, "`filename`"),
        ({"filename": 5, "content": "YQ=="}, "`filename`"),
        ({"filename": "a\r\nBcc: x", "content": "YQ=="}, "`filename`"),
        ({"filename": "a\0", "content": "YQ=="}, "`filename`"),
        ({"filename": "x" * 1001, "content": "YQ=="}, "`filename`"),
        ({"filename": "a", "content": "YQ"}, "base64"),
        ({"filename": "a", "content": "!!!!"}, "base64"),
        ({"filename": "a", "content": "YQ==é"}, "base64"),
        ({"filename": "a", "content": 5}, "`content`"),
        ({"filename": "a", "content": [256]}, "0 to 255"),
        ({"filename": "a", "content": [-1]}, "0 to 255"),
        ({"filename": "a", "content": [1.5]}, "0 to 255"),
        ({"filename": "a", "content": ["a"]}, "0 to 255"),
        ({"filename": "a", "content": {"0": 1}}, "`content`"),
        ({"filename": "a", "content": [True]}, "0 to 255"),
        ({"filename": "a", "content": {"type": "Buffer", "data": "YQ=="}}, "`data`"),
        ({"filename": "a", "content": {"type": "Buffer"}}, "`data`"),
        ({"filename": "a", "content": {"type": "Other", "data": [1]}}, "`content`"),
        ({"filename": "a", "content": "YQ==", "content_type": "pdf"}, "media type"),
        ({"filename": "a", "content": "YQ==", "content_type": "a/b\r\nX: y"}, "`content_type`"),
        ({"filename": "a", "content": "YQ==", "content_type": 5}, "`content_type`"),
        ({"filename": "a", "content": "YQ==", "content_type": False}, "`content_type`"),
        ({"filename": "a", "content": "YQ==", "content_id": []}, "`content_id`"),
        ({"filename": "a", "content": "YQ==", "content_id": "a\nb"}, "`content_id`"),
        ({"filename": "a", "content": "YQ==", "content_id": "x" * 256}, "`content_id`"),
        ({"filename": "a", "path": "http://169.254.169.254/"}, "fetches no URLs"),
        ({"path": "https://example.com/a.pdf"}, "fetches no URLs"),
        ({"filename": "a", "content": "YQ==", "size": 1}, "`size` is not supported"),
    ],
)
def test_what_is_no_attachment_is_refused_by_its_place(api, item, problem):
    good = {"filename": "a.txt", "content": "YQ=="}
    message = refuse(api.post("/emails", {**FULL, "attachments": [good, item]}), 422, "invalid_attachment")
    assert "`attachments` field, item 1 (counted from 0)" in message
    assert problem in message
    assert not EmailRequest.objects.exists() and not Blob.objects.exists()


def test_a_hundred_attachments_are_enough(api):
    item = {"filename": "a.txt", "content": "YQ=="}
    assert len(parts(send(api, *[item] * 100))) == 100
    message = refuse(api.post("/emails", {**FULL, "attachments": [item] * 101}), 422, "invalid_attachment")
    assert "101" in message


def test_forty_megabytes_after_base64_for_the_whole_message(api):
    """Counted as the wire has it, whatever form the content came in."""
    fields = {**FULL, "html": None, "text": "x" * 4}
    room = (MAX_BYTES - 4) // 4 * 3
    whole = {"filename": "a.bin", "content": base64.b64encode(bytes(room)).decode()}
    message = refuse(api.post("/emails", {**fields, "text": "x" * 5, "attachments": [whole]}), 422, "validation_error")
    assert f"{MAX_BYTES + 1} bytes" in message and f"at most {MAX_BYTES}" in message
    answer = api.post("/emails", {**fields, "attachments": [whole]})
    assert answer.status_code == 200
    assert Attachment.objects.get().size == room


# Stored once


def test_a_content_is_stored_once_however_many_messages_carry_it(api):
    shared, own = {"filename": "terms.pdf", "content": BASE64}, {"filename": "b.txt"}
    items = [
        {**FULL, "attachments": [shared, {**own, "content": base64.b64encode(b"%d" % (n % 10)).decode()}]}
        for n in range(100)
    ]
    assert api.post("/emails/batch", items).status_code == 200
    send(api, {"filename": "other name.pdf", "content": list(CONTENT)})
    assert Attachment.objects.count() == 201
    assert Blob.objects.count() == 11
    assert bytes(Blob.objects.get(pk=hashlib.sha256(CONTENT).hexdigest()).content) == CONTENT


# Looking and downloading


def test_an_emails_attachments_are_listed_in_their_order(api):
    email = send(
        api,
        {"filename": "Größe.pdf", "content": BASE64},
        {"filename": "logo.png", "content": "YQ==", "content_id": "logo"},
    )
    one, two = api.get(f"/emails/{email.pk}/attachments").json()["data"]
    assert one.pop("download_url").startswith("http://localhost:8000/downloads/")
    assert timezone.now() < datetime.fromisoformat(one.pop("expires_at")) < timezone.now() + timedelta(seconds=3601)
    assert one == {
        "id": str(email.attachments.get(position=0).pk),
        "filename": "Größe.pdf",
        "size": len(CONTENT),
        "content_type": "application/pdf",
        "content_disposition": "attachment",
        "content_id": None,
    }
    assert (two["content_disposition"], two["content_id"]) == ("inline", "logo")
    alone = api.get(f"/emails/{email.pk}/attachments/{two['id']}").json()
    assert alone["object"] == "attachment"
    assert alone["filename"] == "logo.png"


def test_the_list_has_pages(api):
    email = send(api, *({"filename": f"{n}.txt", "content": "YQ=="} for n in range(5)))
    path = f"/emails/{email.pk}/attachments"
    whole = ids(api.get(path))
    assert len(whole) == 5
    assert ids(api.get(f"{path}?limit=2")) == whole[:2]
    assert ids(api.get(f"{path}?limit=2&after={whole[1]}")) == whole[2:4]
    assert ids(api.get(f"{path}?limit=2&before={whole[4]}")) == whole[2:4]
    refuse(api.get(f"{path}?after=x"), 422, "invalid_parameter")


def test_attachments_that_are_not_there(api):
    email, other = send(api, {"filename": "a.txt", "content": "YQ=="}), send(api)
    attachment = email.attachments.get()
    refuse(api.get(f"/emails/{email.pk}/attachments/{email.pk}"), 404, "not_found")
    refuse(api.get(f"/emails/{other.pk}/attachments/{attachment.pk}"), 404, "not_found")
    refuse(api.get(f"/emails/{attachment.pk}/attachments"), 404, "not_found")
    refuse(api.get("/emails/x/attachments/y"), 404, "not_found")
    assert ids(api.get(f"/emails/{other.pk}/attachments")) == []


def link(api, email: EmailRequest) -> str:
    url = api.get(f"/emails/{email.pk}/attachments").json()["data"][0]["download_url"]
    return url.removeprefix("http://localhost:8000")


def test_whoever_has_the_link_gets_the_very_bytes(api, client):
    path = link(api, send(api, {"filename": "Größe <1>.html", "content": BASE64, "content_type": "text/html"}))
    del client.defaults["HTTP_AUTHORIZATION"]
    answer = client.get(path)
    assert answer.content == CONTENT
    assert answer["Content-Type"] == "application/octet-stream"  # nothing that a stranger wrote opens in our name
    assert answer["Content-Disposition"].startswith("attachment; ")
    assert "default-src 'none'" in answer["Content-Security-Policy"]
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert client.head(path).status_code == 200


def test_a_link_ends_and_cannot_be_made_up(api, client, monkeypatch):
    email = send(api, {"filename": "a.txt", "content": "YQ=="})
    path = link(api, email)
    pk = str(email.attachments.get().pk)
    with monkeypatch.context() as clock:
        clock.setattr(signing.time, "time", lambda before=signing.time.time: before() + 3601)
        assert "not any more" in refuse(client.get(path), 404, "not_found")
    for forged in (f"{path}x", path[:-1], f"/downloads/{pk}", "/downloads/x", f"/downloads/{signing.dumps(pk)}"):
        refuse(client.get(forged), 404, "not_found")
    refuse(client.post(path), 405, "method_not_allowed")
    refuse(client.get("/downloads"), 404, "not_found")
    assert client.get(path).status_code == 200


def test_a_key_for_sending_only_may_send_attachments_and_not_list_them(api, client):
    email = send(api, {"filename": "a.txt", "content": "YQ=="})
    token = ApiKey.create("sender", permission="sending_access")[1]
    extra = {"HTTP_AUTHORIZATION": f"Bearer {token}"}
    refuse(client.get(f"/emails/{email.pk}/attachments", **extra), 401, "restricted_api_key")
