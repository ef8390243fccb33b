"""A message's fields → the bytes on the wire: one pure function, `build`. No database, no settings, no clock.

docs/wire.md lists the rules that hold for what comes out, their sources and their tests.
"""

import io
import mimetypes
import re
import unicodedata
from binascii import b2a_base64, b2a_qp
from codecs import iterdecode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from hashlib import blake2s
from html import unescape
from typing import NamedTuple
from urllib.parse import quote, unquote

from emails.addresses import ascii_domain, split


@dataclass(frozen=True)
class Attachment:
    filename: str
    content: bytes
    content_type: str | None = None  # guessed from the name
    content_id: str | None = None  # what the HTML names after "cid:"
    disposition: str | None = None  # "inline" for what the HTML shows, else "attachment"


@dataclass(frozen=True)
class Message:
    """What a message says. Addresses are `a@b` or `Name <a@b>`, one in each string; `message_id` has its <>.

    Without `date` there is no Date line yet. `smtputf8` says that whoever is to get the message has to be
    reached by SMTPUTF8 anyway, so that a mailbox beyond ASCII may stand in its headers as it is (RFC 6532).
    """

    sender: str
    to: Sequence[str]
    subject: str
    message_id: str
    text: str | None = None
    html: str | None = None
    cc: Sequence[str] = ()
    reply_to: Sequence[str] = ()
    headers: Sequence[tuple[str, str]] = ()
    attachments: Sequence[Attachment] = ()
    date: datetime | None = None
    smtputf8: bool = False


def build(message: Message) -> bytes:
    """The message with CRLF line ends, in 7 bits but for mailboxes in a message with `smtputf8`; no `Bcc`.

    Raises ValueError for a header that can't be written, with its name.
    """
    body = _body(message)
    wire = io.BytesIO()  # grows in place and gives its buffer away: a large message is in memory once
    wire.write(("".join(header_lines(message)) + body.headers + "\r\n").encode())
    wire.writelines(body.chunks)
    return wire.getvalue()


# Headers

WIDTH = 76  # of a line that can be folded
LONGEST = 998  # of any line (RFC 5322 §2.1.1)

# Written from the message's fields, as Content-… are; each of the others' values has a form of its own.
_OURS = {"from", "to", "cc", "bcc", "resent-bcc", "subject", "date", "message-id", "mime-version"}
_ADDRESS = {"sender", "disposition-notification-to", "return-receipt-to", "errors-to", "resent-from", "resent-to"}
_STRUCTURED = {
    *("in-reply-to", "references", "original-message-id", "resent-message-id", "resent-date", "return-path"),
    *("auto-submitted", "x-auto-response-suppress", "precedence", "importance", "priority", "x-priority"),
    *("feedback-id", "archived-at"),
}  # and List-…

_HEADER_NAME = re.compile(r"[!-9;-~]+")
_BREAKING = re.compile(r"[\0\r\n]")
_SINGLE_SPACE = re.compile(r"(?<![ \t]) (?![ \t])")
_TOKEN = re.compile(r'(?:<[^<>]*>|"(?:[^"\\]|\\.)*"|[^\s<"]|[<"])+?(?:,|(?=\s|$|<))')
_ATOMS = re.compile(r"[\w!#$%&'*+/=?^`{|}~-]+(?: [\w!#$%&'*+/=?^`{|}~-]+)*", re.ASCII)
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_Q_UNSAFE = re.compile(r"[^A-Za-z0-9 !*+/-]")  # RFC 2047 §5 (3): what may stand in a name may stand anywhere


def header_lines(message: Message) -> list[str]:
    """The message's headers in their order, each with its line ends; those of its body (Content-…) come after."""
    lines = [
        _addresses("From", [message.sender], message.smtputf8),
        _addresses("To", message.to, message.smtputf8),
        _addresses("Cc", message.cc, message.smtputf8),
        _addresses("Reply-To", message.reply_to, message.smtputf8),
        _folded("Subject", _free_text("Subject", message.subject)),
        f"Date: {format_datetime(message.date)}\r\n" if message.date else "",
        f"Message-ID: {message.message_id}\r\n",
        *(header(name, value) for name, value in message.headers),
        "MIME-Version: 1.0\r\n",
    ]
    return [line for line in lines if line]


