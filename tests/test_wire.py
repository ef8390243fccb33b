"""What Mailsite puts on the wire, by rule; docs/wire.md lists the rules with their sources and tests."""

import os
import re
import socket
import tracemalloc
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from emails import mime
from emails.addresses import Address
from emails.mime import Attachment
from tests import wire
from tests.wire import build, check_lines, head, line_of, value_of

ROOT = Path(__file__).parent.parent


def expand(case) -> mime.Message:
    """The case's message; `repeat` writes out what would be long in the file."""
    fields = dict(case["fields"])
    for name, (letter, count) in case.get("repeat", {}).items():
        if name == "content":
            fields["attachments"] = [replace(part, content=letter.encode() * count) for part in fields["attachments"]]
        elif name == "to":
            fields["to"] = [f"{letter * count} <x@example.com>"]
        elif name == "text":
            fields["text"] = letter * count + "\n"
        else:
            fields["headers"] = [(name, letter * count)]
    if case.get("boundary"):
        other = build(text="a", html="b")
        fields["text"] = re.search(r'boundary="(.*)"', head(other))[1] + "\n"
    return wire.message(**fields, smtputf8=case.get("smtputf8", False))


@wire.each_case()
def test_a_case_is_read_back_by_two_parsers(case):
    message = expand(case)
    raw = mime.build(message)
    check_lines(raw, message.smtputf8)
    for text in case.get("wire", []):
        assert text.encode() in raw
    for text in case.get("never", []):
        assert text.encode() not in raw
    for reader, excused in ((wire.perl(), case.get("perl", {})), (wire.python, case.get("python", {}))):
        compare(reader(raw), message, case.get("back", {}), excused, case.get("shape"))


def compare(reading, message, back, excused, shape=None) -> None:
    """Everything that the message says is what the reader found."""

    def address(text: str) -> tuple[str, str]:
        name, _, mailbox = text.removesuffix(">").rpartition("<")
        return name.strip(), mailbox

    expected = {
        "sender": [tuple(back.get("sender", address(message.sender)))],
        "to": [tuple(pair) for pair in back.get("to", map(address, message.to))],
        "cc": [address(text) for text in message.cc],
        "reply_to": [address(text) for text in message.reply_to],
    }
    for field, known in expected.items():
        if field not in excused:
            found = reading.addresses.get({"sender": "from", "reply_to": "reply-to"}.get(field, field), [])
            assert [tuple(pair) for pair in found] == known
    if "subject" not in excused:
        assert reading.header("Subject") == message.subject.strip(" \t")
    assert reading.header("Message-ID") == message.message_id
    for name, value in message.headers:
        if name == "Sender":
            assert [tuple(pair) for pair in reading.addresses["sender"]] == [address(value)]
        elif name not in excused:
            assert reading.header(name) == back.get("headers", {}).get(name, value)
    for kind in ("text", "html"):
        if kind in excused:
            continue
        found = reading.body("text/plain" if kind == "text" else "text/html")
        assert found == (back.get(kind, getattr(message, kind)) or None)
    names = back.get("filenames", [part.filename for part in message.attachments])
    files = zip(names, (part.content for part in message.attachments), strict=True)
    assert sorted((part.filename, part.content) for part in reading.attachments) == sorted(files)
    assert not shape or reading.shape == shape


# Headers


def test_the_customary_order_and_nothing_else():
    raw = build(
        cc=["jen@example.com"], reply_to=["help@example.com"], text="x", html="y", headers=[("X-Campaign", "autumn")]
    )
    names = re.findall(r"^([\w-]+):", head(raw), re.MULTILINE)
    assert names == [
        "From", "To", "Cc", "Reply-To", "Subject", "Date", "Message-ID", "X-Campaign", "MIME-Version", "Content-Type",
    ]  # fmt: skip


def test_no_bcc_and_no_host_name():
    raw = build(text="x", html="y", attachments=[Attachment("a.txt", b"x")])
    assert b"bcc" not in raw.lower()
    assert socket.gethostname().encode() not in raw
    assert socket.getfqdn().encode() not in raw


@pytest.mark.parametrize(
    "name",
    ["From", "to", "Cc", "BCC", "Resent-Bcc", "Subject", "Date", "Message-Id", "MIME-Version", "Content-Type", "content-x"],  # noqa: E501
)  # fmt: skip
def test_headers_of_our_own_are_refused_by_name(name):
    with pytest.raises(ValueError, match=name):
        mime.header(name, "x")


@pytest.mark.parametrize("name", ["", "a b", "a:", "ü", "a\r\nBcc", "\x7f"])
def test_what_is_no_name_of_a_header(name):
    with pytest.raises(ValueError, match="name"):
        mime.header(name, "x")


