"""Staging safety: mail goes to some people only (ONLY_TO), or all of it to one (REDIRECT_TO)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

from emails.addresses import Address
from emails.mime import header
from emails.smtp import Outcome, Reply

Send = Callable[[str, Sequence[str], bytes], Outcome]

HELD_BACK = "held back: not on ONLY_TO"


@dataclass(frozen=True)
class OnlyTo:
    """Addresses and domains that may be written to, each in lower case; none means everybody."""

    mailboxes: frozenset[str] = frozenset()
    domains: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, text: str) -> Self:
        """`example.com,tester@example.org`. Raises ValueError, for a list of nobody too."""
        words = [word.strip() for word in text.split(",") if word.strip()]
        if not words:
            raise ValueError
        return cls(
            frozenset(Address.parse(word).mailbox.lower() for word in words if "@" in word),
            frozenset(Address.parse(f"any@{word}").domain.lower() for word in words if "@" not in word),
        )

    def __bool__(self) -> bool:
        return bool(self.mailboxes or self.domains)

    def lets(self, address: Address) -> bool:
        return not self or address.mailbox.lower() in self.mailboxes or address.domain.lower() in self.domains

    def __str__(self) -> str:
        return ", ".join(sorted(self.domains) + sorted(self.mailboxes))


def redirect(to: Address, send: Send, sender: str, recipients: Sequence[str], message: bytes) -> Outcome:
    """One transmission, to `to` alone, whose outcome counts for all `recipients`; the message names them."""
    originals = "".join(header("X-Original-To", recipient) for recipient in recipients)
    outcome = send(sender, [to.envelope], originals.encode() + message)
    result = outcome.results.get(to.envelope)
    if not result:
        return outcome
    said = Reply(result.reply.code, f"{result.reply.text} (redirected to {to.mailbox})")
    return replace(outcome, results=dict.fromkeys(recipients, replace(result, reply=said)))


def in_words(only_to: OnlyTo, redirect_to: Address | None) -> str:
    """What every page says of it; empty if all mail goes where it is addressed."""
    if redirect_to:
        return f"All mail is redirected to {redirect_to.mailbox} (REDIRECT_TO)."
    if only_to:
        return f"Mail goes only to {only_to}; to others it is held back (ONLY_TO)."
    return ""