def header(name: str, value: str) -> str:
    """One of the sender's own headers. Raises ValueError, a sentence with its name, if it can't be written."""
    known = name.lower()
    if not _HEADER_NAME.fullmatch(name):
        raise ValueError(f"{name[:80]!r} can't be the name of a header.")
    if known in _OURS or known.startswith("content-"):
        raise ValueError(f"The header `{name}` is written by the server: it can't be given.")
    if known in _ADDRESS or (known == "list-id" and not value.isascii()):
        return _addresses(name, [value])
    if known in _STRUCTURED or known.startswith("list-"):
        if not (value.isascii() and value.replace("\t", " ").isprintable()):
            raise ValueError(f"The header `{name}` may hold only printable ASCII characters.")
        return _folded(name, [f" {token}" for token in _TOKEN.findall(value)])
    return _folded(name, _free_text(name, value))


def _folded(name: str, tokens: Sequence[str]) -> str:
    """The header with line breaks between its tokens, each of which begins with its white space.

    Never right after the name, which is legal but read as an empty value by some; but for an encoded word
    there may be no other way.
    """
    lines = [f"{name}:"]
    for token in tokens or [" "]:
        fits = len(lines[-1]) + len(token if token.isascii() else token.encode()) <= WIDTH
        if fits or (lines[-1] == f"{name}:" and not token.startswith(" =?")):
            lines[-1] += token
        else:
            lines.append(token)
    if len(max(lines, key=len)) > LONGEST:
        raise ValueError(f"The header `{name}` has no place to fold in a line of more than {LONGEST} characters.")
    return "\r\n".join(lines) + "\r\n"


def _is_plain(text: str) -> bool:
    """Whether the text can stand in a header as it is, and isn't taken for an encoded word."""
    return text.isascii() and text.replace("\t", " ").isprintable() and "=?" not in text


def _free_text(name: str, text: str) -> list[str]:
    """RFC 2047: words in ASCII stay; from the first to the last of the others all is encoded.

    Words end at single spaces only: where white space is wider, some readers lose it at a fold.
    """
    if _BREAKING.search(text):
        raise ValueError(f"The header `{name}` holds a line break or a NUL character.")
    words = _SINGLE_SPACE.split(text.strip(" \t"))
    longest = LONGEST - len("Subject: ") if name == "Subject" else 1 << 30  # our own header must be writable

    def is_odd(word: str) -> bool:
        return not _is_plain(word) or (len(word) >= WIDTH and (len(word) > longest or len(word.split()) > 1))

    if odd := [n for n, word in enumerate(words) if is_odd(word)]:
        first, end, column = odd[0], odd[-1] + 1, len(name) + 1
        for word in words[:first]:
            column = (column if column + len(word) < WIDTH else 0) + 1 + len(word)
        words[first:end] = _encoded_words(" ".join(words[first:end]), WIDTH - 1 - column)
    return [f" {word}" for word in words]


def _encoded_words(text: str, room: int) -> list[str]:
    """RFC 2047: the text in words of at most 75 characters, in Q or B, whichever is shorter.

    `room` is what the line that they begin on has left.
    """
    q = _cut(text, room, "=?utf-8?q?", _q)
    b = _cut(text, room, "=?utf-8?b?", _b)
    return min(q, b, key=lambda words: sum(map(len, words)))


def _cut(text: str, room: int, start: str, encode: Callable[[str], str]) -> list[str]:
    words = []
    room = min(room, 75) if room >= 24 else 75  # 24 takes any one character; with less, a new line is begun
    while text:
        size = min(len(text), 63)
        while (excess := len(start) + 2 + len(encoded := encode(text[:size])) - room) > 0:
            size -= excess // 12 or 1  # no character takes more than 12
        words.append(f"{start}{encoded}?=")
        text = text[size:]
        room = 75
    return words


def _q(text: str) -> str:
    return _Q_UNSAFE.sub(lambda match: "".join(f"={byte:02X}" for byte in match[0].encode()), text).replace(" ", "_")


def _b(text: str) -> str:
    return b2a_base64(text.encode(), newline=False).decode()


# Addresses


def _addresses(header: str, addresses: Sequence[str], smtputf8: bool = False) -> str:
    tokens: list[str] = []
    for address in addresses:
        if tokens:
            tokens[-1] += ","
        tokens += _address(header, address, smtputf8, 75 if tokens else WIDTH - 2 - len(header))
    return _folded(header, [f" {token}" for token in tokens]) if tokens else ""


