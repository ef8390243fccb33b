"""A message's fields become bytes that any relay takes and any reader reads back."""

from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.header import decode_header, make_header
from email.message import EmailMessage

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from emails import mime

FIELDS = {
    "sender": "Shop <shop@example.com>",
    "to": ["Moss <moss@example.com>"],
    "cc": [],
    "reply_to": [],
    "subject": "Your order",
    "html": None,
    "text": "Thank you",
    "message_id": "<0123456789abcdef@example.com>",
    "date": datetime(2026, 11, 25, 9, 30, tzinfo=UTC),
}


def build(**fields) -> bytes:
    return mime.build(mime.Message(**{**FIELDS, **fields}))


def read(raw: bytes) -> EmailMessage:
    message = message_from_bytes(raw, policy=policy.default)
    assert not message.defects
    return message


def content(part: EmailMessage) -> str:
    return part.get_content().replace("\r\n", "\n").removesuffix("\n")


def addresses(message: EmailMessage, name: str) -> list[tuple[str, str]]:
    return [(address.display_name, address.addr_spec) for address in message[name].addresses]


def test_the_headers_that_a_mail_has():
    message = read(build(cc=["jen@example.com"], reply_to=["help@example.com"]))
    assert {name: str(value) for name, value in message.items()} == {
        "From": "Shop <shop@example.com>",
        "To": "Moss <moss@example.com>",
        "Cc": "jen@example.com",
        "Reply-To": "help@example.com",
        "Subject": "Your order",
        "Date": "Wed, 25 Nov 2026 09:30:00 +0000",
        "Message-ID": "<0123456789abcdef@example.com>",
        "MIME-Version": "1.0",
        "Content-Type": 'text/plain; charset="utf-8"',
        "Content-Transfer-Encoding": "7bit",
    }


def test_what_is_not_there_has_no_header():
    message = read(build(date=None))
    assert not {"Cc", "Reply-To", "Date", "Bcc"} & set(message.keys())


def test_the_same_fields_give_the_same_bytes():
    assert build(html="<p>ü</p>", text=None) == build(html="<p>ü</p>", text=None)


def test_a_text():
    message = read(build(text="Line one\nLine two\n"))
    assert message.get_content_type() == "text/plain"
    assert content(message) == "Line one\nLine two"


def test_html():
    message = read(build(html="<p>Grüße</p>", text=None))
    assert message.get_content_type() == "text/html"
    assert content(message) == "<p>Grüße</p>"


def test_both_the_text_first():
    message = read(build(html="<p>Thank you</p>"))
    assert message.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]
    assert content(message.get_body(("plain",))) == "Thank you"
    assert content(message.get_body(("html",))) == "<p>Thank you</p>"


@pytest.mark.parametrize(
    ("address", "name", "mailbox"),
    [
        ("moss@example.com", "", "moss@example.com"),
        ("John Smith, Jr <j@example.com>", "John Smith, Jr", "j@example.com"),
        ('Maurice "Moss" <moss@example.com>', 'Maurice "Moss"', "moss@example.com"),
        ("Moss (IT) <moss@example.com>", "Moss (IT)", "moss@example.com"),
        ("Zoë, once more <zoe@example.com>", "Zoë, once more", "zoe@example.com"),
        ("Zoë <zoe@bücher.example>", "Zoë", "zoe@xn--bcher-kva.example"),
        ('"a b"@example.com', "", '"a b"@example.com'),
        ("x" * 300 + " <x@example.com>", "x" * 300, "x@example.com"),
        ("ü" * 15 + " <x@example.com>", "ü" * 15, "x@example.com"),
    ],
)
def test_one_string_is_one_address(address, name, mailbox):
    message = read(build(sender=address, to=[address], cc=["jen@example.com", address], reply_to=[address]))
    for field in ("From", "To", "Reply-To"):
        assert addresses(message, field) == [(name, mailbox)]
    assert addresses(message, "Cc") == [("", "jen@example.com"), (name, mailbox)]


def test_fifty_recipients():
    crowd = [f"Moss {n} <moss{n}@example.com>" for n in range(50)]
    assert [f"{name} <{mailbox}>" for name, mailbox in addresses(read(build(to=crowd)), "To")] == crowd


def test_a_long_name_with_a_comma_is_one_address():
    name = "Smith, " * 20 + "Sons"
    message = read(build(to=[f"{name} <smith@example.com>"]))
    assert addresses(message, "To") == [(name, "smith@example.com")]


def test_a_long_name_beyond_ascii_comes_back_whole():
    # Python's newer reader puts spaces between the encoded words of a name; its older one is right.
    message = message_from_bytes(build(to=[f"{'ü' * 300} <x@example.com>"]))
    assert str(make_header(decode_header(message["To"]))) == "ü" * 300 + " <x@example.com>"


def test_long_addresses_do_not_end_the_headers():
    """What follows an empty line is body: headers after it are lost, or somebody else's."""
    long = f"{'l' * 64}@{'.'.join(['d' * 60] * 3)}.example"
    names = ["\\" * 320, "\\" * 320]
    headers, _, _ = build(to=[f'"{name}" <{long}>' for name in names]).partition(b"\r\n\r\n")
    assert b"Subject:" in headers


printable = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=100)


@hypothesis_settings(deadline=None, max_examples=100)
@given(text=printable.filter(bool), html=printable)
def test_a_body_comes_back_as_it_went_out(text, html):
    message = read(build(text=text, html=f"<p>{html}</p>"))
    assert content(message.get_body(("plain",))) == text
    assert content(message.get_body(("html",))) == f"<p>{html}</p>"


@hypothesis_settings(deadline=None, max_examples=100)
@given(subject=printable, text=st.text(st.characters(exclude_categories=["Cs"]), max_size=2000))
def test_the_wire_gets_seven_bits_and_lines_that_any_relay_takes(subject, text):
    raw = build(subject=subject, text=text, html=text, to=["Zoë <zoe@bücher.example>"])
    assert raw.isascii()
    assert b"\n" not in raw.replace(b"\r\n", b"")
    assert b"\r" not in raw.replace(b"\r\n", b"")
    assert max(len(line) for line in raw.split(b"\r\n")) <= 998


def test_a_line_of_any_length():
    message = read(build(text="x" * 5000, html="<p>" + "ü" * 5000))
    assert content(message.get_body(("plain",))) == "x" * 5000
    assert content(message.get_body(("html",))) == "<p>" + "ü" * 5000
