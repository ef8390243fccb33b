"""The SMTP client: one open session with the relay, its dialogue, and what each reply means.

Every reply and every network error is classified here and nowhere else. What comes out is a value:

- a `Result` for each recipient: accepted (2xx after the dot), deferred (4xx), bounced (5xx);
- `trouble`: the relay can't be used. Up to the login the message is blameless; later it is deferred too;
- `unknown`: the session was lost after the final dot was written, so the relay may have the message or not;
- `withdrawn`: we broke off before the final dot, since the message may be another worker's by now: nobody refused it;
- `broken`: the message itself can't be built.

docs/smtp.md has the table, line by line.
"""

import base64
import enum
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
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
        if parts.password and not parts.username:
            raise ValueError
        parts.hostname.encode("idna")  # raises UnicodeError, a ValueError, where a label is empty or too long
        if parts.scheme == "sandbox" and parts.port:
            return cls(parts.hostname, parts.port, "none", is_sandbox=True)
        port, tls = schemes.get(parts.scheme, (0, ""))
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
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Verdict(enum.Enum):
    ACCEPTED = "accepted"
    DEFERRED = "deferred"
    BOUNCED = "bounced"


@dataclass(frozen=True)
class Reply:
    """A server's answer: its code, and its text, which begins with the enhanced code (RFC 3463) if there is one.

    Code 0 is for what we say in the server's place: that it fell silent, or can't take such an address.
    """

    code: int
    text: str

    @property
    def verdict(self) -> Verdict:
        """The first digit decides (RFC 5321 §4.2)."""
        if 200 <= self.code < 300:
            return Verdict.ACCEPTED
        return Verdict.DEFERRED if self.code < 500 else Verdict.BOUNCED

    @property
    def is_too_many_recipients(self) -> bool:
        """552 was the code before RFC 2821; with another enhanced code both speak of the mailbox."""
        other = re.match(r"[45]\.(?!5\.3\b)\d+\.\d+\b", self.text)
        return self.code in (452, 552) and not other

    def __str__(self) -> str:
        """In one line, as logs and timelines have it."""
        return f"{self.code or ''} {' '.join(self.text.split())}".strip()


def is_greylisting(reply: str) -> bool:
    """Whether a temporary refusal asks no more than to come again (RFC 6647): by its words, or 4.7.1 and "later"."""
    return bool(re.search(r"gr[ae]y-? ?list|^4\d\d 4\.7\.1 .*\b(again|later|retry)\b", reply, re.IGNORECASE))


# The stages at which a refusal is not the recipient's.
AT_SENDER, AT_MESSAGE = "at MAIL FROM", "at DATA"


@dataclass(frozen=True)
class Result:
    """What a recipient got; `stage` where the reply was about the sender or the message, and so for all alike."""

    verdict: Verdict
    reply: Reply
    stage: str = ""

    def __str__(self) -> str:
        is_told = self.stage and self.verdict is not Verdict.ACCEPTED
        return f"{self.reply} ({self.stage})" if is_told else str(self.reply)


@dataclass
class Outcome:
    """What became of one attempt.

    `more`: the relay takes no more recipients in one transaction, the others are to follow at once.
    `hold`: no connection works, or no message gets an answer, so that all mail is to be held until the relay
    lets us in again.
    """

    results: dict[str, Result] = field(default_factory=dict)
    trouble: str = ""
    unknown: str = ""
    withdrawn: str = ""
    broken: str = ""
    more: bool = False
    hold: bool = False

    @property
    def is_answer(self) -> bool:
        """Whether the relay has had its last word on the message."""
        return bool(self.results) and not (self.trouble or self.unknown or self.withdrawn)

    def summary(self, verdict: Verdict) -> str:
        """The relay's words to those recipients that got `verdict`, each said once."""
        return "; ".join(dict.fromkeys(str(r.reply) for r in self.results.values() if r.verdict is verdict))

    def __str__(self) -> str:
        said = [summary for verdict in Verdict if (summary := self.summary(verdict))]
        return self.unknown or self.withdrawn or self.broken or "; ".join(said) or self.trouble


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


