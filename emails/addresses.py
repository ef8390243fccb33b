"""One mailbox with an optional display name: parsed strictly, written so that it is read back the same."""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import email_validator
import idna
from email_validator import EmailNotValidError, validate_email

# An intranet's names (.test, .local, a bare host) are deliverable where the relay knows them.
email_validator.SPECIAL_USE_DOMAIN_NAMES.clear()

MAX_ADDRESS = 1000  # characters of one address with its name, as the database keeps it
MAX_NAME = 320

# RFC 5322 allows no control characters in a header; U+2028/9 and U+0085 are line breaks to many programs.
CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")
UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")  # NUL and halves of surrogate pairs: no database takes them

_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_BRACKETED = re.compile(rf'(?P<name>.*)<(?P<mailbox>(?:{_QUOTED.pattern})?[^<>"]*)>')
_SEVERAL = re.compile(r"@[^,;]*[,;].*@")
# Mailboxes as nearly all are: what the validator would give back as it is, found in a fiftieth of its time.
_ATOM = r"[a-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"(?![^.]{64})[a-z0-9]+(?:-[a-z0-9]+)*"
_PLAIN = re.compile(rf"(?=.{{1,254}}\Z){_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})*")


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
        return ascii_domain(self.domain)

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
        shown = shortened(text)
        if len(text) > MAX_ADDRESS:
            raise ValueError(f"{shown!r} is too long: at most {MAX_ADDRESS} characters are allowed.")
        if CONTROL.search(text) or UNSTORABLE.search(text):
            raise ValueError(f"{shown!r} holds a line break or another character that no address may hold.")
        if _SEVERAL.search(_QUOTED.sub("", text)):
            raise ValueError(f"{shown!r} seems to hold several addresses: give each as an item of a list.")
        name, mailbox = split(text)
        if len(name) > MAX_NAME:
            raise ValueError(f"{shown!r} has a name of {len(name)} characters: at most {MAX_NAME} are allowed.")
        if not mailbox:
            raise ValueError("An address is empty." if not name else f"{shown!r} has no address between < and >.")
        if not _PLAIN.fullmatch(mailbox):
            try:
                mailbox = validated(mailbox)
            except EmailNotValidError as error:
                raise ValueError(f"{shown!r} is not a valid email address: {error}") from None
        return cls(mailbox, name)


def validated(mailbox: str) -> str:
    """The mailbox in its normal form. Raises EmailNotValidError."""
    parts = validate_email(
        mailbox,
        check_deliverability=False,
        globally_deliverable=False,
        allow_quoted_local=True,
        allow_smtputf8=True,  # whether the relay can take it, it will say
    )
    return f"{parts.local_part}@{parts.domain}"


def split(text: str) -> tuple[str, str]:
    """Name and mailbox in `a@b` or `Name <a@b>`: whatever stands before one trailing <…> is the name."""
    name, mailbox = "", text.strip()
    if bracketed := _BRACKETED.fullmatch(mailbox):
        name, mailbox = bracketed["name"].strip(), bracketed["mailbox"].strip()
    if _QUOTED.fullmatch(name):
        name = re.sub(r"\\(.)", r"\1", name[1:-1]).strip()
    return name, mailbox


@lru_cache(maxsize=1024)
def ascii_domain(domain: str) -> str:
    """The domain with A-labels (IDNA 2008) in place of what is beyond ASCII."""
    return domain if domain.isascii() else idna.encode(domain, uts46=True).decode()


def needs_smtputf8(text: str) -> bool:
    """Whether only relays with SMTPUTF8 (RFC 6531) can carry it: a domain has an ASCII form, a mailbox hasn't."""
    return not (text.isascii() or split(text)[1].rpartition("@")[0].isascii())


def shortened(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."
