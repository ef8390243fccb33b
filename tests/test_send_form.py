"""The form's attachments and time, and what a message's page says of them."""

import re
from datetime import UTC, datetime, timedelta
from html import unescape
from urllib.parse import unquote
from zoneinfo import ZoneInfo

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from emails import login
from emails.drafts import MAX_BYTES
from emails.models import Blob, EmailRequest
from tests.test_pages import LETTER

pytestmark = pytest.mark.django_db

CONTENT = bytes(range(256))
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def member(client) -> Client:
    client.force_login(login.local_administrator())
    client.defaults["HTTP_ACCEPT"] = "text/html"
    return client


def file(name: str, content: bytes = CONTENT, kind: str = "application/octet-stream") -> SimpleUploadedFile:
    return SimpleUploadedFile(name, content, kind)


def send(member: Client, **fields):
    return member.post("/send", LETTER | fields)


def box(response, field: str) -> str:
    """What stands in a field's box."""
    return unescape(re.search(rf'<div class="field {field}[ \w]*">(.*?)</div>', response.text, re.DOTALL)[1])


# Attachments


def test_several_files_are_attached(member):
    response = send(member, attachments=[file("bill №7.bin"), file("a.txt", b"Hello", "text/plain"), file("b.bin")])
    email = EmailRequest.objects.get()
    assert response["Location"] == f"/messages/{email.pk}"
    stored = email.attachments.order_by("position")
    assert [(row.filename, row.size) for row in stored] == [("bill №7.bin", 256), ("a.txt", 5), ("b.bin", 256)]
    assert stored[1].content_type == "text/plain"
    assert [bytes(row.blob.content) for row in stored] == [CONTENT, b"Hello", CONTENT]
    assert Blob.objects.count() == 2  # one content, kept once


def test_no_file_is_no_attachment(member):
    send(member, attachments="")
    assert EmailRequest.objects.get().content.attachments == 0


def test_an_empty_file_is_one(member):
    send(member, attachments=file("empty.txt", b""))
    assert EmailRequest.objects.get().attachments.get().size == 0


def test_files_that_are_too_large_together(member):
    half = bytes(MAX_BYTES * 3 // 8 + 2)
    response = send(member, attachments=[file("a.bin", half), file("b.bin", half)])
    assert not EmailRequest.objects.exists()
    assert f"at most {MAX_BYTES} are allowed" in box(response, "attachments")
    assert "a.bin (15.0\xa0MB), b.bin (15.0\xa0MB)" in box(response, "attachments")


def test_a_file_that_is_no_attachment(member):
    response = send(member, attachments=file("a.bin", kind="nonsense"))
    assert "is not a media type" in box(response, "attachments")
    assert 'aria-invalid="true"' in box(response, "attachments")


def test_files_must_be_chosen_again_and_the_page_says_so(member):
    response = send(member, to="moss", attachments=[file("<a>.txt"), file("b.txt")])
    assert "is not a valid email address" in box(response, "to")
    shown = box(response, "attachments")
    assert "Choose the files again" in shown and "<a>.txt (256\xa0bytes), b.txt (256\xa0bytes)" in shown
    assert "<a>.txt" not in response.text
    assert "Choose the files again" not in send(member, to="moss").text
    assert "Choose the files again" not in member.get("/send").text


# A time


def local(moment: datetime, zone: str) -> str:
    """As `<input type="datetime-local">` sends it."""
    return f"{moment.astimezone(ZoneInfo(zone)):%Y-%m-%dT%H:%M}"


@pytest.mark.parametrize("zone", ["Asia/Kathmandu", "America/New_York", "UTC"])
def test_a_time_is_meant_in_the_browsers_zone(member, zone):
    moment = datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(days=2)
    send(member, scheduled_at=local(moment, zone), time_zone=zone)
    email = EmailRequest.objects.get()
    assert (email.state, email.scheduled_at, email.due_at) == ("scheduled", moment, moment)


def test_without_javascript_a_time_is_meant_in_the_servers_zone(member, settings):
    settings.TIME_ZONE = "Europe/Berlin"
    moment = datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(days=2)
    assert "Europe/Berlin" in box(member.get("/send"), "scheduled_at")
    send(member, scheduled_at=local(moment, "Europe/Berlin"), time_zone="")
    assert EmailRequest.objects.get().scheduled_at == moment


def test_no_time_is_now(member):
    send(member, scheduled_at="", time_zone="Europe/Berlin")
    assert EmailRequest.objects.get().state == "queued"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"scheduled_at": "2020-01-01T09:00"}, "is in the past"),
        ({"scheduled_at": local(datetime.now(UTC) + timedelta(days=31), "UTC")}, "more than 30 days ahead"),
        ({"scheduled_at": "whenever"}, "can't be read"),
        ({"scheduled_at": "2030-01-01T09:00", "time_zone": "Middle/Earth"}, "'Middle/Earth' is not known here"),
        ({"scheduled_at": "2030-01-01T09:00", "time_zone": "../../etc/passwd"}, "is not known here"),
        ({"scheduled_at": "2030-01-01T09:00", "time_zone": "Europe"}, "is not known here"),
        ({"scheduled_at": "2030-01-01T09:00", "time_zone": "x" * 10_000}, "is not known here"),
    ],
)
def test_a_time_that_can_not_be_is_told_beside_its_field(member, fields, sentence):
    response = send(member, **fields)
    assert not EmailRequest.objects.exists()
    assert sentence in box(response, "scheduled_at")
    assert f'value="{fields["scheduled_at"]}"' in box(response, "scheduled_at")