# What an observer of the dialogue is told: the stage that begins, a reply, and the socket once it is connected, and
# again once it speaks TLS.
Observer = Callable[[str | Reply | socket.socket], object]


class Trouble(Exception):
    """The relay can't be used now; the reason is its only argument."""


class Withdrawn(Exception):
    """The message may no longer be ours to send: it got no final dot, so the relay hasn't accepted it."""


class LostAfterDot(Exception):
    """The session was lost when the message was out: nobody can know whether the relay has it."""


class Connection:
    """The way to the relay: a session that is opened when first needed and kept open between messages."""

    def __init__(
        self,
        relay: Relay,
        hello: str = "",
        timeouts: Timeouts = Timeouts(),  # noqa: B008  frozen
        may_finish: Callable[[], bool] = lambda: True,
        observe: Observer | None = None,
        context: ssl.SSLContext | None = None,
        most_messages: int = 0,
    ):
        """`may_finish` is asked before each final dot: whether the message is still ours to send.

        After `most_messages` the session ends and a new one begins; 0 for no limit.
        `context` is for whoever wants to look at a certificate that is not valid.
        """
        self.relay = relay
        self.hello = hello
        self.timeouts = timeouts
        self.may_finish = may_finish
        self.observe = observe
        self.context = context
        self.most_messages = most_messages
        self._session: Session | None = None
        self._messages = 0  # in this session
        self._in_use = threading.RLock()

    @property
    def is_ready(self) -> bool:
        """Whether the relay has greeted us and let us in."""
        session = self._session
        return session is not None and session.is_open

    @property
    def is_working(self) -> bool:
        """Whether the relay has let us in, and is still there for all we know. May be asked by any thread."""
        if not self._in_use.acquire(blocking=False):
            return self.is_ready
        try:
            return self._session is not None and self._session.is_quiet()
        finally:
            self._in_use.release()

    def send(self, sender: str, recipients: Sequence[str], message: bytes) -> Outcome:
        """One mail transaction with one message for `recipients`.

        A server that has hung up on the idle session, or that ends it after some messages, costs a silent
        reconnect: trouble means that the final dot was not written, so a second try makes no second copy.
        """
        with self._in_use:
            if self.most_messages and self._messages >= self.most_messages:
                self.close()
            self._messages += 1
            if self._session and self._session.is_quiet():
                outcome = self._session.transact(sender, recipients, message)
                if not outcome.trouble:
                    return outcome
            try:
                session = self.open()
            except Trouble as trouble:
                return Outcome(trouble=str(trouble))
            return session.transact(sender, recipients, message)

    def open(self) -> "Session":
        """Connects, greets, secures and logs in. Raises Trouble with the reason and the stage."""
        with self._in_use:
            self.close()
            if self.observe:
                self.observe("connecting")
            try:
                connected = socket.create_connection(self.relay.address, self.timeouts.connect)
            except (OSError, UnicodeError) as error:
                raise _trouble(error, "connecting", self.timeouts.connect) from error
            session = Session(connected, self)
            try:
                session.begin()
            except Exception:
                session.quit()
                raise
            self._session = session
            self._messages = 1
            return session

    def close(self) -> None:
        """Says QUIT if there is someone to say it to; never raises."""
        with self._in_use:
            if self._session:
                self._session.quit()
                self._session = None