def _address(header: str, text: str, smtputf8: bool, room: int) -> list[str]:
    name, mailbox = split(text)
    if _BREAKING.search(text) or not mailbox.isprintable():
        raise ValueError(f"The header `{header}` holds a line break or another control character.")
    local, at, domain = mailbox.rpartition("@")
    try:
        domain = ascii_domain(domain)
    except ValueError as error:
        raise ValueError(f"The header `{header}` holds no domain: {error}.") from None
    if not (local.isascii() or smtputf8):
        # No relay without SMTPUTF8 takes such a mailbox, not even in a header. Readers see it as the name of
        # an empty group, as RFC 6857 has it done.
        return [*_encoded_words(f"{name} {mailbox}".strip(), room), ":;"]
    mailbox = f"{local}{at}{domain}"
    return [*_phrase(name, room), f"<{mailbox}>"] if name else [mailbox]


def _phrase(name: str, room: int) -> list[str]:
    """A display name: as it is, quoted or encoded, whatever it needs."""
    if not _is_plain(name):
        return _encoded_words(name, room)
    if not _ATOMS.fullmatch(name):
        name = '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return [name] if len(name) <= room else _SINGLE_SPACE.split(name)


# Bodies


class _Part(NamedTuple):
    headers: str
    chunks: Iterator[bytes]


def _body(message: Message) -> _Part:
    """mixed(alternative(text, related(HTML, its images), invitation), attachments), less what isn't needed."""
    boundary = "=_" + blake2s(message.message_id.encode(), digest_size=12).hexdigest()
    html, shown = _with_content_ids(message.html, message.attachments)
    alternatives, images, attached = [], [], []
    if message.text:
        alternatives.append(_text("plain", message.text, boundary))
    invitations = []
    for attachment in message.attachments:
        kind, parameters = _media_type(attachment)
        if kind == "text/calendar" and "method" in parameters and attachment.disposition != "attachment":
            invitations.append(_file(attachment, kind, parameters, "", boundary))
        elif attachment.content_id and _bare_id(attachment.content_id) in shown:
            images.append(_file(attachment, kind, parameters, "inline", boundary))
        else:
            attached.append(_file(attachment, kind, parameters, "attachment", boundary))
    if html:
        page = _text("html", html, boundary)
        alternatives.append(_multipart("related", [page, *images], boundary, ' type="text/html";'))
    alternatives += invitations
    if not alternatives and not attached:
        alternatives.append(_text("plain", "", boundary))
    content = [_multipart("alternative", alternatives, boundary)] if alternatives else []
    return _multipart("mixed", [*content, *attached], boundary)


def _multipart(subtype: str, parts: Sequence[_Part], boundary: str, parameter: str = "") -> _Part:
    """`boundary` begins with "=_", which is in neither quoted-printable nor base64."""
    if len(parts) == 1 and (subtype != "mixed" or "Content-Disposition" not in parts[0].headers):
        return parts[0]
    boundary = f"{boundary}_{subtype}"

    def chunks() -> Iterator[bytes]:
        for part in parts:
            yield f"--{boundary}\r\n{part.headers}\r\n".encode()
            yield from part.chunks
            yield b"\r\n"
        yield f"--{boundary}--\r\n".encode()

    return _Part(f'Content-Type: multipart/{subtype};{parameter}\r\n boundary="{boundary}"\r\n', chunks())