@pytest.mark.parametrize("value", ["a\r\nBcc: x@example.com", "a\nb", "a\rb", "a\0b"])
def test_line_breaks_and_nul_in_headers_are_refused_by_name(value):
    for name in ("X-Campaign", "List-Unsubscribe", "Sender", "List-Id"):
        with pytest.raises(ValueError, match=name):
            mime.header(name, value)
    for field in ({"subject": value}, {"sender": f"{value} <x@example.com>"}, {"to": [f"{value} <x@example.com>"]}):
        with pytest.raises(ValueError):
            build(**field)


def test_free_text_in_ascii_stays_and_is_folded_at_spaces():
    text = " ".join(f"word{n}" for n in range(60))
    line = line_of(build(subject=text), "Subject")
    assert line.count("\r\n") > 4
    assert line.replace("\r\n", "") == f"Subject: {text}"
    assert all(70 <= len(part) <= 76 for part in line.split("\r\n")[:-1])


def test_encoded_words_are_whole_short_and_stand_alone():
    text = "Grüße aus Köln 📧 " * 20
    words = wire.ENCODED_WORD.findall(line_of(build(subject=text), "Subject"))
    assert len(words) > 5
    assert "".join(wire.decode_word(*word) for word in words) == text.strip()


@pytest.mark.parametrize(
    ("text", "encoding"), [("Zoë", "q"), ("überall", "q"), ("ü", "b"), ("日本", "b"), ("a" * 40 + "日", "q")]
)
def test_the_shorter_of_q_and_b(text, encoding):
    assert f"=?utf-8?{encoding}?" in line_of(build(subject=text), "Subject")


def test_only_what_is_beyond_ascii_is_encoded():
    line = line_of(build(subject="Order 4711: Grüße from Köln and elsewhere"), "Subject")
    assert line == "Subject: Order 4711: =?utf-8?b?R3LDvMOfZSBmcm9tIEvDtmxu?= and elsewhere"


@pytest.mark.parametrize("length", range(1, 130))
def test_encoded_words_at_every_column(length):
    subject = "x" * length + " ü" + "y" * length
    raw = build(subject=subject, headers=[("X-" + "N" * min(length, 74), subject)])
    check_lines(raw)
    assert wire.perl()(raw).header("Subject") == subject
    assert wire.python(raw).header("Subject") == subject


def test_a_subject_without_a_place_to_fold_is_sent_all_the_same():
    for subject in ("x" * 989, "x" * 990, "x" * 998, "y " + "x" * 996, "\t".join("x" * 499)):
        raw = build(subject=subject)
        check_lines(raw)
        assert wire.python(raw).header("Subject") == subject


def test_a_custom_header_without_a_place_to_fold():
    assert mime.header("X-Token", "t" * 989) == f"X-Token: {'t' * 989}\r\n"
    with pytest.raises(ValueError, match="X-Token.*998"):
        mime.header("X-Token", "t" * 990)
    with pytest.raises(ValueError, match="List-Unsubscribe.*998"):
        mime.header("List-Unsubscribe", f"<https://example.com/{'t' * 990}>")


@pytest.mark.parametrize(
    "name", ["List-Unsubscribe", "List-Unsubscribe-Post", "In-Reply-To", "References", "Return-Path"]
)
def test_structured_headers_are_never_encoded(name):
    with pytest.raises(ValueError, match=name):
        mime.header(name, "<https://example.com/ü>")
    assert "=?" not in mime.header(name, "<https://example.com/=?utf-8?q?x?=>").replace("/=?utf-8?q?x?=", "")


def test_structured_headers_are_folded_between_their_tokens():
    ids = [f"<{n}.{'x' * 30}@example.com>" for n in range(5)]
    for blank in (" ", "", "\t", "  "):
        lines = mime.header("References", blank.join(ids)).split("\r\n")
        assert lines == [f"References: {ids[0]}", *(f" {id}" for id in ids[1:]), ""]
    urls = "<https://example.com/a,b c>,<mailto:x@example.com?subject=a,b>"
    assert (
        mime.header("List-Unsubscribe", urls)
        == f"List-Unsubscribe: {urls.replace('>,<', f'>,{chr(13)}{chr(10)} <')}\r\n"
    )


def test_the_date_is_in_the_zone_that_it_is_given_in():
    date = datetime(2026, 7, 1, 9, 30, tzinfo=ZoneInfo("Europe/Berlin"))
    assert value_of(build(date=date), "Date") == "Wed, 01 Jul 2026 09:30:00 +0200"


def test_without_a_date_that_line_alone_is_missing():
    with_date, without = build(), build(date=None)
    assert without == with_date.replace(b"Date: Wed, 25 Nov 2026 09:30:00 +0000\r\n", b"")