class Session:
    """The dialogue over one TCP connection, from the greeting to QUIT."""

    BLOCK = 256 * 1024
    MAX_REPLY = 64 * 1024  # RFC 5321 §4.5.3.1.5 allows lines of 512 bytes; some servers say more, and in many lines
    MAX_TEXT = 4000  # characters of a reply that are kept

    # Replies that speak of the session, whatever command they answer: the server closes it (RFC 5321 §3.8), finds
    # the command out of sequence, or wants a login, a better one, or encryption first (RFC 4954 §6).
    ABOUT_THE_SESSION = frozenset({421, 503, 530, 534, 535, 538})

    def __init__(self, connected: socket.socket, connection: Connection):
        self.relay = connection.relay
        self.hello = connection.hello
        self.timeouts = connection.timeouts
        self.may_finish = connection.may_finish
        self.observe = connection.observe
        self.context = connection.context
        self.extensions: dict[str, str] = {}
        self._socket = connected
        self._buffer = b""
        self._secrets: tuple[bytes, ...] = ()  # what the login tells the relay, in each form that it has on the wire
        self._deadline = 0.0
        self._in_transaction = False
        self._ahead = 0  # commands written whose replies are still to be read

    @property
    def is_open(self) -> bool:
        return self._socket.fileno() != -1

    def is_quiet(self) -> bool:
        """Whether the server has neither spoken nor hung up. Unasked, it does so to end the session."""
        try:
            self._socket.settimeout(0)
            self._buffer += self._socket.recv(self.MAX_REPLY)
        except (BlockingIOError, ssl.SSLWantReadError):  # the latter also when all that came was TLS's own
            return not self._buffer
        except OSError:
            pass
        return False

    # From the greeting to the login

    def begin(self) -> None:
        """Everything that comes before the first message. Raises Trouble."""
        if self.observe:
            self.observe(self._socket)
        if self.relay.tls == "implicit":
            self._start_tls()
        with self._stage("waiting for the greeting", self.timeouts.greeting):
            # The final dot is written alone, and must not wait for the message's acknowledgement.
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._expect_success(self._reply())
        self._greet()
        if self.relay.tls in ("required", "offered") and self._may_start_tls():
            self._start_tls()
            self._greet()
        if self.relay.username:
            self._log_in()

    def _greet(self) -> None:
        with self._stage("at EHLO", self.timeouts.command):
            hello = self.hello or default_hello(socket.gethostname()) or self._address_literal()
            reply = self._command(f"EHLO {hello}")
            self.extensions = {}
            if reply.verdict is Verdict.BOUNCED:
                self._expect_success(self._command(f"HELO {hello}"))
                return
            self._expect_success(reply)
        for line in reply.text.splitlines()[1:]:
            keyword, _, parameters = line.partition(" ")
            self.extensions[keyword.upper()] = parameters.strip()

    def _address_literal(self) -> str:
        """Our end's address as RFC 5321 §4.1.3 writes it: always true, and no host name leaks."""
        address = ipaddress.ip_address(self._socket.getsockname()[0].partition("%")[0])
        return f"[IPv6:{address}]" if address.version == 6 else f"[{address}]"

    def _may_start_tls(self) -> bool:
        """Asks for TLS. Where it is only "offered", a server that has none, or not now, gets mail in the clear."""
        required = self.relay.tls == "required"
        if "STARTTLS" not in self.extensions:
            if required:
                raise Trouble("the relay offers no STARTTLS, which submission:// requires")
            return False
        with self._stage("at STARTTLS", self.timeouts.command):
            reply = self._command("STARTTLS")
            if required or reply.code == 421:
                self._expect_success(reply)
            if self._buffer:  # a man in the middle's words must not count as said under TLS (CVE-2011-0411)
                raise Trouble("the relay spoke on in the clear")
        return reply.verdict is Verdict.ACCEPTED

    def _start_tls(self) -> None:
        # Opportunistic TLS takes any certificate: a self-signed one is better than none.
        context = self.context or tls_context(verified=self.relay.tls != "offered")
        with self._stage("starting TLS", self.timeouts.connect):
            self._socket = context.wrap_socket(self._socket, server_hostname=self.relay.host)
        if self.observe:
            self.observe(self._socket)

    def _log_in(self) -> None:
        offered = self.extensions.get("AUTH", "").upper().split()
        with self._stage("at AUTH", self.timeouts.command):
            user, password = self.relay.username.encode(), self.relay.password.encode()
            encrypted = isinstance(self._socket, ssl.SSLSocket)
            if not encrypted and not ipaddress.ip_address(self._socket.getpeername()[0]).is_loopback:
                raise Trouble("the relay offers no TLS, and a password must not travel in the clear")
            plain = b"\0" + user + b"\0" + password
            if password:
                self._secrets = (*(_base64(secret).rstrip("=").encode() for secret in (plain, password)), password)
            if "PLAIN" in offered:
                reply = self._command("AUTH PLAIN " + _base64(plain))
            elif "LOGIN" in offered:
                reply = self._command("AUTH LOGIN")
                for secret in (user, password):
                    if reply.code == 334:
                        reply = self._command(_base64(secret))
            else:
                raise Trouble("the relay offers neither AUTH PLAIN nor AUTH LOGIN, but EMAIL_URL has a login")
            if reply.verdict is not Verdict.ACCEPTED:
                raise Trouble(f"the relay refused our login: {reply}")

    # A mail transaction

    def transact(self, sender: str, recipients: Sequence[str], message: bytes) -> Outcome:
        """What came of one message; what was settled before a trouble, or before nobody can know, stands."""
        objections = {recipient: self._objection(sender, recipient, len(message)) for recipient in recipients}
        outcome = Outcome({to: Result(Verdict.BOUNCED, Reply(0, why)) for to, why in objections.items() if why})
        rest = [recipient for recipient in recipients if recipient not in outcome.results]
        try:
            if rest:
                self._transact(sender, rest, message, outcome)
        except LostAfterDot as lost:
            self.quit()
            outcome.unknown = str(lost)
        except Withdrawn as withdrawn:
            self.quit()
            outcome.withdrawn = str(withdrawn)
        except Trouble as trouble:
            self.quit()
            outcome.trouble = str(trouble)
            deferred = Result(Verdict.DEFERRED, Reply(0, str(trouble)))
            outcome.results = {recipient: deferred for recipient in rest} | outcome.results
        return outcome

    def _objection(self, sender: str, recipient: str, size: int) -> str:
        """Why this relay can't take the message for `recipient`, as far as that is known in advance."""
        if sender and not _is_mailbox(sender):
            return f"5.1.7 the sender's address can't be written into a command: {sender!r}"
        if not _is_mailbox(recipient):
            return f"5.1.3 the address can't be written into a command: {recipient!r}"
        limit = re.fullmatch("[0-9]{1,20}", self.extensions.get("SIZE", ""))
        if limit and 0 < int(limit[0]) < size:
            return f"5.3.4 the message has {size} bytes, the relay takes at most {limit[0]}"
        for address in (sender, recipient):
            if "SMTPUTF8" not in self.extensions and not address.isascii():
                return f"5.6.7 this relay can't take {address}: its letters beyond ASCII need SMTPUTF8"
        return ""

    def _transact(self, sender: str, recipients: Sequence[str], message: bytes, outcome: Outcome) -> None:
        if self._in_transaction:  # the last one was refused half-way
            with self._stage("at RSET", self.timeouts.command):
                self._expect_success(self._command("RSET"))
        parameters = f" SIZE={len(message)}" if "SIZE" in self.extensions else ""
        if not all(address.isascii() for address in (sender, *recipients)):
            parameters += " SMTPUTF8"
        mail_from = f"MAIL FROM:<{sender}>{parameters}"
        if "PIPELINING" in self.extensions:
            self._write_ahead([mail_from, *(f"RCPT TO:<{recipient}>" for recipient in recipients), "DATA"])
        reply = self._ask(mail_from, AT_SENDER, self.timeouts.command)
        if reply.verdict is not Verdict.ACCEPTED:
            outcome.results |= dict.fromkeys(recipients, Result(reply.verdict, reply, AT_SENDER))
            self._skip_ahead()
            return
        self._in_transaction = True
        taken = []
        for recipient in recipients:
            reply = self._ask(f"RCPT TO:<{recipient}>", "at RCPT TO", self.timeouts.command)
            if reply.verdict is Verdict.ACCEPTED:
                taken.append(recipient)
            else:
                verdict = Verdict.DEFERRED if reply.is_too_many_recipients else reply.verdict
                outcome.results[recipient] = Result(verdict, reply)
        if taken:
            too_many = any(result.reply.is_too_many_recipients for result in outcome.results.values())
            reply = self._data(message)
            outcome.results |= dict.fromkeys(taken, Result(reply.verdict, reply, AT_MESSAGE))
            outcome.more = too_many and reply.verdict is Verdict.ACCEPTED
        else:
            self._skip_ahead()

    def _write_ahead(self, commands: Sequence[str]) -> None:
        """Writes commands whose replies are read one by one later, as RFC 2920 allows: one packet, one round trip."""
        with self._stage(AT_SENDER, self.timeouts.command):
            self._refuse_unasked_words()
            self._socket.sendall("".join(f"{command}\r\n" for command in commands).encode())
        self._ahead = len(commands)

    def _skip_ahead(self) -> None:
        """Reads the replies to what was written ahead in vain; all outcomes are known.

        A server that would take a message for nobody gets an empty one (RFC 2920 §3.1), which it can't deliver.
        """
        try:
            while self._ahead:
                with self._stage(AT_MESSAGE, self.timeouts.data):
                    reply = self._command("")  # written already
                    if reply.code // 100 == 3:
                        self._socket.sendall(b".\r\n")
                        self._reply()
        except Trouble:
            self.quit()

    def _data(self, message: bytes) -> Reply:
        """Sends the message; the server's last word on it. Raises LostAfterDot if that is not to be had."""
        reply = self._ask("DATA", AT_MESSAGE, self.timeouts.data, success=3)
        if reply.code >= 400:
            return reply
        # All but the final dot: as long as that is missing, the relay can't have accepted.
        wire = memoryview(_dot_stuffed(message))
        for start in range(0, len(wire), self.BLOCK):  # each with its own time: a slow line is no silence
            with self._stage("sending the message", self.timeouts.block):
                try:
                    self._socket.sendall(wire[start : start + self.BLOCK])
                except OSError:
                    if self.is_quiet():
                        raise
                    return self._refusal_before_the_dot()
        with self._stage("sending the final dot", self.timeouts.block):
            if not self.is_quiet():
                return self._refusal_before_the_dot()
            if not self.may_finish():  # another may be sending it by now; without the dot it is not sent here
                raise Withdrawn("this worker had been silent for a whole lease, so it broke off before the final dot")
            self._socket.sendall(b".\r\n")
        try:
            with self._stage("after the final dot", self.timeouts.final):
                reply = self._reply()
                if reply.code // 100 == 3:
                    raise Trouble(f"the relay said {reply}")
        except Trouble as trouble:
            raise LostAfterDot(str(trouble)) from None
        self._in_transaction = False
        if reply.code == 421:
            self._socket.close()
        return reply

    def _refusal_before_the_dot(self) -> Reply:
        """A server that can't bear the whole message says why and hangs up."""
        reply = self._reply()
        self._check_place(reply, success=0)
        self._socket.close()
        return reply

    def quit(self) -> None:
        """Its answer is not waited for: by now all is settled that can be."""
        with suppress(OSError):
            self._socket.settimeout(1)
            self._socket.sendall(b"QUIT\r\n")
        self._socket.close()

    # Commands and replies

    def _ask(self, command: str, stage: str, timeout: float, success: int = 2) -> Reply:
        """One command of a transaction and its reply, if that is about the message. Raises Trouble."""
        with self._stage(stage, timeout):
            reply = self._command(command)
            self._check_place(reply, success)
            return reply

    def _check_place(self, reply: Reply, success: int) -> None:
        """Raises Trouble for a reply that is about the session, or that has no sense at this point."""
        if reply.code in self.ABOUT_THE_SESSION or reply.code // 100 not in (success, 4, 5):
            raise Trouble(f"the relay said {reply}")

    def _expect_success(self, reply: Reply) -> None:
        if reply.verdict is not Verdict.ACCEPTED:
            raise Trouble(f"the relay said {reply}")

    def _command(self, line: str) -> Reply:
        if self._ahead:
            self._ahead -= 1
        else:
            self._refuse_unasked_words()
            self._socket.sendall(line.encode() + b"\r\n")
        return self._reply()

    def _refuse_unasked_words(self) -> None:
        if self._buffer:  # replies would be taken for those of other commands
            raise Trouble(f"the relay spoke out of turn: {self._without_secrets(self._buffer)[:80]!r}")

    def _reply(self) -> Reply:
        """Reads one reply, of one line or several (RFC 5321 §4.2.1)."""
        texts, size = [], 0
        while True:
            line = self._line()
            size += len(line)
            match = re.fullmatch(rb"([2-5]\d\d)(?:([ -])(.*))?", line, re.DOTALL)
            if not match or size > self.MAX_REPLY:
                raise Trouble(f"the relay said something that is no SMTP: {self._without_secrets(line)[:80]!r}")
            texts.append(_printable(self._without_secrets(match[3] or b"")))
            if match[2] != b"-":
                reply = Reply(int(match[1]), "\n".join(texts)[: self.MAX_TEXT])
                if self.observe:
                    self.observe(reply)
                return reply

    def _without_secrets(self, said: bytes) -> bytes:
        """A relay may repeat what it was told: the password is passed on to nobody."""
        for secret in self._secrets:
            said = said.replace(secret, b"***")
        return said

    def _line(self) -> bytes:
        while b"\n" not in self._buffer:
            if len(self._buffer) > self.MAX_REPLY:
                raise Trouble("the relay sent a line without an end")
            remaining = self._deadline - time.monotonic()
            if remaining <= 0:  # of the whole stage: a drip of bytes doesn't extend it
                raise TimeoutError
            self._socket.settimeout(remaining)
            chunk = self._socket.recv(self.MAX_REPLY)
            if not chunk:
                raise ConnectionResetError("the relay closed the connection")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.rstrip(b"\r")

    @contextmanager
    def _stage(self, name: str, timeout: float) -> Iterator[None]:
        """One stage of the dialogue: its timeout, and its name in the Trouble that its errors become."""
        self._deadline = time.monotonic() + timeout
        if self.observe:
            self.observe(name)
        try:
            self._socket.settimeout(timeout)
            yield
        except Trouble as trouble:
            raise Trouble(f"{trouble} ({name})") from None
        except (OSError, UnicodeError) as error:
            self._socket.close()
            raise _trouble(error, name, timeout) from error


