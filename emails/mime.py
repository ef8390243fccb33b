"""A message's fields → the bytes on the wire. A pure function: no database, no settings."""

from collections.abc import Sequence
from datetime import datetime
from email.headerregistry import Address as HeaderAddress
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime

from emails.drafts import Address

_POLICY = SMTP.clone(cte_type="7bit")


def build(
    *,
    sender: str,
    to: Sequence[str],
    cc: Sequence[str],
    reply_to: Sequence[str],
    subject: str,
    html: str | None,
    text: str | None,
    message_id: str,
    date: datetime | None,
) -> bytes:
    """The message with CRLF line ends and only 7-bit bytes; no `Bcc`. Without `date` there is no Date line yet."""
    message = EmailMessage(policy=_POLICY)
    message["From"] = _header([sender])
    message["To"] = _header(to)
    if cc:
        message["Cc"] = _header(cc)
    if reply_to:
        message["Reply-To"] = _header(reply_to)
    message["Subject"] = subject
    if date:
        message["Date"] = format_datetime(date)
    message["Message-ID"] = message_id
    if text is not None:
        message.set_content(text)
        if html is not None:
            message.add_alternative(html, subtype="html")
    else:
        message.set_content(html or "", subtype="html")
    return message.as_bytes()


def _header(addresses: Sequence[str]) -> list[HeaderAddress]:
    parsed = [Address.parse(address) for address in addresses]
    return [HeaderAddress(address.name, addr_spec=address.envelope) for address in parsed]
