"""A message taken apart by readers that share no code with the one who wrote it, and the rules of its lines."""

import base64
import json
import re
import shutil
import subprocess
from datetime import UTC, datetime
from email import message_from_bytes, policy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from emails import mime
from tests.environment import IN_CI

HERE = Path(__file__).parent
DATE = datetime(2026, 11, 25, 9, 30, tzinfo=UTC)
ENCODED_WORD = re.compile(r"=\?utf-8\?([qb])\?([^ ?]+)\?=")
STRUCTURED = ("message-id", "in-reply-to", "references", "return-path", "auto-submitted", "date", "list-")
ORDER = ["from", "to", "cc", "reply-to", "subject", "date", "message-id"]


def message(**fields) -> mime.Message:
    known = {"sender": "Shop <shop@example.com>", "to": ["moss@example.com"], "subject": "Hello", "date": DATE}
    body = {} if {"text", "html", "attachments"} & set(fields) else {"text": "Hello\n"}
    return mime.Message(**{**known, "message_id": "<0190c2aa@example.com>", **body, **fields})


def build(**fields) -> bytes:
    return mime.build(message(**fields))


def head(raw: bytes) -> str:
    return raw.partition(b"\r\n\r\n")[0].decode() + "\r\n"


def line_of(raw: bytes, name: str) -> str:
    """A header as it stands, with its folds."""
    return re.search(rf"^{name}:[^\n]*\n(?:[ \t][^\n]*\n)*", head(raw), re.MULTILINE)[0].removesuffix("\r\n")


def value_of(raw: bytes, name: str) -> str:
    """A header's value unfolded as RFC 5322 §2.2.3 has it, not decoded."""
    return line_of(raw, name).partition(":")[2].replace("\r\n", "").removeprefix(" ")


# Cases


def _attachment(given: dict[str, str]) -> mime.Attachment:
    given = dict(given)
    encoded = given.pop("base64", None)
    content = base64.b64decode(encoded) if encoded is not None else given.pop("content").encode()
    return mime.Attachment(given.pop("filename"), content, **given)


def cases() -> list[dict[str, Any]]:
    found = yaml.safe_load((HERE / "wire_cases.yaml").read_text())
    for case in found:
        fields = case["fields"] = case.get("fields", {})
        fields["headers"] = list(fields.get("headers", {}).items())
        fields["attachments"] = [_attachment(attachment) for attachment in fields.get("attachments", [])]
        if not fields["attachments"] and not {"text", "html"} & set(fields):
            fields["text"] = "Hello\n"
    return found


def each_case():
    return pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in cases()])


# Readers: both give a Reading


class Part:
    """A leaf of the message, as a reader sees it."""

    def __init__(self, kind, parameters, disposition, filename, encoding, content_id, content):
        self.kind, self.parameters, self.disposition, self.filename = kind, parameters, disposition, filename
        self.encoding, self.content_id, self.content = encoding, content_id, content

    @property
    def text(self) -> str:
        return self.content.decode(self.parameters.get("charset", "us-ascii")).replace("\r\n", "\n")

    @property
    def is_body(self) -> bool:
        return self.disposition is None and self.kind in ("text/plain", "text/html")


class Reading:
    def __init__(self, headers, addresses, leaves, shape):
        self.headers: list[tuple[str, str]] = headers
        self.addresses: dict[str, list[tuple[str, str]]] = addresses
        self.leaves: list[Part] = leaves
        self.shape: str = shape

    def header(self, name: str) -> str:
        return next(value for known, value in self.headers if known.lower() == name.lower())

    def body(self, kind: str) -> str | None:
        return next((leaf.text for leaf in self.leaves if leaf.is_body and leaf.kind == kind), None)

    @property
    def attachments(self) -> list[Part]:
        return [leaf for leaf in self.leaves if not leaf.is_body]


class Perl:
    """Debian's Email::MIME and Email::Address::XS, in one process for all messages."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            ["perl", HERE / "reader.pl"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=1 << 16
        )

    def __call__(self, raw: bytes) -> Reading:
        self.process.stdin.write(b"%d\n%s" % (len(raw), raw))
        self.process.stdin.flush()
        found = json.loads(self.process.stdout.readline())
        addresses = {name: [tuple(pair) for pair in listed] for name, listed in found["addresses"].items()}
        leaves: list[Part] = []
        shape = self._walk(found["root"], leaves)
        return Reading(found["headers"], addresses, leaves, shape)

    def _walk(self, part: dict[str, Any], leaves: list[Part]) -> str:
        if part["type"].startswith("multipart/"):
            return _shape(part["type"], [self._walk(inner, leaves) for inner in part["parts"]])
        content = base64.b64decode(part["content"])
        names = ("type", "parameters", "disposition", "filename", "encoding", "content_id")
        leaves.append(Part(*(part[name] for name in names), content))
        return part["type"].partition("/")[2]


@cache
def perl() -> Perl:
    if shutil.which("perl") and not subprocess.run(["perl", "-MEmail::MIME", "-e", ""], capture_output=True).returncode:
        return Perl()
    reason = "NOT READ BY A SECOND PARSER: Email::MIME is missing (on Debian: apt install libemail-mime-perl)."
    pytest.fail(reason) if IN_CI else pytest.skip(reason)


def python(raw: bytes) -> Reading:
    """The standard library's own parser."""
    message = message_from_bytes(raw, policy=policy.default)
    for part in message.walk():
        assert not part.defects
    addresses = {
        name: [(address.display_name, address.addr_spec) for address in message[name].addresses]
        for name in ("from", "to", "cc", "reply-to", "sender")
        if name in message
    }
    leaves: list[Part] = []
    return Reading([(name, str(value)) for name, value in message.items()], addresses, leaves, _walk(message, leaves))


