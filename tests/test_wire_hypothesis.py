"""Any text as subject, name, body, file name or header goes out and comes back the same, through two parsers."""

import re

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from emails import mime
from emails.addresses import Address
from emails.mime import Attachment
from tests import wire
from tests.wire import build, check_lines

# What is accepted: no halves of surrogate pairs and no NUL anywhere, no line breaks in headers.
any_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=300)
line = st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"])
one_line = st.text(line | st.sampled_from(' \t=?_"\\,;:<>()@.'), max_size=200)
words = st.lists(
    st.text(line, max_size=30) | st.sampled_from(["=?utf-8?q?x?=", "x" * 80, "ü", "日本語", "😀"]), max_size=30
)
header_text = one_line | words.map(" ".join)
names = st.text(line | st.sampled_from('"\\,()<>@ '), max_size=120).map(str.strip)
file_names = st.text(st.characters(exclude_categories=["Cs"]), max_size=150)
contents = st.binary(max_size=300) | st.text(st.sampled_from("a\r\n.ü "), max_size=50).map(str.encode)
quick = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])


def readers():
    return wire.perl(), wire.python


def lines_of(text: str) -> str:
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text if text.endswith("\n") else text + "\n"


def is_read_by_python(text: str) -> bool:
    """python/cpython#81663 and its like: what Python's own reader makes of encoded words in the names of mailboxes.

    It puts blanks between those of one name, and narrows the wide space in them.
    """
    return text.isascii() and "=?" not in text


@quick
@given(header_text)
def test_any_subject_comes_back(text):
    raw = build(subject=text)
    check_lines(raw)
    for reader in readers():
        assert reader(raw).header("Subject") == text.strip(" \t")


@quick
@given(st.from_regex(r"X-[A-Za-z0-9-]{1,70}", fullmatch=True), header_text)
def test_any_header_of_the_senders_comes_back_or_is_refused(name, text):
    try:
        raw = build(headers=[(name, text)])
    except ValueError as error:
        assert name in str(error) and max(map(len, text.split())) > 900 - len(name)
        return
    check_lines(raw)
    for reader in readers():
        assert reader(raw).header(name).strip(" ") == text.strip(" \t")


@quick
@given(names, st.sampled_from(["a@example.com", '"a b"@example.com', "x" * 64 + "@" + "d" * 60 + ".example"]))
def test_any_name_comes_back(name, mailbox):
    address = str(Address(mailbox, name))
    raw = build(sender=address, to=[address, "moss@example.com", address], cc=[address])
    check_lines(raw)
    for reader in readers():
        if reader is wire.python and not is_read_by_python(name):
            continue
        found = reader(raw).addresses
        assert found["from"] == found["cc"] == [(name, mailbox)]
        assert found["to"] == [(name, mailbox), ("", "moss@example.com"), (name, mailbox)]


@quick
@given(any_text, any_text)
def test_any_text_and_html_come_back(text, html):
    assume(text and html)
    raw = build(text=text, html=html)
    check_lines(raw)
    for reader in readers():
        reading = reader(raw)
        assert (reading.body("text/plain"), reading.body("text/html")) == (lines_of(text), lines_of(html))


@quick
@given(
    st.lists(st.sampled_from(["\n", "\r", "\r\n", " ", "\t", ".", "From ", "=", "ü", "x" * 70, "x" * 990]), max_size=60)
)
def test_texts_of_what_is_troublesome_come_back(pieces):
    text = "".join(pieces) or "x"
    raw = build(text=text)
    check_lines(raw)
    for reader in readers():
        assert reader(raw).body("text/plain") == lines_of(text)


@quick
@given(st.lists(st.tuples(file_names, contents), min_size=1, max_size=4))
def test_any_file_comes_back(files):
    raw = build(text="x", attachments=[Attachment(name, content) for name, content in files])
    check_lines(raw)
    for reader in readers():
        found = [(part.filename, part.content) for part in reader(raw).attachments]
        assert found == [(mime._file_name(name, mime._media_type(Attachment(name, b""))[0]), c) for name, c in files]


@quick
@given(file_names)
def test_a_file_name_has_no_folder_and_nothing_unseen(name):
    clean = mime._file_name(name, "text/plain")
    assert clean and not re.search(r"[/\\\x00-\x1f\x7f-\x9f\u202a-\u202e]", clean)
    last = re.split(r"[/\\]", name)[-1]
    if last.isprintable() and last.strip().strip("."):
        assert clean == last.strip()


@quick
@given(
    contents, st.sampled_from(["message/rfc822", "message/delivery-status", "multipart/mixed", "text/plain", "text/x"])
)
def test_any_bytes_of_any_type_come_back(content, kind):
    raw = build(text="x", attachments=[Attachment("a.eml", content, kind)])
    check_lines(raw)
    assert [part.content for part in wire.perl()(raw).attachments] == [content]


@quick
@given(
    st.text(line, min_size=1, max_size=60).map(str.strip).filter(bool),
    st.sampled_from(['<img src="cid:{}">', "<img src='cid:{}'>"]),
)
def test_any_content_id_finds_its_image(id, tag):
    assume(not set("\"'&<>%") & set(id))
    raw = build(html=tag.format(id), attachments=[Attachment("a.png", b"x", content_id=id)])
    check_lines(raw)
    reading = wire.perl()(raw)
    assert reading.shape == "related(html, png)"
    assert re.search(r"cid:([^\"']+)", reading.body("text/html"))[1] == reading.attachments[0].content_id


@quick
@given(st.text(max_size=200), st.text(max_size=40))
def test_whatever_is_given_lines_are_lines(text, name):
    """Also what no door lets in, and what is in no reader's power: built, or refused with a sentence."""
    try:
        message = wire.message(
            subject=text, sender=f"{name} <a@example.com>", to=[text or "x"], text=text or "x", html=name,
            headers=[("X-Text", text), ("List-Unsubscribe", name), ("List-Id", text), ("Sender", text)],
            attachments=[Attachment(text, b"x", name, text)],
        )  # fmt: skip
        raw = mime.build(message)
    except ValueError as error:
        assert str(error)
    else:
        check_lines(raw)
