"""A draft is a message as a caller wrote it, checked once for every door.

The API, the web form and the playground all come here, so a rule about what may be sent is written
once. Nothing is looked up: no DNS, no database.
"""

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

from emails import mime, schedule
from emails.addresses import CONTROL, UNSTORABLE, Address, needs_smtputf8, shortened
from emails.mime import Attachment

MAX_RECIPIENTS = 50
MAX_SUBJECT = 998
MAX_BYTES = 40 * 1024 * 1024
MAX_HEADERS = 100
MAX_HEADER = 10_000
MAX_TAGS = 50
MAX_ATTACHMENTS = 100
FIELDS = (
    "from", "to", "cc", "bcc", "reply_to", "subject", "html", "text", "headers", "attachments", "tags",
    "scheduled_at", "priority", "on_unknown", "topic_id",
)  # fmt: skip
_HEADER_NAME = re.compile(r"[!-9;-~]{1,76}")  # RFC 5322 §3.6.8: printable ASCII but the colon
_OUR_HEADERS = {"from", "sender", "to", "cc", "bcc", "subject", "date", "message-id", "mime-version", "reply-to",
                "received", "dkim-signature"}  # fmt: skip
_TAG = re.compile(r"[A-Za-z0-9_-]{1,256}")
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+\s*(;.*)?$")

MISSING = "missing_required_field"
_NOTHING: tuple[object, ...] = (None, "", [])


@dataclass(frozen=True)
class Problem:
    """What is wrong with one field; `name` is the error's name in the API's contract."""

    field: str
    message: str
    name: str = "validation_error"


class Invalid(Exception):
    """A draft that can't be accepted, with every problem found."""

    def __init__(self, problems: list[Problem]):
        super().__init__("; ".join(problem.message for problem in problems))
        self.problems = problems


@dataclass(frozen=True)
class Draft:
    """A message that may be stored and sent. Build one with `Draft.clean`."""

    sender: Address
    to: list[Address]
    subject: str = ""
    html: str | None = None
    text: str | None = None
    cc: list[Address] = field(default_factory=list)
    bcc: list[Address] = field(default_factory=list)
    reply_to: list[Address] = field(default_factory=list)
    headers: list[tuple[str, str]] = field(default_factory=list)
    attachments: list[Attachment] = field(default_factory=list)
    tags: list[tuple[str, str]] = field(default_factory=list)
    scheduled_at: datetime | None = None
    priority: int | None = None  # 0 high, 1 default, 2 low; None leaves it to the key or the door
    on_unknown: str = ""  # "resend" or "hold"; empty leaves it to the deployment

    @property
    def recipients(self) -> list[Address]:
        """Each mailbox that is to get the message, once."""
        return list({address.mailbox: address for address in [*self.to, *self.cc, *self.bcc]}.values())

    @classmethod
    def clean(cls, fields: Mapping[str, Any], time_zone: str = "UTC") -> Self:
        """Checks raw fields under the API's names. Raises Invalid with every problem found.

        `time_zone` is that in which a bare phrase in `scheduled_at` is meant.
        """
        reader = _Reader(fields)
        draft = reader.draft(cls, time_zone)
        if reader.problems:
            raise Invalid(reader.problems)
        return draft


def new_time(fields: Mapping[str, Any], time_zone: str = "UTC") -> datetime:
    """To when a message that waits is to be moved. Raises Invalid.

    An `id` is taken and not looked at: Resend's Python client repeats that of the URL.
    """
    reader = _Reader(fields, ("scheduled_at", "id"))
    moment = reader.scheduled_at(time_zone)
    if moment is None and not reader.problems:
        reader.problem("scheduled_at", "The `scheduled_at` field is missing: give the new time.", MISSING)
    if reader.problems:
        raise Invalid(reader.problems)
    return moment