# Addresses


def test_names_are_plain_quoted_or_encoded_as_they_need():
    for name, written in [
        ("Moss", "Moss"),
        ("Maurice Moss", "Maurice Moss"),
        ("Moss & Roy's", "Moss & Roy's"),
        ("M. Moss", '"M. Moss"'),
        ("Moss, M", '"Moss, M"'),
        ('a"b\\c', r'"a\"b\\c"'),
        ("a  b", '"a  b"'),
        ("Zoë", "=?utf-8?q?Zo=C3=AB?="),
        ("Zoë, M.", "=?utf-8?b?Wm/DqywgTS4=?="),
        ("=?utf-8?q?x?=", "=?utf-8?b?PT91dGYtOD9xP3g/PQ==?="),
    ]:
        assert value_of(build(to=[str(Address("x@example.com", name))]), "To") == f"{written} <x@example.com>"


def test_a_mailbox_beyond_ascii_is_utf8_only_where_all_take_it():
    alone = build(to=["Zoë <möss@bücher.example>"], smtputf8=True)
    assert value_of(alone, "To") == "=?utf-8?q?Zo=C3=AB?= <möss@xn--bcher-kva.example>"
    among_others = build(to=["Zoë <möss@bücher.example>", "moss@example.com"])
    assert among_others.isascii()
    assert value_of(among_others, "To").endswith("?= :;, moss@example.com")


# Bodies


def test_the_last_line_has_an_end():
    for text in ("a", "a\n", "a\r\n", "a\r"):
        assert build(text=text).endswith(b"\r\n\r\na\r\n")
        assert b"\r\n\r\na\r\n\r\n--=_" in build(text=text, html="x")


def test_nothing_in_it_no_part():
    assert b"multipart" not in build(text="", html="<p>x</p>")
    assert b"multipart" not in build(text="x", html="")
    assert build(text="", html=None).endswith(b"\r\n\r\n\r\n")


def test_a_message_of_bytes_that_no_7bit_line_may_hold():
    for text in ("a\0b", "x" * 999, "From x", "\nFrom x"):
        raw = build(text=text)
        assert b"Content-Transfer-Encoding: quoted-printable" in raw
        check_lines(raw)


def test_quoted_printable_at_every_column():
    for tail in (
        " ",
        "\t",
        "=",
        ".",
        "ü",
        "ü ",
        " \nFrom x",
        "\n." + "." * 80,
        "\nFrom " + "ü" * 30,
        "\nFrom =" + "." * 90,
    ):
        for length in range(60, 90):
            text = "ü" + "x" * length + tail + "\n"
            raw = build(text=text)
            check_lines(raw)
            assert wire.python(raw).body("text/plain") == text


def test_the_same_fields_give_the_same_bytes_and_another_id_another_boundary():
    fields = {"text": "a", "html": "b", "attachments": [Attachment("a.txt", b"x")]}
    assert build(**fields) == build(**fields)
    one, two = (re.findall(rb'boundary="(.*?)"', build(**fields, message_id=f"<{n}@example.com>")) for n in range(2))
    assert len(one) == 2 and not set(one) & set(two)


# Attachments


def test_the_html_finds_its_images_whatever_their_ids():
    ids = [
        "logo",
        "logo@example.com",
        "a b",
        "a&b",
        "ü",
        "50%",
        "a%20b",
        "<x>",
        'q"q',
        "q'q",
        "a/b?c#d",
        "x" * 300,
        "(1)",
    ]
    spellings = {
        "a b": ['"cid:a b"', "'cid:a%20b'"],
        "a&b": ['"cid:a&amp;b"', '"cid:a&b"', '"cid:a%26b"'],
        "ü": ['"cid:ü"', '"cid:%C3%BC"', '"cid:&uuml;"'],
        "50%": ['"cid:50%"', '"cid:50%25"'],
        "<x>": ['"cid:x"'],
        'q"q': ["'cid:q\"q'", '"cid:q&quot;q"'],
        "a/b?c#d": ["cid:a/b?c#d", "'cid:a%2Fb%3Fc%23d'"],
        "(1)": ['"cid:(1)"'],
    }
    for id in ids:
        for spelling in spellings.get(id, [f'"cid:{id}"', f"'CID:{id}'"] if "'" not in id else [f'"cid:{id}"']):
            html = f"<img src={spelling}>"
            raw = build(html=html, attachments=[Attachment("a.png", b"x", content_id=id)])
            check_lines(raw)
            reading = wire.perl()(raw)
            [image] = reading.attachments
            assert (reading.shape, image.disposition) == ("related(html, png)", "inline"), spelling
            assert re.search(r"cid:([^\"'>]+)", reading.body("text/html"), re.I)[1] == image.content_id
    assert b'src="cid:logo"' in build(
        html='<img src="cid:logo">', attachments=[Attachment("a", b"", content_id="logo")]
    )


