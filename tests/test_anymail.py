"""A Django project that sends by Anymail's Resend backend, unmodified, to a running Mailsite."""

import base64
import json
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage as Received
from uuid import uuid4

import pytest
from anymail.exceptions import AnymailRequestsAPIError
from anymail.message import AnymailMessage
from django.core.mail import EmailMultiAlternatives, mailers, send_mail

from tests.running import Copy

CONTENT = bytes(range(256)) * 3
PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII=")
BACKEND = "anymail.backends.resend.EmailBackend"


@pytest.fixture(params=["ANYMAIL", "MAILERS"], autouse=True)
def project(request, settings, mailsite: Copy) -> None:
    """The project's settings, in either of Anymail's ways."""
    options = {"api_url": mailsite.url, "api_key": mailsite.key}
    if request.param == "ANYMAIL":
        settings.ANYMAIL = {f"RESEND_{name.upper()}": value for name, value in options.items()}
        options = {}
    settings.MAILERS = {"default": {"BACKEND": BACKEND, "OPTIONS": options}}


@pytest.fixture
def to() -> str:
    return f"{uuid4().hex}@example.com"


def letter(to: str | list[str], **fields) -> AnymailMessage:
    to = [to] if isinstance(to, str) else to
    return AnymailMessage(**{"subject": "Hello", "body": "Hello", "from_email": "shop@example.com", "to": to, **fields})


def look(mailsite: Copy, message: AnymailMessage) -> dict:
    return mailsite.api.get(f"/emails/{message.anymail_status.message_id}").raise_for_status().json()


def test_djangos_own_functions(mailsite, to):
    sent = send_mail("Hello", "Text", "Shop <shop@example.com>", [to], html_message="<p>HTML</p>", using="default")
    assert sent == 1
    [mail] = mailsite.arrived(to)
    assert (mail["From"], mail["To"], mail["Subject"]) == ("Shop <shop@example.com>", to, "Hello")
    assert mail.get_body(["plain"]).get_content().strip() == "Text"
    assert mail.get_body(["html"]).get_content().strip() == "<p>HTML</p>"


def test_several_messages_on_one_connection(mailsite, to):
    assert mailers["default"].send_messages([letter(to, subject=str(n)) for n in range(3)]) == 3
    assert {mail["Subject"] for mail in mailsite.arrived(to, 3)} == {"0", "1", "2"}


def test_everybody_and_everything_in_a_message(mailsite, to):
    message = letter(
        [f"Móss <{to}>", f"two-{to}"],
        from_email='"Barber, Jen" <jen@example.com>',
        cc=[f"cc-{to}"],
        bcc=[f"bcc-{to}"],
        reply_to=["Help <help@example.com>", "desk@example.com"],
        headers={"X-Order": 1001, "List-Unsubscribe": "<https://example.com/stop>"},
        subject="Ünïted",
        metadata={"order": 1001, "note": "Grüße, " * 40, "nested": {"a": [1, 2]}},
        tags=["welcome", "Größe 1"],
    )
    message.attach_alternative("<p>HTML</p>", "text/html")
    assert message.send(using="default") == 1

    status = message.anymail_status
    assert status.status == {"queued"}
    everybody = {to, f"two-{to}", f"cc-{to}", f"bcc-{to}"}
    assert {address: (each.status, each.message_id) for address, each in status.recipients.items()} == {
        address: ("queued", status.message_id) for address in everybody
    }
    [mail] = mailsite.arrived(to)
    assert mail["From"] == '"Barber, Jen" <jen@example.com>'
    assert mail["To"] == f"Móss <{to}>, two-{to}"
    assert (mail["Cc"], mail["Bcc"]) == (f"cc-{to}", None)
    assert mail["Reply-To"] == "Help <help@example.com>, desk@example.com"
    assert (mail["X-Order"], mail["List-Unsubscribe"]) == ("1001", "<https://example.com/stop>")
    assert json.loads(mail["X-Metadata"]) == message.metadata
    assert json.loads(mail["X-Tags"]) == message.tags
    for address in everybody:
        assert [mail["Subject"] for mail in mailsite.arrived(address)] == ["Ünïted"]
    assert look(mailsite, message)["message_id"] == mail["Message-ID"]


def test_metadata_comes_through_however_long(mailsite, to):
    message = letter(to, metadata={"token": "x" * 900, "list": list(range(1500))})
    message.send(using="default")
    [mail] = mailsite.arrived(to)
    assert json.loads(mail["X-Metadata"]) == message.metadata


def test_attachments_and_inline_images(mailsite, to):
    message = letter(to)
    cid = message.attach_inline_image(PNG, "logo.png")
    message.attach_alternative(f'<img src="cid:{cid}" alt="">', "text/html")
    message.attach("bill №7.pdf", CONTENT, "application/pdf")
    message.attach("table.csv", "a;b\nü;1\n", "text/csv")
    message.attach("card.ics", "BEGIN:VCALENDAR\r\nEND:VCALENDAR\r\n", "text/calendar")
    inner = EmailMultiAlternatives("Inner", "Inside", "inner@example.com", ["moss@example.com"])
    message.attach("inner.eml", inner, "message/rfc822")
    message.attach(None, b"GIF89a", "image/gif")  # without a name: Anymail makes one
    message.send(using="default")
    [mail] = mailsite.arrived(to)
    files = {part.get_filename(): part for part in mail.walk() if part.get_filename()}
    assert files.keys() == {"logo.png", "bill №7.pdf", "table.csv", "card.ics", "inner.eml", "attachment.gif"}
    assert files["logo.png"]["Content-ID"] == f"<{cid}>"
    assert files["logo.png"].get_content_disposition() == "inline"
    assert files["bill №7.pdf"].get_payload(decode=True) == CONTENT
    assert files["bill №7.pdf"].get_content_type() == "application/pdf"
    assert files["table.csv"].get_content().replace("\r", "") == "a;b\nü;1\n"
    assert "Subject: Inner" in str(files["inner.eml"])


