"""A mail as its reader sees it: bytes → headers, bodies and attachments. Knows nothing of the database.

Whatever a stranger's client has written is shown as well as it goes: nothing here raises for a broken mail.
"""

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import Message
from typing import Self
from urllib.parse import unquote

MAX_DEPTH = 20  # of parts within parts
MAX_INLINE = 50 * 1024 * 1024  # characters of inline images that one page may get

# What a person can't see, and what neither a header nor a page can hold.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
_CID = re.compile(r"cid:([^\s\"'()<>]+)", re.IGNORECASE)
_IMAGE = re.compile(r"image/[\w.+-]+")


@dataclass(frozen=True)
class Attachment:
    name: str
    kind: str
    content: bytes = field(repr=False)
    content_id: str = ""

    @property
    def size(self) -> int:
        return len(self.content)

    @property
    def is_image(self) -> bool:
        return bool(_IMAGE.fullmatch(self.kind))

    @property
    def data_uri(self) -> str:
        return f"data:{self.kind};base64,{base64.b64encode(self.content).decode()}"


@dataclass
class Received:
    headers: list[tuple[str, str]] = field(default_factory=list)
    html: str | None = None
    text: str | None = None
    attachments: list[Attachment] = field(default_factory=list)
    is_broken: bool = False

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        received = cls()
        try:
            message = message_from_bytes(raw, policy=policy.default)
            received.headers = [(visible(name), _decoded(name, value)) for name, value in message.raw_items()]
            for part in _leaves(message):
                received._take(part)
        except Exception:  # the parser has given up, but whoever looks at the mail still sees what there is
            received.is_broken = True
        return received

    def _take(self, part: Message) -> None:
        kind = part.get_content_type()
        if kind.startswith("multipart/") and not part.is_multipart():
            kind = "text/plain"  # says that it has parts, and has none
        attached = part.get_content_disposition() == "attachment" or part.get_filename()
        if kind == "text/html" and self.html is None and not attached:
            self.html = _text_of(part)
        elif kind == "text/plain" and self.text is None and not attached:
            self.text = _text_of(part)
        else:
            content_id = visible(str(part.get("Content-ID", ""))).strip(" <>")
            self.attachments.append(Attachment(_name_of(part), visible(kind), _bytes_of(part), content_id))

    def header(self, name: str) -> str:
        return next((value for known, value in self.headers if known.lower() == name.lower()), "")

    @property
    def self_contained_html(self) -> str:
        """The HTML body with its `cid:` images written into it, for a page that may load nothing."""
        images = {image.content_id: image for image in self.attachments if image.is_image}
        left = MAX_INLINE

        def inline(match: re.Match) -> str:
            nonlocal left
            if not (image := images.get(unquote(match[1]))):
                return match[0]
            left -= image.size * 4 // 3
            return image.data_uri if left > 0 else match[0]

        return _CID.sub(inline, self.html or "")


def visible(text: str) -> str:
    """The text on one line, without what can't be seen or sent."""
    return _UNSEEN.sub("\ufffd", re.sub(r"\r?\n[ \t]?", " ", text))


def _decoded(name: str, value: str) -> str:
    """A header's value as text; as it was written where that makes no sense."""
    try:
        return visible(str(policy.default.header_fetch_parse(name, value)))
    except Exception:
        return visible(str(value))


def _leaves(message: Message, depth: int = 0) -> Iterator[Message]:
    """The parts that hold something. A mail within the mail is one of them, an attachment."""
    if message.get_content_maintype() == "multipart" and message.is_multipart() and depth < MAX_DEPTH:
        for part in message.get_payload():
            yield from _leaves(part, depth + 1)
    else:
        yield message


def _bytes_of(part: Message) -> bytes:
    if part.is_multipart():
        return b"".join(inner.as_bytes() for inner in part.get_payload())
    return part.get_payload(decode=True) or b""


def _text_of(part: Message) -> str:
    content = _bytes_of(part)
    try:
        text = content.decode(part.get_content_charset("utf-8"))
    except (LookupError, ValueError):  # a charset that nobody knows, or that isn't the true one
        text = content.decode(errors="replace")
    return text.encode(errors="replace").decode()


def _name_of(part: Message) -> str:
    """The file's own name without folders: it will be a name on somebody's disk."""
    name = visible(part.get_filename() or "").replace("\\", "/").rpartition("/")[2].strip(" .")
    return name or ("message.eml" if part.get_content_type() == "message/rfc822" else "unnamed")
