"""A mail server that keeps what it takes, and misbehaves by the dice.

It lives in the harness, which nobody kills: what stands in `taken` was taken. What it does to an attempt
follows from the seed, the mail and how often that mail was tried, so threads don't change the story.
"""

import itertools
import random
import re
import socket
import threading
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass

LATENCY = 0.1  # seconds, before and after "taken": gives the kills something to hit on either side
MAX_RECIPIENTS = 2  # in one transaction: the others are answered 452 and follow in the next

# What happens to an attempt while the relay is not polite, and how often in a thousand.
MISHAPS = {
    "take": 900,
    "greylist": 40,
    "busy after the dot": 10,
    "take, hang up after the dot": 15,
    "hang up after the dot": 10,
    "take, fall silent after the dot": 2,
    "close at RCPT": 3,
    "hang up at RCPT": 3,
    "hang up at DATA": 3,
    "hang up in the message": 3,
    "fall silent at DATA": 1,
}


@dataclass(frozen=True)
class Taken:
    """A message that the relay took, for whom and when."""

    message_id: str
    recipients: tuple[str, ...]
    at: float


@dataclass(frozen=True)
class Unanswered:
    """An attempt that the relay left without an answer after it had said 354: the dot may have been written."""

    mail: str
    at: float


class Hangup(OSError):
    """The relay ends the connection, as one of its mishaps."""


class Relay:
    """Listens on `port` from `open` to `close`, as often as one likes."""

    def __init__(self, port: int, seed: int):
        self.port = port
        self.seed = seed
        self.polite = False
        self.closed_at = 0.0
        self.taken: list[Taken] = []
        self.unanswered: list[Unanswered] = []
        self.mishaps: dict[str, int] = defaultdict(int)
        self._tries: dict[str, itertools.count] = defaultdict(itertools.count)
        self._sessions: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None

    @property
    def is_open(self) -> bool:
        return self._listener is not None

    @property
    def summary(self) -> str:
        return ", ".join(f"{self.mishaps[name]} {name}" for name in MISHAPS if name != "take")

    def open(self) -> None:
        if self.is_open:
            return
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=128)
        threading.Thread(target=self._accept, args=[self._listener], daemon=True).start()

    def close(self) -> None:
        """Refuses connections, and ends the open ones after what was said on them already."""
        if not self.is_open:
            return
        listener, self._listener, self.closed_at = self._listener, None, time.time()
        if listener:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with self._lock:
            sessions = list(self._sessions)
        for session in sessions:
            with suppress(OSError):
                session.shutdown(socket.SHUT_RDWR)

    def take(self, message_id: str, recipients: list[str]) -> None:
        with self._lock:
            self.taken.append(Taken(message_id, tuple(recipients), time.time()))

    def leave_unanswered(self, mail: str) -> None:
        with self._lock:
            self.unanswered.append(Unanswered(mail, time.time() if self.is_open else self.closed_at))

    def mishap(self, mail: str) -> str:
        """What happens to this attempt to send `mail`."""
        with self._lock:
            attempt = next(self._tries[mail])
            if self.polite:
                return "take"
            dice = random.Random(f"{self.seed} {mail} {attempt}")
            chosen = dice.choices(list(MISHAPS), list(MISHAPS.values()))[0]
            self.mishaps[chosen] += 1
            return chosen

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                self._sessions.add(connection)
            threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            Session(self, connection).run()
        except OSError:
            pass
        finally:
            with self._lock:
                self._sessions.discard(connection)
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


class Session:
    """One connection's dialogue."""

    def __init__(self, relay: Relay, connection: socket.socket):
        self.relay = relay
        self.connection = connection
        self.reader = connection.makefile("rb")
        self.mail = self.mishap = ""
        self.recipients: list[str] = []

    def run(self) -> None:
        self.say("220 relay.test ESMTP")
        while line := self.reader.readline():
            verb, _, rest = line.decode(errors="replace").strip().partition(" ")
            match verb.upper():
                case "EHLO":
                    self.say("250-relay.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES")
                case "MAIL":
                    self.mail, self.mishap, self.recipients = "", "", []
                    self.say("250 2.1.0 ok")
                case "RCPT":
                    self.rcpt(rest.partition("<")[2].partition(">")[0])
                case "DATA":
                    self.data()
                case "QUIT":
                    self.say("221 2.0.0 bye")
                    return
                case _:
                    self.say("250 2.0.0 ok")

    def say(self, reply: str) -> None:
        self.connection.sendall(reply.encode() + b"\r\n")

    def fall_silent(self) -> None:
        while self.reader.read(4096):
            pass

    def rcpt(self, address: str) -> None:
        name = address.partition("@")[0]
        if not self.mail:
            self.mail = name.partition("-")[0]
            self.mishap = self.relay.mishap(self.mail)
        if self.mishap == "hang up at RCPT":
            raise Hangup
        if self.mishap == "close at RCPT":
            self.say("421 4.3.2 closing the connection")
            raise Hangup
        if name.endswith("-gone"):
            self.say("550 5.1.1 no such user here")
        elif self.mishap == "greylist":
            self.say("451 4.7.1 greylisted, come back later")
        elif len(self.recipients) >= MAX_RECIPIENTS:
            self.say("452 4.5.3 too many recipients")
        else:
            self.recipients.append(address)
            self.say("250 2.1.5 ok")

    def data(self) -> None:
        if self.mishap == "hang up at DATA":
            raise Hangup
        if self.mishap == "fall silent at DATA":
            self.fall_silent()
        elif not self.recipients:
            self.say("503 5.5.1 no recipients")
        else:
            self.say("354 go on")
            self.message()

    def message(self) -> None:
        try:
            message_id = self.read_message()
            time.sleep(LATENCY)
            self.answer_the_dot(message_id)
        except OSError as end:
            if isinstance(end, Hangup) or not self.relay.is_open:  # else it was the worker that went away
                self.relay.leave_unanswered(self.mail)
            raise

    def read_message(self) -> str:
        """Reads the message up to its final dot; its Message-ID."""
        lines = []
        while (line := self.reader.readline()) != b".\r\n":
            if self.mishap == "hang up in the message":
                raise Hangup
            if not line:
                raise ConnectionResetError
            lines.append(line)
        found = re.search(rb"^message-id:\s*(<[^>]+>)", b"".join(lines), re.IGNORECASE | re.MULTILINE)
        return found[1].decode() if found else ""

    def answer_the_dot(self, message_id: str) -> None:
        if any(address.partition("@")[0].endswith("-spam") for address in self.recipients):
            self.say("554 5.7.1 we don't want this message")
        elif self.mishap == "busy after the dot":
            self.say("451 4.3.0 the disk is slow today")
        elif self.mishap == "hang up after the dot":
            raise Hangup
        else:
            self.take(message_id)

    def take(self, message_id: str) -> None:
        """Takes the message, and says so unless the mishap is not to."""
        self.relay.take(message_id, self.recipients)
        time.sleep(LATENCY)
        if self.mishap == "take, hang up after the dot":
            raise Hangup
        if self.mishap == "take, fall silent after the dot":
            self.relay.leave_unanswered(self.mail)
            self.fall_silent()
        else:
            self.say("250 2.0.0 taken")
