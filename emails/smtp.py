"""The SMTP client: one open connection to the relay, its dialogue, and what each reply means.

Every reply and every network error is classified here and nowhere else. What comes out is a value:

- a `Result` for each recipient: accepted (2xx after the dot), deferred (4xx), bounced (5xx);
- `trouble`: the relay can't be used. Up to the login the message is blameless; later it is deferred too;
- `unknown`: the link was lost after the final dot was written, so the relay may have the message or not;
- `broken`: the message itself can't be built.

docs/smtp.md has the table, line by line.
"""

import base64
import enum
import ipaddress
import re
import select
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True)
class Relay:
    """The server that takes our mail: its address, and how to speak to it.

    `tls` is "implicit" (smtps), "required" (STARTTLS or nothing), "offered" (STARTTLS where the server
    has it) or "none". `address_file`, for the sandbox beside us, holds the address instead.
    """

    host: str = ""
    port: int = 0
    tls: str = "offered"
    username: str = ""
    password: str = field(default="", repr=False)
    is_sandbox: bool = False
    address_file: Path | None = None

    @classmethod
    def beside(cls, address_file: Path) -> Self:
        """The sandbox on this machine, which records its free port in `address_file`."""
        return cls(tls="none", is_sandbox=True, address_file=address_file)

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Raises ValueError for a URL that names no relay."""
        schemes = {"smtp": (25, "offered"), "submission": (587, "required"), "smtps": (465, "implicit")}
        parts = urlsplit(url)
        if not parts.hostname or parts.path.strip("/") or parts.query or parts.fragment:
            raise ValueError
        if parts.scheme == "sandbox" and parts.port:
            return cls(parts.hostname, parts.port, "none", is_sandbox=True)
        port, tls = schemes[parts.scheme] if parts.scheme in schemes else (0, "")
        if not port:
            raise ValueError
        return cls(
            parts.hostname, parts.port or port, tls, unquote(parts.username or ""), unquote(parts.password or "")
        )

    @property
    def address(self) -> tuple[str, int]:
        """Host and port. Raises OSError while the sandbox beside us has not recorded its own."""
        if self.address_file:
            try:
                host, _, port = self.address_file.read_text().strip().rpartition(":")
                return host, int(port)
            except (FileNotFoundError, ValueError):
                raise ConnectionError(
                    "the sandbox is not running: start it with `make run` or `make services`"
                ) from None
        return self.host, self.port

    def __str__(self) -> str:
        if self.is_sandbox:
            return "sandbox"
        return f"{self.host}:{self.port}"


class Verdict(enum.Enum):
    ACCEPTED = "accepted"
    DEFERRED = "deferred"
    BOUNCED = "bounced"


@dataclass(frozen=True)
class Reply:
    """A server's answer: code, and text with the enhanced code (RFC 3463) where there is one.

    Code 0 is for what we say in the server's place: that it fell silent, or can't take such an address.
    """

    code: int
    text: str

    @property
    def verdict(self) -> Verdict:
        if 200 <= self.code < 300:
            return Verdict.ACCEPTED
        return Verdict.DEFERRED if self.code < 500 else Verdict.BOUNCED

    def __str__(self) -> str:
        return f"{self.code or ''} {self.text}".strip()


@dataclass(frozen=True)
class Result:
    verdict: Verdict
    reply: Reply


@dataclass
class Outcome:
    """What became of one attempt.

    `more`: the relay takes no more recipients in one transaction, the others are to follow at once.
    `hold`: no connection works, so that all mail is to be held until the relay lets us in again.
    """

    results: dict[str, Result] = field(default_factory=dict)
    trouble: str = ""
    unknown: str = ""
    broken: str = ""
    more: bool = False
    hold: bool = False

    def summary(self, verdict: Verdict) -> str:
        """The relay's words to those recipients that got `verdict`, each said once."""
        return "; ".join(dict.fromkeys(str(r.reply) for r in self.results.values() if r.verdict is verdict))

    def __str__(self) -> str:
        said = [summary for verdict in Verdict if (summary := self.summary(verdict))]
        return self.unknown or self.broken or "; ".join(said) or self.trouble


@dataclass(frozen=True)
class Timeouts:
    """Seconds to wait for the relay at each stage: the minima of RFC 5321 §4.5.3.2.

    Shorter ones after the final dot make duplicates (RFC 1047): the server may be storing the message.
    """

    connect: float = 60
    greeting: float = 300
    command: float = 300
    data: float = 120
    block: float = 180
    final: float = 600


