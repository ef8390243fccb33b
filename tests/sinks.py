"""Real servers on port 0 that play the other side."""

import base64
import contextlib
import socket
import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

# What a server does at a stage of the dialogue: a reply; "drop" (hangs up), "silence" (says nothing more) or
# "stall" (doesn't even read on); bytes to send raw; a function of the connection; or several of these in turn.
Step = str | bytes | Callable[[socket.socket], object] | tuple


@dataclass
class Received:
    """A message that the relay took, with its envelope."""

    sender: str
    recipients: list[str]
    data: bytes


@dataclass
class Relay:
    """An SMTP server whose every answer can be scripted.

    `script[stage]` holds its steps for the next times at that stage: greeting, a verb (EHLO, MAIL, `RCPT
    address` for one recipient alone, …), TLS (in place of the handshake), block (after the message's first
    line), dot. Where the script is empty it behaves well. `always[stage]` is for every time.
    """

    script: dict[str, list[Step]] = field(default_factory=lambda: defaultdict(list))
    always: dict[str, Step] = field(default_factory=dict)
    received: list[Received] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    connections: int = 0
    host: str = "127.0.0.1"
    port: int = 0
    most_connections: int = 1000  # further ones are greeted with 421
    messages_per_connection: int = 1000  # after which MAIL is answered with 421
    extensions: tuple[str, ...] = ("PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES")
    certificate: ssl.SSLContext | None = None  # with it STARTTLS is offered
    implicit_tls: bool = False
    login: tuple[str, str] = ("", "")

    def __post_init__(self):
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        self._socket = socket.create_server((self.host, self.port), family=family)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self.port = self._socket.getsockname()[1]
        self.url = f"smtp://{self.host}:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Refuses connections from here on, and ends the open ones."""
        self._closing.set()
        _end(self._socket)
        self.hang_up()

    def hang_up(self) -> None:
        """Ends the open connections, as a server does that has waited long enough."""
        with self._lock:
            for connection in self._open:
                _end(connection)

    def next_step(self, stage: str, default: Step) -> Step:
        with self._lock:
            return self.script[stage].pop(0) if self.script[stage] else self.always.get(stage, default)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                self._open.add(connection)
                crowded = len(self._open) > self.most_connections
            if crowded:
                self._refuse(connection)
                continue
            threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _refuse(self, connection: socket.socket) -> None:
        with connection, self._lock:
            self._open.discard(connection)
            connection.sendall(b"421 4.7.0 too many connections\r\n")

    def _serve(self, connection: socket.socket) -> None:
        session = _Session(self, connection)
        with contextlib.suppress(OSError, ValueError):
            session.run()
        with self._lock:
            self._open.discard(session.connection)
            session.reader.close()
            _end(session.connection)


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)  # wakes whoever waits in accept() or recv(), as close() does not
    connection.close()


class _Hangup(OSError):
    pass


