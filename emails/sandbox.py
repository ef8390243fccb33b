"""The sandbox: a receiving mail server that stores the very bytes and sends nothing anywhere."""

import asyncio
import logging
import os
import re
import signal
from contextlib import suppress
from email import policy
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

from aiosmtpd.smtp import SMTP, Envelope, Session
from asgiref.sync import sync_to_async
from django.db import close_old_connections, transaction
from django.utils import timezone

from emails.models import SandboxMessage, SandboxRecipient

logger = logging.getLogger(__name__)

MAX_BYTES = 50 * 1024 * 1024
MAX_ADDRESS = SandboxRecipient._meta.get_field("mailbox").max_length
MAX_HEADERS = 64 * 1024  # bytes in which a message's subject and sender are looked for
MAX_SHOWN = 1000  # characters of them that are kept for lists

_UNFIT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # the last: bytes that are no UTF-8


class Receiver(SMTP):
    """Takes lines of any length: what a relay would refuse is here to be looked at."""

    line_length_limit = MAX_BYTES


class Handler:
    """What the server does with envelope and message; one serves all connections."""

    def __init__(self) -> None:
        self._storing: set[asyncio.Task] = set()

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if refusal := _refusal(address, envelope):
            return refusal
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 2.1.0 OK"

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if refusal := _refusal(address, envelope):
            return refusal
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        sender = "" if envelope.mail_from == "<>" else envelope.mail_from
        storing = asyncio.create_task(sync_to_async(_store)(sender, envelope.rcpt_tos, envelope.original_content))
        self._storing.add(storing)
        storing.add_done_callback(self._storing.discard)
        try:
            message = await asyncio.shield(storing)
        except Exception as error:  # whatever it is, the sender still has the message and can come again
            logger.error("The sandbox could not store a message: %s", error)
            return "451 4.3.0 The sandbox could not store the message, try again later"
        return f"250 2.0.0 OK: kept in the sandbox as {message.pk}"

    async def finish(self) -> None:
        """Returns when what is being stored is stored, and its sender has been told."""
        if self._storing:
            await asyncio.wait(set(self._storing))


def _refusal(address: str, envelope: Envelope) -> str | None:
    """The reply to an address that can't be kept as it is, or should not have been sent (RFC 6531)."""
    if len(address) > MAX_ADDRESS or _UNFIT.search(address):
        return "553 5.1.3 The address is too long, or holds characters that none may hold"
    if not address.isascii() and not envelope.smtp_utf8:
        return "553 5.6.7 An address beyond ASCII needs SMTPUTF8"
    return None


def store(envelope_from: str, envelope_to: list[str], raw: bytes) -> SandboxMessage:
    """Keeps one message as it arrived."""
    headers = HeaderParser(policy=policy.compat32).parsestr(raw[:MAX_HEADERS].decode(errors="replace"))
    with transaction.atomic():
        message = SandboxMessage.objects.create(
            received_at=timezone.now(),
            envelope_from=envelope_from,
            envelope_to=envelope_to,
            subject=_shown(headers, "Subject"),
            sender=_shown(headers, "From"),
            raw=raw,
        )
        mailboxes = dict.fromkeys(address.lower() for address in envelope_to)
        SandboxRecipient.objects.bulk_create(
            SandboxRecipient(message=message, mailbox=mailbox) for mailbox in mailboxes
        )
    return message


def _store(*message) -> SandboxMessage:
    """As `store`, in a thread that lives as long as the server: with a connection that works."""
    close_old_connections()
    try:
        return store(*message)
    finally:
        close_old_connections()


def _shown(headers: Message, name: str) -> str:
    """A header as a line of text, with its encoded words read; whatever a stranger's client sends is kept."""
    value = re.sub(r"[\r\n]+", "", str(headers.get(name, "")))
    with suppress(Exception):  # words that can't be decoded are shown as they stand
        value = str(policy.default.header_factory("Subject", value))
    return value[:MAX_SHOWN].replace("\0", "\ufffd").encode(errors="replace").decode()


def serve(host: str, port: int, address_file: Path) -> None:
    """Listens until SIGTERM or SIGINT, with the address in `address_file` meanwhile.

    A free port is noted beside it, and taken again by the next run if it is still free.
    """
    asyncio.run(_serve(host, port, address_file))


async def _serve(host: str, port: int, address_file: Path) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    handler = Handler()

    def session() -> SMTP:
        return Receiver(handler, data_size_limit=MAX_BYTES, enable_SMTPUTF8=True, hostname="sandbox", timeout=300)

    port_file = address_file.with_suffix(".port")
    server = None
    if not port and (last := _read_port(port_file)):
        with suppress(OSError):
            server = await loop.create_server(session, host, last)
    server = server or await loop.create_server(session, host, port)
    taken = server.sockets[0].getsockname()[1]
    address = f"{host}:{taken}"
    if not port:
        _write(port_file, str(taken))
    _write(address_file, address)
    print(f"The sandbox takes mail on {address} and keeps it.", flush=True)

    await stop.wait()
    server.close()
    await handler.finish()
    with suppress(OSError):
        if address_file.read_text() == address:
            address_file.unlink()


def _read_port(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _write(file: Path, text: str) -> None:
    """Puts `text` into `file` in one step: whoever reads it meanwhile sees the old or the new."""
    draft = file.with_suffix(f".{os.getpid()}")
    draft.write_text(text)
    os.replace(draft, file)
