"""The sandbox: a receiving mail server that stores the very bytes and sends nothing anywhere."""

import asyncio
import logging
import os
import signal
from email import policy
from email.parser import BytesHeaderParser
from pathlib import Path

from aiosmtpd.smtp import SMTP, Envelope, Session
from asgiref.sync import sync_to_async
from django.db import DatabaseError, close_old_connections, transaction
from django.utils import timezone

from emails.models import SandboxMessage, SandboxRecipient

logger = logging.getLogger(__name__)

MAX_BYTES = 50 * 1024 * 1024


class Handler:
    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        try:
            message = await sync_to_async(store)(envelope.mail_from or "", envelope.rcpt_tos, envelope.original_content)
        except DatabaseError as error:
            logger.error("The sandbox could not store a message: %s", error)
            return "451 4.3.0 The sandbox could not store the message, try again later"
        return f"250 2.0.0 OK: kept in the sandbox as {message.pk}"


def store(envelope_from: str, envelope_to: list[str], raw: bytes) -> SandboxMessage:
    """Keeps one message as it arrived."""
    close_old_connections()
    headers = BytesHeaderParser(policy=policy.default).parsebytes(raw)
    with transaction.atomic():
        message = SandboxMessage.objects.create(
            received_at=timezone.now(),
            envelope_from=envelope_from,
            envelope_to=envelope_to,
            subject=_header(headers, "Subject"),
            sender=_header(headers, "From"),
            raw=raw,
        )
        SandboxRecipient.objects.bulk_create(
            SandboxRecipient(message=message, mailbox=address.lower()) for address in dict.fromkeys(envelope_to)
        )
    return message


def _header(headers, name: str) -> str:
    """A header as text, without what a database can't hold; whatever a stranger's client sends is kept."""
    try:
        return str(headers[name] or "").replace("\0", "\ufffd").encode(errors="replace").decode()
    except Exception:
        return "(unreadable)"


def serve(host: str, port: int, address_file: Path) -> None:
    """Listens until SIGTERM or SIGINT, with the address in `address_file` meanwhile.

    The port of the last run is taken again if it is still free.
    """
    asyncio.run(_serve(host, port, address_file))


async def _serve(host: str, port: int, address_file: Path) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)

    def session() -> SMTP:
        return SMTP(Handler(), data_size_limit=MAX_BYTES, enable_SMTPUTF8=True, hostname="sandbox", timeout=300)

    server = None
    if not port and (last := _last_port(address_file)):
        try:
            server = await loop.create_server(session, host, last)
        except OSError:
            pass
    server = server or await loop.create_server(session, host, port)
    address = f"{host}:{server.sockets[0].getsockname()[1]}"
    draft = address_file.with_suffix(".new")
    draft.write_text(address)
    os.replace(draft, address_file)
    print(f"The sandbox takes mail on {address} and keeps it.", flush=True)
    async with server:
        await stop.wait()


def _last_port(address_file: Path) -> int | None:
    try:
        return int(address_file.read_text().rpartition(":")[2])
    except (OSError, ValueError):
        return None
