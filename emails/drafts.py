"""A draft is a message as a caller wrote it, checked once for every door.

The API, the web form and the playground all come here, so a rule about what may be sent is written
once. Nothing is looked up: no DNS, no database.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import email_validator
import idna
from email_validator import EmailNotValidError, validate_email

# An intranet's names (.test, .local, a bare host) are deliverable where the relay knows them.
email_validator.SPECIAL_USE_DOMAIN_NAMES.clear()

MAX_RECIPIENTS = 50
MAX_SUBJECT = 998
MAX_BYTES = 40 * 1024 * 1024
FIELDS = ("from", "to", "cc", "bcc", "reply_to", "subject", "html", "text", "on_unknown")

MAX_ADDRESS = 1000  # characters of one address with its name, as the database keeps it
MAX_NAME = 320

# RFC 5322 allows no control characters in a header; U+2028/9 and U+0085 are line breaks to many programs.
_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")
_UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")  # NUL and halves of surrogate pairs: no database takes them

_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_BRACKETED = re.compile(rf'(?P<name>.*)<(?P<mailbox>(?:{_QUOTED.pattern})?[^<>"]*)>')
_SEVERAL = re.compile(r"@[^,;]*[,;].*@")
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
class Address:
    """One mailbox with an optional display name. `mailbox` has its domain in lower case."""

    mailbox: str
    name: str = ""

    @property
    def domain(self) -> str:
        return self.mailbox.rpartition("@")[2]

    @property
    def ascii_domain(self) -> str:
        """The domain as it goes over the wire, with A-labels (IDNA 2008)."""
        return self.domain if self.domain.isascii() else idna.encode(self.domain, uts46=True).decode()

    @property
    def envelope(self) -> str:
        """The mailbox as it goes into MAIL FROM and RCPT TO."""
        return f"{self.mailbox.rpartition('@')[0]}@{self.ascii_domain}"

    def __str__(self) -> str:
        if not self.name:
            return self.mailbox
        plain = re.fullmatch(r"[^\x00-\x1f()<>\[\]:;@\\,.\"]+", self.name)
        name = self.name if plain else '"' + re.sub(r'(["\\])', r"\\\1", self.name) + '"'
        return f"{name} <{self.mailbox}>"

    @classmethod
    def parse(cls, text: str) -> Self:
        """One string is one address: `a@b` or `Name <a@b>`, whatever the name holds.

        Raises ValueError with a sentence about what is wrong.
        """
        shown = _shortened(text)
        if len(text) > MAX_ADDRESS:
            raise ValueError(f"{shown!r} is too long: at most {MAX_ADDRESS} characters are allowed.")
        if _CONTROL.search(text) or _UNSTORABLE.search(text):
            raise ValueError(f"{shown!r} holds a line break or another character that no address may hold.")
        if _SEVERAL.search(_QUOTED.sub("", text)):
            raise ValueError(f"{shown!r} seems to hold several addresses: give each as an item of a list.")
        name, mailbox = "", text.strip()
        if bracketed := _BRACKETED.fullmatch(mailbox):
            name, mailbox = bracketed["name"].strip(), bracketed["mailbox"].strip()
        if _QUOTED.fullmatch(name):
            name = re.sub(r"\\(.)", r"\1", name[1:-1]).strip()
        if len(name) > MAX_NAME:
            raise ValueError(f"{shown!r} has a name of {len(name)} characters: at most {MAX_NAME} are allowed.")
        if not mailbox:
            raise ValueError("An address is empty." if not name else f"{shown!r} has no address between < and >.")
        try:
            parts = validate_email(
                mailbox,
                check_deliverability=False,
                globally_deliverable=False,
                allow_quoted_local=True,
                allow_smtputf8=False,  # a local part beyond ASCII needs SMTPUTF8 all the way
            )
        except EmailNotValidError as error:
            raise ValueError(f"{shown!r} is not a valid email address: {error}") from None
        return cls(f"{parts.local_part}@{parts.domain}", name)


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
    on_unknown: str = ""  # "resend" or "hold"; empty leaves it to the deployment

    @property
    def recipients(self) -> list[Address]:
        """Each mailbox that is to get the message, once."""
        return list({address.mailbox: address for address in [*self.to, *self.cc, *self.bcc]}.values())

    @classmethod
    def clean(cls, fields: Mapping[str, Any]) -> Self:
        """Checks raw fields under the API's names. Raises Invalid with every problem found."""
        problems: list[Problem] = [
            Problem(name, f"The field `{_shortened(name)}` is not supported. Supported fields: {', '.join(FIELDS)}.")
            for name in fields
            if name not in FIELDS
        ]

        def problem(name: str, message: str, kind: str = "validation_error") -> None:
            problems.append(Problem(name, message, kind))

        def text_of(name: str) -> str | None:
            value = fields.get(name)
            if value is None or isinstance(value, str):
                if value and _UNSTORABLE.search(value):
                    problem(name, f"The `{name}` field holds a NUL character or half of a surrogate pair.")
                return value
            problem(name, f"The `{name}` field must be a string, not {_kind(value)}.")
            return None

        def addresses_of(name: str) -> list[Address]:
            value = fields.get(name)
            if value in _NOTHING:
                return []
            if isinstance(value, str):
                value = [value]
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                problem(name, f"The `{name}` field must be an address or a list of addresses, each a string.")
                return []
            if len(value) > MAX_RECIPIENTS:
                problem(name, f"{len(value)} addresses in the `{name}` field: at most {MAX_RECIPIENTS} are allowed.")
                return []
            found = []
            for item in value:
                try:
                    found.append(Address.parse(item))
                except ValueError as error:
                    problem(name, f"The `{name}` field: {error}")
            return found

        senders = []
        if fields.get("from") in _NOTHING:
            problem("from", "The `from` field is missing: give the sender's address.", "missing_required_field")
        elif not isinstance(fields["from"], str):
            problem("from", f"The `from` field must be a string, not {_kind(fields['from'])}.")
        else:
            try:
                senders = [Address.parse(fields["from"])]
            except ValueError as error:
                problem("from", f"The `from` field: {error}", "invalid_from_address")

        to, cc, bcc = addresses_of("to"), addresses_of("cc"), addresses_of("bcc")
        reply_to = addresses_of("reply_to")
        if fields.get("to") in _NOTHING:
            problem("to", "The `to` field is missing: give at least one recipient.", "missing_required_field")
        if (count := len(to) + len(cc) + len(bcc)) > MAX_RECIPIENTS:
            problem("to", f"{count} recipients in `to`, `cc` and `bcc`: at most {MAX_RECIPIENTS} are allowed.")

        subject = text_of("subject") or ""
        if "subject" not in fields or fields["subject"] is None:
            problem("subject", "The `subject` field is missing.", "missing_required_field")
        if _CONTROL.search(subject.replace("\t", " ")):
            problem("subject", "The `subject` field holds a line break or another control character.")
        elif len(subject) > MAX_SUBJECT:
            problem("subject", f"The `subject` field has {len(subject)} characters: at most {MAX_SUBJECT} are allowed.")

        html, text = text_of("html"), text_of("text")
        if not html and not text and not any(p.field in ("html", "text") for p in problems):
            problem("text", "The message has no body: give `html`, `text` or both.", "missing_required_field")
        size = _size([html, text])
        if size > MAX_BYTES:
            problem("text", f"The message has {size} bytes: at most {MAX_BYTES} are allowed.")

        on_unknown = fields.get("on_unknown")
        if on_unknown not in (None, "resend", "hold"):
            problem("on_unknown", "The `on_unknown` field must be `resend` or `hold`.")

        if problems:
            raise Invalid(problems)
        return cls(senders[0], to, subject.strip(), html or None, text or None, cc, bcc, reply_to, on_unknown or "")


def _shortened(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."


def _size(texts: Iterable[str | None]) -> int:
    return sum(len(text.encode(errors="replace")) for text in texts if text)


def _kind(value: Any) -> str:
    """The JSON name of a value's type, for error messages."""
    names = {bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), "null")