def test_images_in_a_style_sheet_are_found_and_other_text_is_let_alone():
    html = "<style>p {background: url(cid:logo)} a {background: url('cid:a b')}</style> cid:logo lucid:logo <a name=x>"
    html += '<b style="background: url(&quot;cid:c d&quot;)">'
    attachments = [Attachment("a.png", b"x", content_id="logo"), Attachment("b.png", b"x", content_id="a b")]
    attachments.append(Attachment("c.png", b"x", content_id="c d"))
    reading = wire.perl()(build(html=html, attachments=attachments))
    assert reading.shape == "related(html, png, png, png)"
    assert "url(cid:logo)" in reading.body("text/html") and " cid:logo lucid:logo <a" in reading.body("text/html")
    for image in reading.attachments[1:]:
        assert f"cid:{image.content_id}" in reading.body("text/html")


def test_the_name_in_ascii_for_programs_that_know_no_rfc_2231():
    for name, plain in [
        ("Zoë.pdf", "Zoe.pdf"),
        ("Ärger mit Größe.txt", "Arger mit Gro_e.txt"),
        ("日本.png", "__.png"),
        ('a"b\\c.txt', "c.txt"),
        ("x" * 100 + ".docx", "x" * 55 + ".docx"),
        ("=?utf-8?q?x?=.txt", "_?utf-8?q?x?=.txt"),
    ]:
        raw = build(text="x", attachments=[Attachment(name, b"")])
        assert f'name="{plain}"' in raw.decode()
        assert wire.python(raw).attachments[0].filename == name.rpartition("\\")[2]


def test_the_type_is_the_callers_or_by_the_name():
    for name, given, found in [
        ("a.pdf", None, "application/pdf"),
        ("a.PDF", None, "application/pdf"),
        ("a.tar.gz", None, "application/gzip"),
        ("a.xlsx", None, "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
        ("a.ics", None, "text/calendar"),
        ("a", None, "application/octet-stream"),
        ("a.unheard-of", None, "application/octet-stream"),
        ("a.pdf", "image/png", "image/png"),
        ("a.pdf", "IMAGE/PNG ; name=x", "image/png"),
        ("a.pdf", "nonsense", "application/pdf"),
        ("a.pdf", "a/b/c", "application/pdf"),
        ("a.pdf", "text/plain\r\nBcc: x", "application/pdf"),
    ]:
        raw = build(text="x", attachments=[Attachment(name, b"x", given)])
        check_lines(raw)
        assert wire.python(raw).attachments[0].kind == found


def test_parameters_of_the_type_stay():
    given = """application/x; Profile="a;\\"b"; start-info=ü; name=other; boundary=x"""
    raw = build(text="x", attachments=[Attachment("a.bin", b"x", given)])
    check_lines(raw)
    assert wire.python(raw).attachments[0].parameters == {"profile": 'a;"b', "start-info": "ü", "name": "a.bin"}


def test_an_invitation_may_be_an_attachment_if_its_sender_says_so():
    invite = Attachment("i.ics", b"BEGIN:VCALENDAR", "text/calendar; method=REQUEST", disposition="attachment")
    assert wire.python(build(text="x", attachments=[invite])).shape == "mixed(plain, calendar)"
    assert wire.python(build(attachments=[replace(invite, disposition=None)])).shape == "calendar"


def test_a_copy_of_this_very_message_does_not_end_it():
    attachments = [Attachment("a.txt", b"x")]
    copy = build(text="x", attachments=attachments)
    raw = build(text="x", attachments=[*attachments, Attachment("copy.eml", copy)])
    assert wire.perl()(raw).shape == "mixed(plain, plain, octet-stream)"
    assert wire.perl()(raw).attachments[1].content == copy


def test_a_large_attachment_is_in_memory_once():
    content = os.urandom(25 * 1024 * 1024)
    message = wire.message(text="x", attachments=[Attachment("a.bin", content)])
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    mime.build(message)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak - before < 1.6 * len(content)  # base64 alone makes 1.37 of it


# The page that lists all this


def test_every_test_that_the_page_names_exists():
    page = (ROOT / "docs" / "wire.md").read_text()
    named = set(re.findall(r"`(test_wire\w*)::(\w+)`", page))
    assert len(named) > 30
    for file, test in named:
        assert f"def {test}(" in (ROOT / "tests" / f"{file}.py").read_text(), f"{file}::{test}"
