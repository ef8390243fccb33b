"""Real servers on port 0 that play the other side."""

import socket
import threading
from collections import defaultdict
from dataclasses import dataclass, field


@dataclass
class Received:
    """A message that the relay took, with its envelope."""

    sender: str
    recipients: list[str]
    data: bytes


@dataclass
class Relay:
    """An SMTP server whose every answer can be scripted.

    `script[stage]` holds what it does the next times at that stage (greeting, EHLO, MAIL, RCPT, DATA, dot,
    …): a reply, "drop" (closes the connection), "silence" (says nothing more), or bytes to send raw. Where
    the script is empty it behaves well. `always[stage]` is for every time.
    """

    script: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    always: dict[str, str] = field(default_factory=dict)
    received: list[Received] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    most_connections: int = 1000  # further ones are greeted with 421
    messages_per_connection: int = 1000  # after which MAIL is answered with 421
    extensions: tuple[str, ...] = ("PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES")

    def __post_init__(self):
        self._socket = socket.create_server(("127.0.0.1", self.port))
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.port = self._socket.getsockname()[1]
        self.url = f"smtp://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Refuses connections from here on, and ends the open ones."""
        self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept(), which would take one more
        self._socket.close()
        with self._lock:
            for connection in list(self._open):
                connection.close()

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
        try:
            _Session(self, connection).run()
        except (OSError, ValueError):
            pass
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()


class _Hangup(OSError):
    pass


class _Session:
    def __init__(self, relay: Relay, connection: socket.socket):
        self.relay, self.connection = relay, connection
        self.reader = connection.makefile("rb")
        self.sender, self.recipients = "", []
        self.messages = 0

    def answer(self, stage: str, default: str) -> str:
        with self.relay._lock:
            step = (
                self.relay.script[stage].pop(0) if self.relay.script[stage] else self.relay.always.get(stage, default)
            )
        if step == "drop":
            raise _Hangup
        if step == "silence":
            self.reader.read()
            raise _Hangup
        self.connection.sendall(step if isinstance(step, bytes) else step.encode() + b"\r\n")
        return step if isinstance(step, str) else ""

    def answer_to(self, address: str) -> str:
        """What is scripted for this recipient alone, under `RCPT address`."""
        stage = f"RCPT {address}"
        with self.relay._lock:
            if self.relay.script[stage]:
                return self.relay.script[stage].pop(0)
        return self.relay.always.get(stage, "250 2.1.5 ok")

    def run(self) -> None:
        self.answer("greeting", "220 relay.test ESMTP")
        while line := self.reader.readline():
            text = line.decode(errors="replace").strip()
            with self.relay._lock:
                self.relay.lines.append(text)
            verb, _, rest = text.partition(" ")
            verb = verb.upper()
            if verb == "EHLO":
                lines = ["relay.test", *self.relay.extensions]
                self.answer(
                    "EHLO",
                    "\r\n".join(f"250{'-' if n < len(lines) - 1 else ' '}{word}" for n, word in enumerate(lines)),
                )
            elif verb == "MAIL":
                if self.messages >= self.relay.messages_per_connection:
                    self.connection.sendall(b"421 4.7.0 enough for this connection\r\n")
                    return
                self.messages += 1
                self.sender, self.recipients = rest.split(">")[0][6:], []
                self.answer("MAIL", "250 2.1.0 ok")
            elif verb == "RCPT":
                address = rest[4:-1]
                if self.answer("RCPT", self.answer_to(address)).startswith("25"):
                    self.recipients.append(address)
            elif verb == "DATA":
                if self.answer("DATA", "354 go on").startswith("354"):
                    self.take_message()
            elif verb == "QUIT":
                self.answer("QUIT", "221 bye")
                return
            else:
                self.answer(verb, "250 ok" if verb in ("RSET", "HELO", "NOOP") else "502 5.5.1 not here")

    def take_message(self) -> None:
        lines = []
        while (line := self.reader.readline()) != b".\r\n":
            if not line:
                raise _Hangup
            lines.append(line[1:] if line.startswith(b".") else line)
        message = Received(self.sender, list(self.recipients), b"".join(lines))
        with self.relay._lock:
            step = (self.relay.script["dot"] or [self.relay.always.get("dot", "250 2.0.0 taken")])[0]
            if step.startswith("250") or step == "drop-taken":
                self.relay.received.append(message)
            if step == "drop-taken":
                self.relay.script["dot"][0] = "drop"
        self.answer("dot", "250 2.0.0 taken")