# A message's page


def test_the_page_of_a_scheduled_message_says_when(member, submit, settings):
    settings.TIME_ZONE = "Asia/Kathmandu"
    moment = datetime.now(UTC) + timedelta(days=3)
    email = submit(scheduled_at=moment.isoformat())
    page = member.get(f"/messages/{email.pk}").text
    there = moment.astimezone(ZoneInfo("Asia/Kathmandu"))
    assert "Scheduled for" in page
    assert f"{there.day} {there:%B %Y, %H:%M}</time>" in page and "+0545" in page
    assert "Scheduled for" not in member.get(f"/messages/{submit().pk}").text


def attach(submit, **fields) -> EmailRequest:
    return submit(attachments=[{"filename": "bill №7.html", "content": list(b"<script>alert(1)</script>"), **fields}])


def test_the_page_shows_attachments_and_they_are_downloaded(member, submit):
    email = attach(submit)
    page = member.get(f"/messages/{email.pk}").text
    href = re.search(r'<a href="([^"]*)" download>bill №7.html</a> <span class="muted">25\xa0bytes</span>', page)[1]
    response = member.get(href)
    assert response.content == b"<script>alert(1)</script>"
    assert response["Content-Type"] == "application/octet-stream"
    assert response["Content-Disposition"].startswith("attachment; filename")
    assert "bill №7.html" in unquote(response["Content-Disposition"])
    assert response["Content-Security-Policy"].startswith("sandbox")
    assert member.get(f"/messages/{email.pk}/attachments/1").status_code == 404
    assert member.get(f"/messages/{submit().pk}/attachments/0").status_code == 404
    assert "attachments" not in member.get(f"/messages/{submit().pk}").text


def test_strangers_download_nothing(client, submit):
    email = attach(submit)
    assert client.get(f"/messages/{email.pk}/attachments/0").status_code == 302


def test_inline_pictures_are_shown_in_the_mail(member, submit):
    image = {"filename": "logo.png", "content": list(PNG), "content_id": "logo"}
    email = submit(html='<img src="cid:logo" alt="">', attachments=[image])
    assert "inline" in member.get(f"/messages/{email.pk}").text
    assert 'src="data:image/png;base64,' in member.get(f"/messages/{email.pk}/html").text


def test_a_large_mail_is_shown_all_the_same(member, submit):
    email = submit(html="<p>Small</p>", text="print", attachments=[{"filename": "a.bin", "content": bytes(9 * 2**20)}])
    page = member.get(f"/messages/{email.pk}").text
    assert '<pre class="wrap">print' in page and "can't be taken apart" not in page and "9.0\xa0MB" in page
    assert member.get(f"/messages/{email.pk}/html").text.strip() == "<p>Small</p>"