def _text(subtype: str, text: str, boundary: str) -> _Part:
    """Every line ends with CRLF, the last one too."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.endswith("\n"):
        text += "\n"
    wire = text.replace("\n", "\r\n").encode()
    if _is_seven_bit(wire, boundary) and not wire.startswith(b"From ") and b"\nFrom " not in wire:
        encoding, chunks = "7bit", iter([wire])
    elif len(quoted := _quoted_printable(wire)) <= (letters := -(-len(wire) // 3) * 4) + 2 * -(-letters // 76):
        encoding, chunks = "quoted-printable", iter([quoted])
    else:
        encoding, chunks = "base64", _base64(wire)
    return _Part(f'Content-Type: text/{subtype}; charset="utf-8"\r\nContent-Transfer-Encoding: {encoding}\r\n', chunks)


# What suffers at the start of a line: mailboxes in mbox format put a > before "From ", some servers lose a dot.
_MANGLED = re.compile(rb"\n(?:\.|From )[^\r\n]*")
_OVERLONG = re.compile(rb"\n([^\r\n]{74,75})(=20|=09)\r")


def _is_seven_bit(content: bytes, boundary: str) -> bool:
    """RFC 2045 §2.7. What holds our boundary (a copy of this very message) must not be written as it is."""
    return (
        content.isascii()
        and b"\0" not in content
        and (len(content) <= LONGEST or max(map(len, content.split(b"\r\n"))) <= LONGEST)
        and content.count(b"\r\n") == content.count(b"\n") == content.count(b"\r")
        and boundary.encode() not in content
    )


def _quoted_printable(wire: bytes) -> bytes:
    encoded = b"\n" + b2a_qp(wire, istext=True)
    # b2a_qp encodes a blank before a line's end without looking how long the line is.
    encoded = _OVERLONG.sub(rb"\n\1=\r\n\2\r", encoded)
    return _MANGLED.sub(_guarded, encoded)[1:]


def _guarded(match: re.Match[bytes]) -> bytes:
    """The line with its first character encoded, and cut where that makes it too long."""
    line, lines = match[0][1:], [b"\n"]
    while line.startswith((b".", b"From ")):
        line = b"=%02X" % line[0] + line[1:]
        if len(line) > 76:
            cut = line.find(b"=", 73, 75)
            cut = cut if cut > 0 else 75
            lines.append(line[:cut] + b"=\r\n")
            line = line[cut:]
    return b"".join(lines) + line


def _base64(content: bytes) -> Iterator[bytes]:
    view, size = memoryview(content), 57 * 1024
    for start in range(0, len(content), size):
        block = b2a_base64(view[start : start + size], newline=False)
        yield b"\r\n".join([block[at : at + 76] for at in range(0, len(block), 76)]) + b"\r\n"


# Attachments

_TYPES = {
    **mimetypes.MimeTypes().types_map[False],  # Python's own tables, whatever the host has installed
    **mimetypes.MimeTypes().types_map[True],
    ".7z": "application/x-7z-compressed",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".gz": "application/gzip",
    ".ics": "text/calendar",
    ".log": "text/plain",
    ".odt": "application/vnd.oasis.opendocument.text",
    ".pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    ".vcf": "text/vcard",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}
_TYPE_WORD = re.compile(r"[\w!#$&^.+-]{1,70}", re.ASCII)
_TYPE = re.compile(rf"{_TYPE_WORD.pattern}/{_TYPE_WORD.pattern}", re.ASCII)
_PARAMETER = re.compile(rf";\s*({_TYPE_WORD.pattern})\s*=\s*({_QUOTED.pattern}|[^;\"]*)", re.ASCII)
# Control characters, halves of surrogate pairs, and what turns the direction of writing ("cod.exe" as "exe.doc").
_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_SAFE_ID = re.compile(r"[A-Za-z0-9._=+$-]+(?:@[A-Za-z0-9._-]+)?")
_CID = re.compile(
    r"""(?:(?P<quote>["']|&(?:quot|apos|#34|#39);)|\b)(cid:)((?(quote).*?(?=(?P=quote))|[^\s"'<>()]*))""", re.I
)


def _media_type(attachment: Attachment) -> tuple[str, dict[str, str]]:
    """Type and parameters: the caller's, or by the name's extension."""
    given, _, _ = (attachment.content_type or "").partition(";")
    kind, parameters = given.strip().lower(), {}
    if _TYPE.fullmatch(kind):
        for name, value in _PARAMETER.findall(attachment.content_type or ""):
            quoted = _QUOTED.fullmatch(value)
            parameters[name.lower()] = re.sub(r"\\(.)", r"\1", value[1:-1]) if quoted else value.strip()
    else:
        kind = _TYPES.get("." + attachment.filename.rpartition(".")[2].lower(), "application/octet-stream")
    if kind.startswith("text/") and "charset" not in parameters and _is_utf8(attachment.content):
        parameters["charset"] = "utf-8"
    for ours in ("name", "boundary"):
        parameters.pop(ours, None)
    return kind, parameters


def _is_utf8(content: bytes) -> bool:
    pieces = (content[at : at + (1 << 16)] for at in range(0, len(content), 1 << 16))  # all at once takes memory
    try:
        return all(text is not None for text in iterdecode(pieces, "utf-8"))
    except UnicodeDecodeError:
        return False


def _file(attachment: Attachment, kind: str, parameters: dict[str, str], disposition: str, boundary: str) -> _Part:
    """An attachment's very bytes: in base64, but for a mail in the mail, which must not be (RFC 2046 §5.2.1)."""
    name = _file_name(attachment.filename, kind)
    if kind.startswith("message/") and _is_seven_bit(attachment.content, boundary):
        encoding, chunks = "7bit", iter([attachment.content])
    else:
        encoding, chunks = "base64", _base64(attachment.content)
        if kind.startswith(("message/", "multipart/")):
            name += ".eml" if kind == "message/rfc822" and not name.lower().endswith(".eml") else ""
            kind, parameters = "application/octet-stream", {}
    headers = _with_parameters("Content-Type", kind, parameters | {"name": _plain_name(name) if disposition else name})
    headers += f"Content-Transfer-Encoding: {encoding}\r\n"
    if disposition:
        if attachment.disposition in ("inline", "attachment"):
            disposition = attachment.disposition
        headers += _with_parameters("Content-Disposition", disposition, {"filename": name})
    if attachment.content_id:
        headers += f"Content-ID: <{_wire_id(attachment.content_id)}>\r\n"
    return _Part(headers, chunks)


def _file_name(name: str, kind: str) -> str:
    """Without folders, and without what neither a header nor a disk should get."""
    name = _UNFIT.sub("", re.split(r"[/\\]", name)[-1]).strip()
    if name.strip("."):
        return name
    return "attachment" + next((extension for extension, known in _TYPES.items() if known == kind), ".bin")


def _plain_name(name: str) -> str:
    """A short name in ASCII for programs that don't know RFC 2231."""
    letters = (letter for letter in unicodedata.normalize("NFKD", name) if not unicodedata.combining(letter))
    plain = re.sub(r"[^ -~]|[\"\\]|=(?=\?)", "_", "".join(letters))
    stem, dot, extension = plain.rpartition(".")
    return plain if len(plain) <= 60 else f"{stem[: 59 - len(extension)]}{dot}{extension}"[-60:]


def _with_parameters(name: str, value: str, parameters: dict[str, str]) -> str:
    tokens = [value]
    for parameter, text in parameters.items():
        for token in _parameter(parameter, text):
            tokens[-1] += ";"
            tokens.append(token)
    return _folded(name, [f" {token}" for token in tokens])


def _parameter(name: str, text: str) -> list[str]:
    """Quoted if that is enough, else as RFC 2231 has it, in as many sections as it needs."""
    if "name" not in name and _TYPE_WORD.fullmatch(text):
        return [f"{name}={text}"]
    if _is_plain(text) and not set(text) & {'"', "\\"} and len(name) + len(text) + 3 <= 74:
        return [f'{name}="{text}"']
    characters = [quote(character, safe="!#$&+^`{|}") for character in text]
    if len(whole := f"{name}*=utf-8''{''.join(characters)}") <= 74:
        return [whole]
    sections = [f"{name}*0*=utf-8''"]
    for character in characters:
        if len(sections[-1]) + len(character) > 74:
            sections.append(f"{name}*{len(sections)}*=")
        sections[-1] += character
    return sections


def _bare_id(content_id: str) -> str:
    return content_id.strip().removeprefix("<").removesuffix(">")


def _wire_id(content_id: str) -> str:
    """The id as it is if it can stand in a header and in a URL, else one that is made of it."""
    bare = _bare_id(content_id)
    if _SAFE_ID.fullmatch(bare) and len(bare) <= 200:
        return bare
    return blake2s(bare.encode(errors="replace"), digest_size=12).hexdigest() + "@cid"


def _with_content_ids(html: str | None, attachments: Sequence[Attachment]) -> tuple[str | None, set[str]]:
    """The HTML with its `cid:` as the wire has it, and the ids that it shows."""
    known = {_bare_id(attachment.content_id) for attachment in attachments if attachment.content_id}
    shown = set()

    def on_the_wire(match: re.Match[str]) -> str:
        reference = unescape(match[3]).strip()
        for id in (reference, unquote(reference)):
            if id in known:
                shown.add(id)
                return f"{match['quote'] or ''}{match[2]}{_wire_id(id)}"
        return match[0]

    return (_CID.sub(on_the_wire, html), shown) if html and known else (html, shown)