class _Session:
    def __init__(self, relay: Relay, connection: socket.socket):
        self.relay, self.connection = relay, connection
        self.reader = connection.makefile("rb")
        self.encrypted = False
        self.messages = 0
        self.forget()

    def forget(self) -> None:
        """No transaction is under way."""
        self.sender: str | None = None
        self.recipients: list[str] = []

    def run(self) -> None:
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.relay.implicit_tls:
            self.start_tls()
        self.answer("greeting", "220 relay.test ESMTP")
        while line := self.reader.readline():
            text = line.decode(errors="replace").strip()
            with self.relay._lock:
                self.relay.lines.append(text)
            verb, _, rest = text.partition(" ")
            handler = getattr(self, f"do_{verb.lower()}", None)
            if handler:
                handler(rest)
            else:
                self.answer(verb.upper(), "250 ok" if verb in ("HELO", "NOOP") else "502 5.5.1 not here")

    def answer(self, stage: str, default: Step) -> str:
        """Does what is to be done at `stage`; the code that was said."""
        step = self.relay.next_step(stage, default)
        self.perform(step)
        return _code(step)

    def perform(self, step: Step) -> None:
        if isinstance(step, tuple):
            for one in step:
                self.perform(one)
        elif callable(step):
            step(self.connection)
        elif step == "silence":
            self.reader.read()
            raise _Hangup
        elif step == "stall":
            self.relay._closing.wait(60)
            raise _Hangup
        elif step == "drop":
            raise _Hangup
        else:
            self.connection.sendall(step if isinstance(step, bytes) else step.encode() + b"\r\n")

    # The verbs

    def do_ehlo(self, name: str) -> None:
        extensions = list(self.relay.extensions)
        if self.relay.certificate and not self.encrypted:
            extensions.append("STARTTLS")
        if self.relay.login[0] and not any(extension.startswith("AUTH") for extension in extensions):
            extensions.append("AUTH PLAIN LOGIN")
        self.answer("EHLO", multiline(250, "relay.test", *extensions))

    def do_starttls(self, rest: str) -> None:
        if self.answer("STARTTLS", "220 go ahead") == "220":
            self.start_tls()

    def start_tls(self) -> None:
        if step := self.relay.next_step("TLS", ""):
            self.perform(step)
        with self.relay._lock:
            self.relay._open.discard(self.connection)
            self.reader.close()
            self.connection = self.relay.certificate.wrap_socket(
                self.connection, server_side=True, do_handshake_on_connect=False
            )
            self.relay._open.add(self.connection)
        self.connection.do_handshake()
        self.reader = self.connection.makefile("rb")
        self.encrypted = True

    def do_auth(self, rest: str) -> None:
        mechanism, _, initial = rest.partition(" ")
        if step := self.relay.next_step("AUTH", ""):
            self.perform(step)
            return
        if mechanism == "PLAIN":
            given = tuple(base64.b64decode(initial).decode().split("\0")[1:])
        else:
            given = (self.ask("Username:"), self.ask("Password:"))
        self.perform("235 2.7.0 welcome" if given == self.relay.login else "535 5.7.8 wrong")

    def ask(self, prompt: str) -> str:
        self.perform("334 " + base64.b64encode(prompt.encode()).decode())
        return base64.b64decode(self.reader.readline()).decode()

    def do_mail(self, rest: str) -> None:
        if self.messages >= self.relay.messages_per_connection:
            self.perform(("421 4.7.0 enough for this connection", "drop"))
        self.messages += 1
        self.forget()
        if self.answer("MAIL", "250 2.1.0 ok").startswith("2"):
            self.sender = rest.partition(":<")[2].rpartition(">")[0]

    def do_rcpt(self, rest: str) -> None:
        address = rest.partition(":<")[2].rpartition(">")[0]
        usual = "503 5.5.1 MAIL first" if self.sender is None else "250 2.1.5 ok"
        own = self.relay.next_step(f"RCPT {address}", usual)
        if self.answer("RCPT", own).startswith("2"):
            self.recipients.append(address)

    def do_data(self, rest: str) -> None:
        if self.answer("DATA", "354 go on" if self.recipients else "503 5.5.1 RCPT first") == "354":
            self.take_message()

    def do_rset(self, rest: str) -> None:
        self.forget()
        self.answer("RSET", "250 ok")

    def do_quit(self, rest: str) -> None:
        self.perform((self.relay.next_step("QUIT", "221 bye"), "drop"))

    def take_message(self) -> None:
        lines = []
        while (line := self.reader.readline()) != b".\r\n":
            if not line:
                raise _Hangup
            lines.append(line[1:] if line.startswith(b".") else line)
            if len(lines) == 1 and (step := self.relay.next_step("block", "")):
                self.perform(step)
        step = self.relay.next_step("dot", "250 2.0.0 taken")
        if _code(step).startswith("2") or step == "drop-taken":
            with self.relay._lock:
                self.relay.received.append(Received(self.sender, self.recipients, b"".join(lines)))
        self.forget()
        self.perform("drop" if step == "drop-taken" else step)


def _code(step: Step) -> str:
    """The code that a step says first; empty if it isn't text."""
    first = step[0] if isinstance(step, tuple) else step
    first = first.decode(errors="replace") if isinstance(first, bytes) else first
    return first[:3] if isinstance(first, str) else ""


# Steps


def multiline(code: int, *lines: str) -> str:
    """A reply of several lines."""
    return "\r\n".join(f"{code}{' ' if n == len(lines) else '-'}{line}" for n, line in enumerate(lines, 1))


def drip(data: bytes, pause: float) -> Callable[[socket.socket], None]:
    """Sends `data` byte by byte, with a pause before each."""

    def step(connection: socket.socket) -> None:
        for byte in data:
            time.sleep(pause)
            connection.sendall(bytes([byte]))

    return step