def default_hello(host: str) -> str:
    """The host's name if it is fully qualified and no container's id, else "": then an address literal is said."""
    labels = host.lower().rstrip(".").split(".")
    is_name = len(labels) > 1 and all(re.fullmatch(r"(?!-)[a-z0-9-]{1,63}(?<!-)", label) for label in labels)
    is_local = labels[-1].isdigit() or labels[-1] in _LOCAL_DOMAINS
    is_container = re.fullmatch(r"[0-9a-f]{12}|[0-9a-f]{64}", labels[0])
    return ".".join(labels) if is_name and not is_local and not is_container else ""


_LOCAL_DOMAINS = {"local", "localdomain", "localhost", "internal", "lan", "home", "invalid", "test"}


def _trouble(error: OSError | UnicodeError, stage: str, timeout: float) -> Trouble:
    if isinstance(error, TimeoutError):
        why = f"no answer within {timeout:g} s"
    elif isinstance(error, ssl.SSLCertVerificationError):
        why = f"the relay's certificate is not valid: {error.verify_message}"
    elif isinstance(error, ssl.SSLError) and error.reason:
        why = f"TLS failed: {error.reason.replace('_', ' ').lower()}"
    else:
        why = getattr(error, "strerror", "") or str(error) or type(error).__name__
    return Trouble(f"{why} ({stage})")


@cache  # reading the system's certificates takes 60 ms
def tls_context(verified: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not verified:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


_MAILBOX = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[^ "<>\\]+)@[^ "<>\\]+')


def _is_mailbox(address: str) -> bool:
    """Whether `address` stays one word between < and >: no address can smuggle in a parameter or a command."""
    return address.isprintable() and bool(_MAILBOX.fullmatch(address))


def _dot_stuffed(message: bytes) -> bytes:
    """The message as RFC 5321 §4.5.2 wants it, ending in CRLF, without the final dot."""
    if not message.endswith(b"\r\n"):
        message += b"\r\n"
    message = message.replace(b"\r\n.", b"\r\n..")
    return b"." + message if message.startswith(b".") else message


def _printable(text: bytes) -> str:
    """A server's words, safe to store, log and show: no control characters, no line breaks."""
    decoded = text.decode(errors="replace").replace("\t", " ").strip()
    return "".join(character if character.isprintable() else "?" for character in decoded)


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()