class _Reader:
    """Reads the fields of one draft, and collects what is wrong with them."""

    def __init__(self, fields: Mapping[str, Any], known: tuple[str, ...] = FIELDS):
        self.fields = fields
        self.problems = [Problem(name, _unsupported(name, known)) for name in fields if name not in known]

    def problem(self, name: str, message: str, kind: str = "validation_error") -> None:
        self.problems.append(Problem(name, message, kind))

    def draft(self, cls: type[Draft], time_zone: str) -> Draft:
        sender = self.sender()
        to, cc, bcc, reply_to = (self.addresses(name) for name in ("to", "cc", "bcc", "reply_to"))
        if self.fields.get("to") in _NOTHING:
            self.problem("to", "The `to` field is missing: give at least one recipient.", MISSING)
        if (count := len(to) + len(cc) + len(bcc)) > MAX_RECIPIENTS:
            self.problem("to", f"{count} recipients in `to`, `cc` and `bcc`: at most {MAX_RECIPIENTS} are allowed.")
        for address in reply_to:
            if needs_smtputf8(address.mailbox) and not (sender and needs_smtputf8(sender.mailbox)):
                message = f"The `reply_to` field: {shortened(str(address))!r} is out of most people's reach:"
                self.problem("reply_to", f"{message} use a mailbox with only ASCII letters before the @.")
        subject = self.subject()
        html, text = self.text("html"), self.text("text")
        if not html and not text and not any(p.field in ("html", "text") for p in self.problems):
            self.problem("text", "The message has no body: give `html`, `text` or both.", MISSING)
        if not isinstance(self.fields.get("topic_id"), str | None):
            self.problem("topic_id", "The `topic_id` field must be a string; it is taken and has no effect.")
        attachments = self.attachments()
        size = _size([html, text]) + sum(-(-len(part.content) // 3) * 4 for part in attachments)
        if size > MAX_BYTES:
            self.problem(
                "attachments" if attachments else "text",
                f"The message has {size} bytes with its attachments in base64: at most {MAX_BYTES} are allowed.",
            )
        return cls(
            sender=sender,
            to=to,
            subject=subject,
            html=html or None,
            text=text or None,
            cc=cc,
            bcc=bcc,
            reply_to=reply_to,
            headers=self.headers(),
            attachments=attachments,
            tags=self.tags(),
            scheduled_at=self.scheduled_at(time_zone),
            priority=self.choice("priority", {"high": 0, "default": 1, "low": 2}),
            on_unknown=self.choice("on_unknown", {"resend": "resend", "hold": "hold"}) or "",
        )

    def sender(self) -> Address | None:
        value = self.fields.get("from")
        if value in _NOTHING:
            self.problem("from", "The `from` field is missing: give the sender's address.", MISSING)
        elif not isinstance(value, str):
            self.problem("from", f"The `from` field must be a string, not {_kind(value)}.")
        else:
            try:
                return Address.parse(value)
            except ValueError as error:
                self.problem("from", f"The `from` field: {error}", "invalid_from_address")
        return None

    def subject(self) -> str:
        subject = self.text("subject") or ""
        if self.fields.get("subject") is None:
            self.problem("subject", "The `subject` field is missing.", MISSING)
        if CONTROL.search(subject.replace("\t", " ")):
            self.problem("subject", "The `subject` field holds a line break or another control character.")
        elif len(subject) > MAX_SUBJECT:
            length = len(subject)
            self.problem("subject", f"The `subject` field has {length} characters: at most {MAX_SUBJECT} are allowed.")
        return subject.strip()

    def text(self, name: str) -> str | None:
        value = self.fields.get(name)
        if value is None or isinstance(value, str):
            if value and UNSTORABLE.search(value):
                self.problem(name, f"The `{name}` field holds a NUL character or half of a surrogate pair.")
            return value
        self.problem(name, f"The `{name}` field must be a string, not {_kind(value)}.")
        return None

    def choice(self, name: str, allowed: dict[str, Any]) -> Any:
        value = self.fields.get(name)
        if value is None:
            return None
        if not isinstance(value, str) or value not in allowed:
            known = ", ".join(f"`{word}`" for word in allowed)
            self.problem(name, f"The `{name}` field must be one of {known}.")
            return None
        return allowed[value]

    def addresses(self, name: str) -> list[Address]:
        value = self.fields.get(name)
        if value in _NOTHING:
            return []
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.problem(name, f"The `{name}` field must be an address or a list of addresses, each a string.")
            return []
        if len(value) > MAX_RECIPIENTS:
            self.problem(name, f"{len(value)} addresses in the `{name}` field: at most {MAX_RECIPIENTS} are allowed.")
            return []
        found = []
        for item in value:
            try:
                found.append(Address.parse(item))
            except ValueError as error:
                self.problem(name, f"The `{name}` field: {error}")
        return found

    def headers(self) -> list[tuple[str, str]]:
        """The caller's own headers; those that Mailsite writes itself are refused by name."""
        value = self.fields.get("headers")
        if value is None:
            return []
        if not isinstance(value, dict):
            self.problem("headers", f"The `headers` field must be an object of strings, not {_kind(value)}.")
            return []
        if len(value) > MAX_HEADERS:
            self.problem("headers", f"{len(value)} headers in the `headers` field: at most {MAX_HEADERS} are allowed.")
            return []
        found = []
        for name, text in value.items():
            try:
                found.append(_header(name, text))
            except ValueError as error:
                self.problem("headers", f"The `headers` field: {error}")
        return found

    def tags(self) -> list[tuple[str, str]]:
        value = self.fields.get("tags")
        if value is None:
            return []
        shape = "The `tags` field must be a list of objects, each with a `name` and a `value`, both strings."
        if not isinstance(value, list):
            self.problem("tags", shape)
            return []
        if len(value) > MAX_TAGS:
            self.problem("tags", f"{len(value)} tags in the `tags` field: at most {MAX_TAGS} are allowed.")
            return []
        found = []
        for tag in value:
            pair = (tag.get("name"), tag.get("value")) if isinstance(tag, dict) else (None, None)
            if not all(isinstance(part, str) for part in pair) or set(tag) - {"name", "value"}:
                self.problem("tags", shape)
            elif not all(_TAG.fullmatch(part) for part in pair):
                message = f"{shortened(':'.join(pair))!r} is none. A tag's name and value have 1 to 256 ASCII letters,"
                self.problem("tags", f"The `tags` field: {message} digits, dashes and underscores.")
            else:
                found.append(pair)
        return found

    def attachments(self) -> list[Attachment]:
        value = self.fields.get("attachments")
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self.problem("attachments", "The `attachments` field must be a list of objects.", "invalid_attachment")
            return []
        if len(value) > MAX_ATTACHMENTS:
            message = f"{len(value)} attachments in the `attachments` field: at most {MAX_ATTACHMENTS} are allowed."
            self.problem("attachments", message, "invalid_attachment")
            return []
        found = []
        for index, item in enumerate(value):
            try:
                found.append(_attachment(item))
            except ValueError as error:
                message = f"The `attachments` field, item {index} (counted from 0): {error}"
                self.problem("attachments", message, "invalid_attachment")
        return found

    def scheduled_at(self, time_zone: str) -> datetime | None:
        value = self.fields.get("scheduled_at")
        if value in (None, ""):
            return None
        if not isinstance(value, str):
            self.problem("scheduled_at", f"The `scheduled_at` field must be a string, not {_kind(value)}.")
            return None
        try:
            return schedule.parse(value, time_zone)
        except ValueError as error:
            self.problem("scheduled_at", f"The `scheduled_at` field: {error}")
            return None


def _unsupported(name: str, known: tuple[str, ...]) -> str:
    if name == "template":
        return "The field `template` is not supported: Mailsite has no templates yet. Give `html` or `text`."
    return f"The field `{shortened(name)}` is not supported. Supported fields: {', '.join(known)}."


def _header(name: str, text: Any) -> tuple[str, str]:
    """Raises ValueError with a sentence."""
    shown = shortened(name)
    if not _HEADER_NAME.fullmatch(name):
        raise ValueError(f"{shown!r} is not a header's name: up to 76 letters, digits and dashes.")
    if name.lower() in _OUR_HEADERS or name.lower().startswith("content-"):
        raise ValueError(f"the header `{shown}` is Mailsite's own, it can't be set here.")
    if not isinstance(text, str):
        raise ValueError(f"the header `{shown}` must be a string, not {_kind(text)}.")
    if CONTROL.search(text.replace("\t", " ")) or UNSTORABLE.search(text):
        raise ValueError(f"the header `{shown}` holds a line break or another control character.")
    if len(text) > MAX_HEADER:
        raise ValueError(f"the header `{shown}` has {len(text)} characters: at most {MAX_HEADER} are allowed.")
    mime.header(name, text)  # which knows the forms that some headers have
    return name, text.strip()


def _attachment(item: dict[str, Any]) -> Attachment:
    """Raises ValueError with a sentence."""
    known = {"filename", "content", "content_type", "contentType", "content_id", "contentId", "path",
             "inline_content_id"}  # fmt: skip
    if unknown := set(item) - known:
        raise ValueError(f"the field `{shortened(min(unknown))}` is not supported.")
    if item.get("path") is not None:
        raise ValueError("`path` is not supported: this server fetches no URLs. Give the file as `content`.")
    filename = item.get("filename")
    if not isinstance(filename, str) or not filename.strip():
        raise ValueError("`filename` is missing.")
    content_type = _first(item, "content_type", "contentType")
    content_id = _first(item, "content_id", "contentId", "inline_content_id")
    for name, text, longest in (
        ("filename", filename, 1000),
        ("content_type", content_type, 255),
        ("content_id", content_id, 255),
    ):
        if text is None:
            continue
        if not isinstance(text, str) or len(text) > longest or CONTROL.search(text) or UNSTORABLE.search(text):
            raise ValueError(f"`{name}` must be a string of at most {longest} characters, without control characters.")
    if content_type and not _MEDIA_TYPE.match(content_type):
        raise ValueError(f"`content_type` {shortened(content_type)!r} is not a media type such as `application/pdf`.")
    return Attachment(filename, _bytes(item.get("content")), content_type, content_id)


def _first(item: dict[str, Any], *names: str) -> Any:
    """The value under the first of `names` that has one."""
    return next((item[name] for name in names if item.get(name) not in (None, "")), None)


def _bytes(content: Any) -> bytes:
    """What the clients send: base64, a list of byte values, or Node's Buffer as JSON. The form has bytes."""
    if isinstance(content, bytes):
        return content
    if isinstance(content, dict) and content.get("type") == "Buffer":
        content = content.get("data")
        if not isinstance(content, list):
            raise ValueError("a Buffer's `data` must be a list of byte values.")
    if isinstance(content, list):
        try:
            if bool in set(map(type, content)):
                raise TypeError
            return bytes(content)
        except (TypeError, ValueError):
            raise ValueError("`content` must hold whole numbers from 0 to 255.") from None
    if not isinstance(content, str):
        raise ValueError("`content` is missing: give base64, or a list of byte values.")
    try:
        return base64.b64decode("".join(content.split()), validate=True)
    except ValueError:
        raise ValueError("`content` is not valid base64.") from None


def _size(texts: Iterable[str | None]) -> int:
    return sum(len(text.encode(errors="replace")) for text in texts if text)


def _kind(value: Any) -> str:
    """The JSON name of a value's type, for error messages."""
    names = {bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), "null")