class Trouble(Exception):
    """The relay can't be used now; the reason is its only argument."""


class LostAfterDot(Exception):
    """The connection was lost when the message was out: nobody can know whether the relay has it."""


class Connection:
    """A session with the relay, opened when first needed and kept open between messages."""

    MAX_LINE = 8192  # RFC 5321 allows 512; some servers say more
    BLOCK = 256 * 1024

    def __init__(self, relay: Relay, hello: str = "", timeouts: Timeouts = Timeouts()):  # noqa: B008  frozen
        self.relay = relay
        self.hello = hello
        self.timeouts = timeouts
        self.extensions: dict[str, str] = {}
        self._socket: socket.socket | None = None
        self._buffer = b""
        self._timeout = self._deadline = 0.0
        self.is_ready = False  # greeted, secured and logged in
        self._in_use = False

    @property
    def is_open(self) -> bool:
        return self._socket is not None

    @property
    def is_working(self) -> bool:
        """Whether the relay has let us in, and is still there for all we know. May be asked by any thread."""
        return self.is_ready and (self._in_use or not self._hung_up())

    def send(self, sender: str, recipients: Sequence[str], message: bytes) -> Outcome:
        """One mail transaction with one message for `recipients`.

        A server that has hung up on the idle connection, or that ends it after some messages, costs a
        silent reconnect.
        """
        self._in_use = True
        try:
            return self._send(sender, recipients, message)
        finally:
            self._in_use = False

    def _send(self, sender: str, recipients: Sequence[str], message: bytes) -> Outcome:
        reused = self.is_ready and not self._hung_up()
        if not reused:
            self.close()
            try:
                self.open()
            except Trouble as trouble:
                self.close()
                return Outcome(trouble=str(trouble))
        try:
            return self._transact(sender, recipients, message)
        except Trouble as trouble:
            self.close()
            if reused:
                return self._send(sender, recipients, message)
            deferred = Result(Verdict.DEFERRED, Reply(0, str(trouble)))
            return Outcome({recipient: deferred for recipient in recipients}, trouble=str(trouble))

    def open(self) -> None:
        """Connects, greets, secures and logs in. Raises Trouble with the stage and the reason."""
        self._buffer = b""
        with self._stage("connecting", self.timeouts.connect):
            host, port = self.relay.address
            self._socket = socket.create_connection((host, port), timeout=self.timeouts.connect)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.relay.tls == "implicit":
            self._start_tls()
        with self._stage("waiting for the greeting", self.timeouts.greeting):
            self._expect(self._reply(), 220)
        self._greet()
        if self.relay.tls == "required" and "STARTTLS" not in self.extensions:
            raise Trouble("the relay offers no STARTTLS, which submission:// requires")
        if self.relay.tls in ("required", "offered") and "STARTTLS" in self.extensions:
            with self._stage("at STARTTLS", self.timeouts.command):
                self._expect(self._command("STARTTLS"), 220)
            self._buffer = b""  # what a man in the middle wrote before TLS must not count (CVE-2011-0411)
            self._start_tls()
            self._greet()
        if self.relay.username:
            self._log_in()
        self.is_ready = True

    def close(self) -> None:
        """Says QUIT if there is someone to say it to; never raises."""
        if not self._socket:
            return
        try:
            self._socket.settimeout(1)
            self._socket.sendall(b"QUIT\r\n")
        except OSError:
            pass
        finally:
            self._drop()

    def _transact(self, sender: str, recipients: Sequence[str], message: bytes) -> Outcome:
        results = self._impossible(sender, recipients, message)
        rest = [recipient for recipient in recipients if recipient not in results]
        if not rest:
            return Outcome(results)
        reply = self._mail_from(sender, rest, len(message))
        if reply.verdict is not Verdict.ACCEPTED:
            self._reset()
            return Outcome(results | {recipient: Result(reply.verdict, reply) for recipient in rest})
        results |= self._rcpt_to(rest)
        taken = [recipient for recipient in rest if results[recipient].verdict is Verdict.ACCEPTED]
        if not taken:
            self._reset()
            return Outcome(results)
        try:
            reply = self._data(message)
        except LostAfterDot as lost:
            self._drop()
            return Outcome(unknown=str(lost))
        results |= {recipient: Result(reply.verdict, reply) for recipient in taken}
        more = any(result.reply.code == 452 for result in results.values() if result.verdict is Verdict.DEFERRED)
        return Outcome(results, more=more and reply.verdict is Verdict.ACCEPTED)

    def _impossible(self, sender: str, recipients: Sequence[str], message: bytes) -> dict[str, Result]:
        """What this relay has told us in advance that it can't take."""
        limit = self.extensions.get("SIZE", "")
        if limit.isdigit() and 0 < int(limit) < len(message):
            reply = Reply(0, f"5.3.4 the message has {len(message)} bytes, the relay takes at most {limit}")
            return {recipient: Result(Verdict.BOUNCED, reply) for recipient in recipients}
        if "SMTPUTF8" in self.extensions:
            return {}
        reply = Reply(
            0, "5.6.7 the address has non-ASCII letters before the @, which this relay can't take (no SMTPUTF8)"
        )
        return {
            recipient: Result(Verdict.BOUNCED, reply)
            for recipient in recipients
            if not (recipient.isascii() and sender.isascii())
        }

    def _mail_from(self, sender: str, recipients: Sequence[str], size: int) -> Reply:
        command = f"MAIL FROM:<{sender}>"
        if "SIZE" in self.extensions:
            command += f" SIZE={size}"
        if not all(address.isascii() for address in (sender, *recipients)):
            command += " SMTPUTF8"
        with self._stage("at MAIL FROM", self.timeouts.command):
            reply = self._command(command)
            if reply.code in (530, 534, 535, 538):  # it wants a login, or a better one: no message's fault
                raise Trouble(f"the relay said {reply}")
            return self._unless_closing(reply)

    def _rcpt_to(self, recipients: Sequence[str]) -> dict[str, Result]:
        results = {}
        with self._stage("at RCPT TO", self.timeouts.command):
            for recipient in recipients:
                reply = self._unless_closing(self._command(f"RCPT TO:<{recipient}>"))
                results[recipient] = Result(reply.verdict, reply)
        return results

    def _data(self, message: bytes) -> Reply:
        """Sends the message; the server's last word on it. Raises LostAfterDot if that is not to be had."""
        with self._stage("at DATA", self.timeouts.data):
            reply = self._unless_closing(self._command("DATA"))
        if reply.code != 354:
            if reply.verdict is Verdict.ACCEPTED:
                raise Trouble(f"the relay said {reply} to DATA")
            self._reset()
            return reply
        with self._stage("sending the message", self.timeouts.block):
            # All but the final dot: as long as that is missing, the relay can't have accepted.
            self._write_message(_dot_stuffed(message))
        try:
            with self._stage("after the final dot", self.timeouts.final):
                self._write(b".\r\n")
                reply = self._reply()
                if reply.code // 100 == 3:
                    raise Trouble(f"the relay said {reply}")
        except Trouble as trouble:
            raise LostAfterDot(str(trouble)) from None
        if reply.code == 421:
            self._drop()
        return reply

    def _unless_closing(self, reply: Reply) -> Reply:
        """A 421 at any time means that the server closes the connection (RFC 5321 §3.8)."""
        if reply.code == 421:
            raise Trouble(f"the relay said {reply}")
        return reply

    def _greet(self) -> None:
        hello = self.hello or self._address_literal()
        with self._stage("at EHLO", self.timeouts.command):
            reply = self._command(f"EHLO {hello}")
            if reply.verdict is Verdict.BOUNCED:
                reply = self._command(f"HELO {hello}")
            self._expect(reply, 250)
        words = [line.split(None, 1) for line in reply.text.split("\n")[1:]]
        self.extensions = {word[0].upper(): word[1] if len(word) > 1 else "" for word in words if word}

    def _address_literal(self) -> str:
        """Our end's address as RFC 5321 §4.1.3 writes it: always true, and no host name leaks."""
        assert self._socket
        address = ipaddress.ip_address(self._socket.getsockname()[0].partition("%")[0])
        return f"[IPv6:{address}]" if address.version == 6 else f"[{address}]"

    def _start_tls(self) -> None:
        # Opportunistic TLS takes any certificate: a self-signed one is better than none.
        context = _tls_context(verified=self.relay.tls != "offered")
        assert self._socket
        with self._stage("starting TLS", self.timeouts.greeting):
            self._socket = context.wrap_socket(self._socket, server_hostname=self.relay.host)

    def _log_in(self) -> None:
        assert self._socket
        offered = self.extensions.get("AUTH", "").upper().split()
        encrypted = isinstance(self._socket, ssl.SSLSocket)
        if not encrypted and not ipaddress.ip_address(self._socket.getpeername()[0]).is_loopback:
            raise Trouble("the relay offers no TLS, and a password must not travel in the clear")
        user, password = self.relay.username.encode(), self.relay.password.encode()
        with self._stage("at AUTH", self.timeouts.command):
            if "PLAIN" in offered:
                reply = self._command("AUTH PLAIN " + _base64(b"\0" + user + b"\0" + password))
            elif "LOGIN" in offered:
                reply = self._command("AUTH LOGIN")
                for secret in (user, password):
                    if reply.code == 334:
                        reply = self._command(_base64(secret))
            else:
                raise Trouble("the relay offers neither AUTH PLAIN nor AUTH LOGIN, but EMAIL_URL has a login")
            if reply.code != 235:
                raise Trouble(f"the relay refused our login: {reply}")

    def _reset(self) -> None:
        with self._stage("at RSET", self.timeouts.command):
            self._expect(self._command("RSET"), 250)

    def _expect(self, reply: Reply, code: int) -> None:
        if reply.code != code:
            raise Trouble(str(reply))

    def _command(self, line: str) -> Reply:
        self._write(line.encode() + b"\r\n")
        return self._reply()

    def _write(self, data: bytes) -> None:
        assert self._socket
        self._socket.sendall(data)

    def _write_message(self, message: bytes) -> None:
        """In blocks, each with its own time: a large message over a slow line is no silence."""
        assert self._socket
        self._socket.settimeout(self.timeouts.block)
        for start in range(0, len(message), self.BLOCK):
            self._socket.sendall(memoryview(message)[start : start + self.BLOCK])

    def _reply(self) -> Reply:
        """Reads one reply, of one line or several (RFC 5321 §4.2), within the stage's timeout as a whole."""
        self._deadline = time.monotonic() + self._timeout
        texts: list[str] = []
        while True:
            line = self._line()
            match = re.fullmatch(rb"([2-5]\d\d)(?:([ -])(.*))?", line)
            if not match or len(texts) > 100:
                raise Trouble(f"the relay said something that is no SMTP: {line[:80]!r}")
            texts.append((match[3] or b"").replace(b"\0", b"?").decode(errors="replace").strip())
            if match[2] != b"-":
                return Reply(int(match[1]), "\n".join(texts))

    def _line(self) -> bytes:
        assert self._socket
        while b"\n" not in self._buffer:
            if len(self._buffer) > self.MAX_LINE:
                raise Trouble("the relay sent a line without an end")
            self._socket.settimeout(max(0.001, self._deadline - time.monotonic()))
            chunk = self._socket.recv(65536)
            if not chunk:
                raise ConnectionResetError("the relay closed the connection")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.rstrip(b"\r")

    def _hung_up(self) -> bool:
        """Whether the server has spoken or closed while we were idle: either way it is done with us."""
        if not (connection := self._socket):
            return True
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        return bool(poll.poll(0))

    @contextmanager
    def _stage(self, name: str, timeout: float) -> Iterator[None]:
        """One stage of the dialogue: its timeout, and its name in the Trouble that its errors become."""
        self._timeout = timeout
        if self._socket:
            self._socket.settimeout(timeout)
        try:
            yield
        except Trouble as trouble:
            raise Trouble(f"{trouble} ({name})") from None
        except OSError as error:
            self._drop()
            raise Trouble(f"{_in_words(error, timeout)} ({name})") from error

    def _drop(self) -> None:
        self.is_ready = False
        if self._socket:
            self._socket.close()
            self._socket = None


def _in_words(error: OSError, timeout: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {timeout:g} s"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the relay's certificate is not valid: {error.verify_message}"
    return error.strerror or str(error) or type(error).__name__


@cache
def _tls_context(verified: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not verified:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _dot_stuffed(message: bytes) -> bytes:
    """The message as it goes over the wire (RFC 5321 §4.5.2), ending in CRLF, without the final dot."""
    if not message.endswith(b"\r\n"):
        message += b"\r\n"
    message = message.replace(b"\r\n.", b"\r\n..")
    return b"." + message if message.startswith(b".") else message


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()