def test_a_batch_with_data_for_each_recipient(mailsite, to):
    """Merge data makes one message for each recipient; metadata and headers are its own."""
    other = f"other-{to}"
    message = letter(
        [f"Moss <{to}>", f"Roy <{other}>"],
        cc=[f"cc-{to}"],
        headers={"X-Campaign": "spring", "X-Lang": "en"},
        metadata={"campaign": 7},
        merge_data={},
        merge_metadata={to: {"customer": 1}, other: {"customer": 2}},
        merge_headers={to: {"X-Lang": "fr", "List-Unsubscribe": "<https://example.com/1>"}},
    )
    message.attach("a.bin", CONTENT, "application/octet-stream")
    message.send(using="default")

    status = message.anymail_status
    ids = [status.recipients[address].message_id for address in (to, other)]
    assert len(set(ids)) == 2 and status.status == {"queued"}
    [first], [second] = mailsite.arrived(to), mailsite.arrived(other)
    assert (first["To"], second["To"]) == (f"Moss <{to}>", f"Roy <{other}>")
    assert (first["X-Lang"], second["X-Lang"]) == ("fr", "en")
    assert (first["List-Unsubscribe"], second["List-Unsubscribe"]) == ("<https://example.com/1>", None)
    assert json.loads(first["X-Metadata"]) == {"campaign": 7, "customer": 1}
    assert json.loads(second["X-Metadata"]) == {"campaign": 7, "customer": 2}
    for id, mail in zip(ids, (first, second), strict=True):
        assert mailsite.api.get(f"/emails/{id}").json()["message_id"] == mail["Message-ID"]
        assert file_of(mail) == CONTENT and mail["X-Campaign"] == "spring"
    assert len(mailsite.arrived(f"cc-{to}", 2)) == 2  # as Anymail's documentation warns


def file_of(mail: Received) -> bytes:
    [part] = mail.iter_attachments()
    return part.get_content()


def test_one_recipient_in_a_batch(mailsite, to):
    message = letter(to, merge_data={})
    message.send(using="default")
    assert look(mailsite, message)["to"] == [to]


@pytest.mark.parametrize(
    "moment",
    [
        lambda now: now + timedelta(hours=1),
        lambda now: (now + timedelta(hours=1)).timestamp(),
        lambda now: (now + timedelta(hours=1)).replace(tzinfo=None),  # in the project's time zone
        lambda now: "in 1 hour",
    ],
    ids=["aware", "timestamp", "naive", "phrase"],
)
def test_a_message_at_a_time(mailsite, to, moment):
    now = datetime.now(UTC)
    message = letter(to, send_at=moment(now))
    message.send(using="default")
    email = look(mailsite, message)
    assert email["last_event"] == "scheduled"
    assert abs(datetime.fromisoformat(email["scheduled_at"]) - now - timedelta(hours=1)) < timedelta(seconds=30)
    mailsite.api.post(f"/emails/{email['id']}/cancel")


def test_what_only_the_api_knows_goes_by_esp_extra(mailsite, to):
    message = letter(to, esp_extra={"tags": [{"name": "kind", "value": "order"}], "priority": "high"})
    message.send(using="default")
    assert look(mailsite, message)["tags"] == [{"name": "kind", "value": "order"}]


def test_html_alone(mailsite, to):
    message = letter(to, body="<p>Hello</p>")
    message.content_subtype = "html"
    message.send(using="default")
    [mail] = mailsite.arrived(to)
    assert mail.get_body(["html"]).get_content().strip() == "<p>Hello</p>"


def test_defaults_of_the_project(mailsite, settings, to):
    settings.ANYMAIL = {**getattr(settings, "ANYMAIL", {}), "SEND_DEFAULTS": {"tags": ["all"], "metadata": {"app": 1}}}
    message = letter(to, tags=["one"], metadata={"order": 2})
    message.send(using="default")
    [mail] = mailsite.arrived(to)
    assert json.loads(mail["X-Tags"]) == ["all", "one"]
    assert json.loads(mail["X-Metadata"]) == {"app": 1, "order": 2}


def test_refusals_are_anymails_errors_and_say_what_is_wrong(mailsite, settings, to):
    with pytest.raises(AnymailRequestsAPIError, match="no place to fold|at most") as caught:
        letter(to, headers={"X-Long": "x" * 20_000}).send(using="default")
    assert caught.value.status_code == 422
    assert caught.value.response.json()["name"] == "validation_error"
    with pytest.raises(AnymailRequestsAPIError, match="at most 50"):
        letter([f"{n}-{to}" for n in range(51)]).send(using="default")
    settings.MAILERS = {"default": {"BACKEND": BACKEND, "OPTIONS": {"api_url": mailsite.url, "api_key": "re_unknown"}}}
    with pytest.raises(AnymailRequestsAPIError, match="invalid_api_key") as caught:
        letter(to).send(using="default")
    assert caught.value.status_code == 403