def _walk(part, leaves: list[Part]) -> str:
    kind = part.get_content_type()
    if kind.startswith("multipart/"):
        return _shape(kind, [_walk(inner, leaves) for inner in part.iter_parts()])
    if kind == "message/rfc822":
        content = part.get_payload(0).as_bytes(policy=policy.compat32.clone(linesep="\r\n", max_line_length=0))
    else:
        content = part.get_payload(decode=True)
    leaves.append(
        Part(
            kind,
            dict(part["content-type"].params),
            part.get_content_disposition(),
            part.get_filename(),
            str(part["content-transfer-encoding"]),
            str(part["content-id"]).strip("<>") if "content-id" in part else None,
            content,
        )
    )
    return kind.partition("/")[2]


def _shape(kind: str, parts: list[str]) -> str:
    return f"{kind.partition('/')[2]}({', '.join(parts)})"


# Lines


def check_lines(raw: bytes, smtputf8: bool = False) -> None:
    """What holds for the lines of every message, whatever is in it."""
    assert raw.endswith(b"\r\n")
    assert b"\n" not in raw.replace(b"\r\n", b"") and b"\r" not in raw.replace(b"\r\n", b"")
    assert b"\0" not in raw
    assert smtputf8 or raw.isascii()
    assert all(len(line) <= 998 for line in raw.split(b"\r\n"))
    check_headers(head(raw))
    names = [name.lower() for name in re.findall(r"^([^\s:]+):", head(raw), re.MULTILINE)]
    assert [name for name in names if name in ORDER] == [name for name in ORDER if name in names]
    assert len(names) == len(set(names) | {"bcc"}) - 1
    for part in re.split(rb"\r\n--=_[^\r]*", raw):
        part_head, _, body = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        if not part_head.strip():  # what follows a closing delimiter
            continue
        check_headers(part_head.removesuffix(b"\r\n").decode() + "\r\n")
        if b"Encoding: 7bit" not in part_head and b"multipart/" not in part_head:
            assert all(len(line) <= 76 for line in body.split(b"\r\n"))
        if b"Encoding: quoted-printable" in part_head:
            assert not re.search(rb"^(?:From |\.)|[ \t]\r$", body, re.MULTILINE)


def check_headers(lines: str) -> None:
    for header in re.split(r"\r\n(?![ \t])", lines.removesuffix("\r\n")):
        name, _, value = header.partition(":")
        first, *rest = value.split("\r\n")
        assert first.startswith(" ") or (rest[0].startswith(" =?") and len(name) > 50), "an empty first line"
        for line in [f"{name}:{first}", *rest]:
            assert line.strip() and not line.startswith("  ==")
            content = line.removeprefix(f"{name}:").strip(" \t")
            if len(line.encode()) > 76:
                assert not re.search(r"(?<![ \t]) (?![ \t])", _unquoted(content)), "could be folded"
                assert "=?" not in content
        words = ENCODED_WORD.findall(value)
        assert all(len(word[0]) <= 75 for word in re.finditer(r"=\?[^ \r]*", value))
        assert len(words) == len(re.findall(r"=\?(?!=)", value)) or name.lower().startswith("content-")
        assert not words or not name.lower().startswith(STRUCTURED) or name == "List-Id"
        for encoding, text in words:
            decode_word(encoding, text)
        for word in ENCODED_WORD.finditer(value):
            around = value[word.start() - 1 : word.start()] + value[word.end() : word.end() + 1]
            assert not around.strip(), "encoded words stand between white space"


def _unquoted(content: str) -> str:
    """Without what stands in <>, where a fold would change it."""
    return re.sub(r"<[^<>]*>", "<>", content)


def decode_word(encoding: str, text: str) -> str:
    """One encoded word on its own: strictly, so that a cut character fails."""
    if encoding == "b":
        return base64.b64decode(text, validate=True).decode()
    assert re.fullmatch(r"(?:[A-Za-z0-9!*+/_-]|=[0-9A-F]{2})+", text)
    return re.sub(r"=(..)", lambda match: chr(int(match[1], 16)), text.replace("_", " ")).encode("latin-1").decode()
