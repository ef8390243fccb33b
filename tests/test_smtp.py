"""docs/smtp.md line by line, against real servers."""

import re
import socket
import ssl
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import pytest
import trustme

from emails import smtp
from emails.smtp import Connection, Outcome, Reply, Timeouts, Verdict
from emails.smtp import Relay as Address
from tests import sinks
from tests.environment import wait_until
from tests.sinks import Step, drip, multiline

PAGE = (Path(__file__).parent.parent / "docs" / "smtp.md").read_text()
SENDER = "shop@example.com"
MOSS, JEN, ROY = (f"{name}@example.com" for name in ("moss", "jen", "roy"))
MESSAGE = b"Subject: x\r\n\r\n.dots\r\n..\r\nend\r\n"
LARGE = b"Subject: x\r\n\r\n" + b"x" * 16_000_000  # more than the sockets' buffers hold
PATIENT = Timeouts(*[20] * 6)
SHORT = 0.3
GARBAGE = b"HTTP/1.1 400 Bad Request\r\n\r\n"
LOGIN = ("user", "p:ass wörd")


class World:
    """Servers, and clients of ours, that end with the test."""

    def __init__(self, pipelining: bool):
        self.pipelining = pipelining
        self.open: list[sinks.Relay | Connection] = []

    def server(self, **options) -> sinks.Relay:
        offered = ("PIPELINING",) if self.pipelining else ()
        options = {"extensions": (*offered, "8BITMIME", "ENHANCEDSTATUSCODES")} | options
        self.open.append(sinks.Relay(**options))
        return self.open[-1]

    def client(
        self, server: sinks.Relay, scheme="smtp", host="127.0.0.1", login="", hello="", impatient=""
    ) -> Connection:
        """A client that is patient at every stage but the one named."""
        timeouts = replace(PATIENT, **{impatient: SHORT}) if impatient else PATIENT
        self.open.append(Connection(Address.from_url(f"{scheme}://{login}{host}:{server.port}"), hello, timeouts))
        return self.open[-1]

    def scripted(self, stage: str, *steps: Step, to=(MOSS,), message=MESSAGE, impatient="") -> Outcome:
        """A new client's message to a server that does `steps` the next times at `stage`."""
        server = self.server()
        server.script[stage] += steps
        return send(self.client(server, impatient=impatient), to=to, message=message)

    def secured(self, scheme: str, certificate: ssl.SSLContext, stage="", *steps: Step, impatient="") -> Outcome:
        """The same with a server that speaks TLS."""
        server = self.server(certificate=certificate, implicit_tls=scheme == "smtps")
        server.script[stage] += steps
        return send(self.client(server, scheme, "localhost", impatient=impatient))

    def logged_in(self, *steps: Step, impatient="", **options) -> Outcome:
        """The same with a server that knows our login."""
        server = self.server(login=LOGIN, **options)
        server.script["AUTH"] += steps
        return send(self.client(server, login="user:p%3Aass%20w%C3%B6rd@", impatient=impatient))

    def close(self) -> None:
        for one in reversed(self.open):
            one.close()


@pytest.fixture
def world(request):
    world = World(pipelining=getattr(request, "param", True))
    yield world
    world.close()


def send(client: Connection, to=(MOSS,), sender=SENDER, message=MESSAGE) -> Outcome:
    return client.send(sender, to, message)


@cache
def authority() -> trustme.CA:
    return trustme.CA()


def certificate(name="localhost", known=True, days=100) -> ssl.SSLContext:
    """A server's, that ends in `days`; with a negative number it has ended."""
    ends = datetime.now(UTC) + timedelta(days=days)
    issued = (authority() if known else trustme.CA()).issue_cert(
        name, not_before=ends - timedelta(days=200), not_after=ends
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    issued.configure_cert(context)
    return context


@pytest.fixture(scope="module", autouse=True)
def known_authority(tmp_path_factory):
    """Our authority is the system's for these tests, in the way that OpenSSL has for it."""
    file = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority().cert_pem.write_to_path(file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(file))
        smtp.tls_context.cache_clear()
        yield
    smtp.tls_context.cache_clear()


# The page's lines, each with its test

LINES = {
    (heading, cells[0]): cells[1]
    for heading, section in re.findall(r"^## (.+?)$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    for cells in ([cell.strip() for cell in row.split("|")] for row in re.findall(r"^\|(.+)\|$", section, re.MULTILINE))
    if len(cells) == 4 and cells[0] not in ("What happens", "---")
}
CASES: dict[tuple[str, str], Callable[[World], Outcome | Iterable[Outcome]]] = {}


def line(stage: str, happens: str):
    """The test of one line of the page. What it returns must be the line's outcome, and if several, each."""

    def register(case):
        assert (stage, happens) not in CASES
        CASES[stage, happens] = case

    return register


def in_words(outcome: Outcome) -> str:
    words = [word for word in ("trouble", "unknown", "broken") if getattr(outcome, word)]
    reached = {result.verdict for result in outcome.results.values()}
    words += [verdict.value for verdict in Verdict if verdict in reached]
    return ", ".join(words + ["more"] * outcome.more)


def breaks(stage: str, at: str, timeout: str, named: str, attempt: str = "scripted") -> None:
    """Three lines that nearly every stage has; `named` is the stage in the reason."""

    def fails(world: World, step: Step, reason: str, impatient: str = "") -> Outcome:
        if attempt == "logged_in":
            outcome = world.logged_in(step, impatient=impatient)
        else:
            outcome = world.scripted(at, step, impatient=impatient)
        assert re.fullmatch(rf"{reason} \({named}\)", outcome.unknown or outcome.trouble)
        return outcome

    hangs_up = "the relay closed the connection|Connection reset by peer|Broken pipe"
    line(stage, "hangs up")(lambda world: fails(world, "drop", f"({hangs_up})"))
    line(stage, "says nothing")(lambda world: fails(world, "silence", f"no answer within {SHORT} s", timeout))
    no_smtp = "the relay said something that is no SMTP: b'HTTP.*'"
    line(stage, "says something that is no SMTP")(lambda world: fails(world, GARBAGE, no_smtp))


# Connecting


def to_nobody(host: str, port: int, reason: str) -> Outcome:
    outcome = send(Connection(Address(host, port, "none"), timeouts=replace(PATIENT, connect=SHORT)))
    assert outcome.trouble == f"{reason} (connecting)"
    return outcome


@line("Connecting", "nobody listens")
def _(world):
    server = world.server()
    server.close()
    return to_nobody("127.0.0.1", server.port, "Connection refused")


@line("Connecting", "the network is unreachable")
def _(world):
    return to_nobody("255.255.255.255", 25, "Network is unreachable")


@line("Connecting", "the name is not known")
def _(world):
    return to_nobody("-no name-", 25, "Name or service not known")  # nobody is asked for such a name


@line("Connecting", "the name can't be one")
def _(world):
    for host in ("relay..example", ".example", "x" * 64 + ".example"):
        with pytest.raises(ValueError):
            Address.from_url(f"smtp://{host}")
        yield send(Connection(Address(host, 25)))


@line("Connecting", "no answer")
def _(world):
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        with socket.create_connection(address):  # its one place is taken, so the next is not answered
            return to_nobody(*address, f"no answer within {SHORT} s")


@line("Connecting", "the sandbox has not recorded its address")
def _(world):
    outcome = send(Connection(Address.beside(Path(__file__).parent / "missing")))
    assert "the sandbox is not running" in outcome.trouble
    return outcome


# Greeting

breaks("Greeting", "greeting", "greeting", "waiting for the greeting")


@line("Greeting", "220 in several lines")
def _(world):
    return world.scripted("greeting", multiline(220, "relay.test ESMTP", "no spam", ""))


@line("Greeting", "4xx")
def _(world):
    for code in (421, 450):
        outcome = world.scripted("greeting", f"{code} 4.7.0 too many connections")
        assert outcome.trouble == f"the relay said {code} 4.7.0 too many connections (waiting for the greeting)"
        yield outcome


@line("Greeting", "5xx")
def _(world):
    return world.scripted("greeting", "554 5.7.1 you are on a list")


@line("Greeting", "comes byte by byte, too slowly")
def _(world):
    return world.scripted("greeting", drip(b"220 relay.test\r\n", SHORT / 4), impatient="greeting")


# EHLO

breaks("EHLO", "EHLO", "command", "at EHLO")


@line("EHLO", "5xx")
def _(world):
    server = world.server()
    server.always = {"EHLO": "502 5.5.1 not here", "HELO": multiline(250, "relay.test", "SIZE 1")}
    yield send(world.client(server))
    assert server.lines[1] == "HELO [127.0.0.1]"
    assert f"MAIL FROM:<{SENDER}>" in server.lines  # no extension is used


@line("EHLO", "5xx to EHLO and HELO")
def _(world):
    server = world.server(always={"EHLO": "502 not here", "HELO": "502 nor that"})
    return send(world.client(server))


@line("EHLO", "4xx")
def _(world):
    for code in (421, 451):
        yield world.scripted("EHLO", f"{code} 4.3.2 later")


# TLS


@line("TLS", "submission, certificate valid")
def _(world):
    server = world.server(certificate=certificate(), always={"EHLO": multiline(250, "relay.test", "STARTTLS")})
    server.script["EHLO"] = [multiline(250, "relay.test", "STARTTLS", "SIZE 1")]
    yield send(world.client(server, "submission", "localhost"))
    assert [text.split()[0] for text in server.lines[:4]] == ["EHLO", "STARTTLS", "EHLO", "MAIL"]


@line("TLS", "smtps, certificate valid")
def _(world):
    return world.secured("smtps", certificate())


def distrusted(world: World, reason: str, **wrong) -> Iterable[Outcome]:
    for scheme in ("submission", "smtps"):
        outcome = world.secured(scheme, certificate(**wrong))
        assert re.fullmatch(rf"the relay's certificate is not valid: .*{reason}.* \(starting TLS\)", outcome.trouble)
        yield outcome


@line("TLS", "submission or smtps, unknown authority")
def _(world):
    return distrusted(world, "unable to get local issuer certificate", known=False)


@line("TLS", "submission or smtps, certificate expired")
def _(world):
    return distrusted(world, "certificate has expired", days=-1)


@line("TLS", "submission or smtps, certificate for another name")
def _(world):
    return distrusted(world, "not valid for 'localhost'", name="elsewhere.example")


@line("TLS", "smtp, certificate not valid")
def _(world):
    server = world.server(certificate=certificate("elsewhere.example", known=False, days=-1))
    yield send(world.client(server))
    assert "STARTTLS" in server.lines


@line("TLS", "smtp, STARTTLS not offered")
def _(world):
    return send(world.client(world.server()))


@line("TLS", "submission, STARTTLS not offered")
def _(world):
    server = world.server()
    yield send(world.client(server, "submission"))
    server.always["EHLO"] = "502 not here"
    yield send(world.client(server, "submission"))
    assert not any(text.startswith("MAIL") for text in server.lines)


@line("TLS", "smtp, 4xx or 5xx to STARTTLS")
def _(world):
    for code in (454, 502):
        yield world.secured("smtp", certificate(), "STARTTLS", f"{code} not now")


@line("TLS", "submission, 4xx or 5xx to STARTTLS")
def _(world):
    for code in (454, 502):
        yield world.secured("submission", certificate(), "STARTTLS", f"{code} not now")


@line("TLS", "421 to STARTTLS")
def _(world):
    for scheme in ("smtp", "submission"):
        yield world.secured(scheme, certificate(), "STARTTLS", "421 closing")


@line("TLS", "hangs up at STARTTLS")
def _(world):
    for scheme in ("smtp", "submission"):
        yield world.secured(scheme, certificate(), "STARTTLS", "drop")


@line("TLS", "says nothing at STARTTLS")
def _(world):
    return world.secured("smtp", certificate(), "STARTTLS", "silence", impatient="command")


@line("TLS", "says something that is no SMTP at STARTTLS")
def _(world):
    return world.secured("smtp", certificate(), "STARTTLS", GARBAGE)


@line("TLS", "says more in the clear after 220")
def _(world):
    outcome = world.secured("submission", certificate(), "STARTTLS", b"220 go ahead\r\n250 AUTH PLAIN\r\n")
    assert "in the clear" in outcome.trouble
    return outcome


def after_the_hello(connection: socket.socket) -> None:
    connection.recv(1)


@line("TLS", "something else than a handshake")
def _(world):
    for scheme in ("smtp", "submission", "smtps"):
        outcome = world.secured(scheme, certificate(), "TLS", (after_the_hello, b"x" * 100))
        assert re.fullmatch(r"TLS failed: [a-z ]+ \(starting TLS\)", outcome.trouble)
        yield outcome


@line("TLS", "hangs up in the handshake")
def _(world):
    for scheme in ("smtp", "submission", "smtps"):
        outcome = world.secured(scheme, certificate(), "TLS", "drop")
        assert "(starting TLS)" in outcome.trouble
        yield outcome


@line("TLS", "says nothing in the handshake")
def _(world):
    return world.secured("smtps", certificate(), "TLS", "silence", impatient="connect")


@line("TLS", "the handshake comes byte by byte, too slowly")
def _(world):
    half_a_record = b"\x16\x03\x03\x40\x00" + bytes(100)
    outcome = world.secured("smtps", certificate(), "TLS", drip(half_a_record, SHORT / 4), impatient="connect")
    assert outcome.trouble == f"no answer within {SHORT} s (starting TLS)"
    return outcome


@line("TLS", "smtps, but the server speaks in the clear")
def _(world):
    outcome = send(world.client(world.server(), "smtps"))
    assert outcome.trouble == "TLS failed: wrong version number (starting TLS)"
    return outcome


# AUTH

breaks("AUTH", "AUTH", "command", "at AUTH", attempt="logged_in")


@line("AUTH", "PLAIN")
def _(world):
    return world.logged_in()


@line("AUTH", "LOGIN only")
def _(world):
    return world.logged_in(extensions=("AUTH LOGIN CRAM-MD5",))


@line("AUTH", "neither PLAIN nor LOGIN offered")
def _(world):
    yield world.logged_in(extensions=("AUTH CRAM-MD5 XOAUTH2",))
    yield send(world.client(world.server(), login="user:secret@"))


@line("AUTH", "no TLS, and not on this machine")
def _(world):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it only asks which address would be ours
        except OSError:
            pytest.skip("this machine has no address but the loopback's")
        host = probe.getsockname()[0]
    server = world.server(host=host, login=LOGIN)
    outcome = send(world.client(server, host=host, login="user:secret@"))
    assert "in the clear" in outcome.trouble
    assert not any(text.startswith("AUTH") for text in server.lines)
    return outcome


@line("AUTH", "535")
def _(world):
    for mechanisms in ("PLAIN", "LOGIN"):
        server = world.server(login=LOGIN, extensions=(f"AUTH {mechanisms}",))
        outcome = send(world.client(server, login="user:other@"))
        assert outcome.trouble == "the relay refused our login: 535 5.7.8 wrong (at AUTH)"
        yield outcome


@line("AUTH", "454")
def _(world):
    yield world.logged_in("454 4.7.0 the directory is away")
    yield world.logged_in("454 4.7.0 the directory is away", extensions=("AUTH LOGIN",))


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize("reply", ["535 no: {}", "no: {}", "235 welcome\r\n250 no: {}"])
@pytest.mark.parametrize("secret", ["p:ass wörd", "cDphc3Mgd8O2cmQ", "AHVzZXIAcDphc3Mgd8O2cmQ"])
def test_a_password_that_the_relay_repeats_is_in_no_outcome(world, mechanism, reply, secret):
    outcome = world.logged_in(reply.format(secret), extensions=(f"AUTH {mechanism}",))
    assert "no: ***" in outcome.trouble
    assert secret not in outcome.trouble and repr(secret.encode())[2:-1] not in outcome.trouble


# MAIL FROM

breaks("MAIL FROM", "MAIL", "command", "at MAIL FROM")


@line("MAIL FROM", "450, 451 or 452")
def _(world):
    for code in (450, 451, 452):
        outcome = world.scripted("MAIL", f"{code} 4.3.2 later", to=(MOSS, JEN))
        assert outcome.summary(Verdict.DEFERRED) == f"{code} 4.3.2 later"
        yield outcome


@line("MAIL FROM", "550 to 555")
def _(world):
    for code in range(550, 556):
        yield world.scripted("MAIL", f"{code} 5.7.1 not from you", to=(MOSS, JEN))


@line("MAIL FROM", "552 to the announced size")
def _(world):
    server = world.server(extensions=("SIZE",))
    server.script["MAIL"] = ["552 5.3.4 too large"]
    yield send(world.client(server))
    assert f"MAIL FROM:<{SENDER}> SIZE={len(MESSAGE)}" in server.lines


@line("MAIL FROM", "421")
def _(world):
    outcome = world.scripted("MAIL", "421 4.3.2 closing", to=(MOSS, JEN))
    assert str(outcome) == outcome.trouble == "the relay said 421 4.3.2 closing (at MAIL FROM)"
    return outcome


@line("MAIL FROM", "530, 534, 535 or 538")
def _(world):
    for code in (530, 534, 535, 538):
        yield world.scripted("MAIL", f"{code} 5.7.0 log in first")


@line("MAIL FROM", "503")
def _(world):
    return world.scripted("MAIL", "503 5.5.4 send AUTH first")


@line("MAIL FROM", "3xx")
def _(world):
    return world.scripted("MAIL", "354 go on")


# RCPT TO

breaks("RCPT TO", "RCPT", "command", "at RCPT TO")
EACH = (MOSS, JEN, ROY)


def second_refused(world: World, reply: str) -> Outcome:
    server = world.server()
    server.script["RCPT"] = ["250 ok", reply]
    outcome = send(world.client(server), to=EACH)
    assert server.received[0].recipients == [MOSS, ROY]
    assert str(outcome.results[JEN].reply) == reply
    return outcome


@line("RCPT TO", "250, 251 and 252")
def _(world):
    return world.scripted("RCPT", "250 ok", "251 will forward", "252 will try", to=EACH)


@line("RCPT TO", "250 for one, 550 for another, 450 for a third")
def _(world):
    outcome = world.scripted("RCPT", "250 ok", "550 5.1.1 unknown", "450 4.7.1 greylisted", to=EACH)
    assert {to: str(result.reply) for to, result in outcome.results.items()} == {
        MOSS: "250 2.0.0 taken",
        JEN: "550 5.1.1 unknown",
        ROY: "450 4.7.1 greylisted",
    }
    return outcome


@line("RCPT TO", "450, 451 or 452 for all")
def _(world):
    for code in (450, 451, 452):
        server = world.server(always={"RCPT": f"{code} 4.7.1 greylisted"})
        yield send(world.client(server), to=EACH)
        assert not any(message.recipients for message in server.received)


@line("RCPT TO", "550 to 554 for all")
def _(world):
    for code in (550, 551, 552, 553, 554):
        yield send(world.client(world.server(always={"RCPT": f"{code} 5.1.1 no"})), to=EACH)


@line("RCPT TO", "550 for all, and 354 to DATA")
def _(world):
    used = Used(world)
    used.server.script |= {"RCPT": ["550 5.1.1 unknown"], "DATA": ["354 go on"]}
    yield used.send(1)
    assert in_words(used.send(1)) == "accepted"
    assert [message.recipients for message in used.server.received if message.recipients] == [[MOSS], [MOSS]]


@line("RCPT TO", "452 after some")
def _(world):
    return second_refused(world, "452 too many recipients")


@line("RCPT TO", "452 4.5.3 after some")
def _(world):
    return second_refused(world, "452 4.5.3 too many recipients")


@line("RCPT TO", "452 4.2.2 after some")
def _(world):
    return second_refused(world, "452 4.2.2 mailbox full")


@line("RCPT TO", "452 for all")
def _(world):
    return world.scripted("RCPT", *["452 too many recipients"] * 3, to=EACH)


@line("RCPT TO", "452 after some, and 4xx after the dot")
def _(world):
    server = world.server()
    server.script |= {"RCPT": ["250 ok", "452 too many recipients"], "dot": ["451 4.3.0 later"]}
    return send(world.client(server), to=EACH[:2])


@line("RCPT TO", "552 after some")
def _(world):
    yield second_refused(world, "552 too many recipients")
    yield second_refused(world, "552 5.5.3 too many recipients")


@line("RCPT TO", "552 5.2.2 after some")
def _(world):
    return second_refused(world, "552 5.2.2 mailbox full")


@line("RCPT TO", "421 after some")
def _(world):
    outcome = world.scripted("RCPT", "250 ok", "550 5.1.1 unknown", "421 4.3.2 closing", to=EACH)
    assert outcome.summary(Verdict.BOUNCED) == "550 5.1.1 unknown"
    assert outcome.summary(Verdict.DEFERRED) == "the relay said 421 4.3.2 closing (at RCPT TO)"
    return outcome


@line("RCPT TO", "503 or 530")
def _(world):
    for code in (503, 530):
        yield world.scripted("RCPT", f"{code} log in first", to=EACH)


# DATA

breaks("DATA", "DATA", "data", "at DATA")


@line("DATA", "4xx")
def _(world):
    return world.scripted("DATA", "451 4.3.0 later", to=EACH)


@line("DATA", "5xx")
def _(world):
    server = world.server()
    server.script |= {"RCPT": ["550 5.1.1 unknown"], "DATA": ["554 5.7.1 no"]}
    outcome = send(world.client(server), to=(MOSS, JEN))
    assert str(outcome.results[MOSS].reply) == "550 5.1.1 unknown"
    assert str(outcome.results[JEN].reply) == "554 5.7.1 no"
    return outcome


@line("DATA", "421")
def _(world):
    return world.scripted("DATA", "421 4.3.2 closing")


@line("DATA", "2xx")
def _(world):
    return world.scripted("DATA", "250 ok")


@line("DATA", "354 and another reply at once")
def _(world):
    return world.scripted("DATA", b"354 go on\r\n250 2.0.0 taken\r\n")


# Sending the message


def in_the_middle(world: World, *steps: Step, **options) -> Outcome:
    outcome = world.scripted("block", steps, message=LARGE, **options)
    assert not world.open[0].received
    return outcome


@line("Sending the message", "hangs up")
def _(world):
    return in_the_middle(world, "drop")


@line("Sending the message", "reads no further")
def _(world):
    outcome = in_the_middle(world, "stall", impatient="block")
    assert outcome.trouble == f"no answer within {SHORT} s (sending the message)"
    return outcome


@line("Sending the message", "552 and hangs up")
def _(world):
    outcome = in_the_middle(world, "552 5.3.4 too large", "drop")
    assert str(outcome) == "552 5.3.4 too large"
    return outcome


@line("Sending the message", "451 and hangs up")
def _(world):
    return in_the_middle(world, "451 4.3.1 the disk is full", "drop")


@line("Sending the message", "421 and hangs up")
def _(world):
    return in_the_middle(world, "421 4.3.2 closing", "drop")


@line("Sending the message", "250 before the end")
def _(world):
    return in_the_middle(world, "250 2.0.0 taken")


# After the final dot

breaks("After the final dot", "dot", "final", "after the final dot")


@line("After the final dot", "2xx")
def _(world):
    server = world.server()
    yield send(world.client(server), to=(MOSS, JEN))
    assert server.received == [sinks.Received(SENDER, [MOSS, JEN], MESSAGE)]
    yield world.scripted("dot", "299 whatever this means")


@line("After the final dot", "4xx")
def _(world):
    for code in (450, 451, 452):
        yield world.scripted("dot", f"{code} 4.7.0 later", to=(MOSS, JEN))


@line("After the final dot", "5xx")
def _(world):
    for code in (550, 554):
        yield world.scripted("dot", f"{code} 5.7.1 spam", to=(MOSS, JEN))


@line("After the final dot", "552")
def _(world):
    return world.scripted("dot", "552 5.3.4 too large")


@line("After the final dot", "421")
def _(world):
    server = world.server()
    server.script["dot"] = ["421 4.7.0 not today"]
    client = world.client(server)
    yield send(client)
    assert not client.is_ready


@line("After the final dot", "hangs up in the middle of its reply")
def _(world):
    return world.scripted("dot", (b"250 2.0.0 ta", "drop"))


@line("After the final dot", "comes byte by byte, too slowly")
def _(world):
    return world.scripted("dot", drip(b"250 2.0.0 taken\r\n", SHORT / 4), impatient="final")


@line("After the final dot", "3xx")
def _(world):
    return world.scripted("dot", "354 go on")


@line("After the final dot", "a reply without an end")
def _(world):
    return world.scripted("dot", b"250-" + b"x" * 200_000)


@line("After the final dot", "hangs up, after a recipient was refused")
def _(world):
    server = world.server()
    server.script |= {"RCPT": ["550 5.1.1 unknown"], "dot": ["drop-taken"]}
    outcome = send(world.client(server), to=(MOSS, JEN))
    assert outcome.results.keys() == {MOSS}
    return outcome


# QUIT


def parting(world: World, step: Step) -> Outcome:
    server = world.server(always={"QUIT": step})
    client = world.client(server)
    outcome = send(client)
    client.close()
    wait_until(lambda: server.lines[-1] == "QUIT", "nobody said QUIT")
    return outcome


@line("QUIT", "hangs up")
def _(world):
    return parting(world, "drop")


@line("QUIT", "says nothing")
def _(world):
    return parting(world, "silence")


@line("QUIT", "says something that is no SMTP")
def _(world):
    return parting(world, GARBAGE)


@line("QUIT", "5xx")
def _(world):
    return parting(world, "500 what?")


# The next message on the same connection

NEXT = "The next message on the same connection"


class Used:
    """A client whose connection has taken one message, and its server."""

    def __init__(self, world: World, impatient="", **options):
        self.server = world.server(**options)
        self.client = world.client(self.server, impatient=impatient)
        assert in_words(send(self.client)) == "accepted"

    def send(self, connections: int, message=MESSAGE) -> Outcome:
        outcome = send(self.client, message=message)
        assert self.server.connections == connections
        return outcome


@line(NEXT, "all is well")
def _(world):
    used = Used(world)
    yield from (used.send(1) for _ in range(3))
    assert [text.split()[0] for text in used.server.lines].count("EHLO") == 1
    server = world.server(certificate=certificate())
    client = world.client(server, "submission", "localhost")
    yield from (send(client) for _ in range(3))
    assert server.connections == 1


@line(NEXT, "421 after a handful of messages")
def _(world):
    used = Used(world, messages_per_connection=2)
    yield from (used.send(connections) for connections in (1, 2, 2, 3))
    assert len(used.server.received) == 5


@line(NEXT, "hung up while idle")
def _(world):
    used = Used(world)
    assert used.client.is_ready and used.client.is_working
    used.server.hang_up()
    wait_until(lambda: not used.client.is_working, "the hang-up was not seen")
    return used.send(2)


@line(NEXT, "421 while idle, and hung up")
def _(world):
    return Used(world, always={"dot": ("250 2.0.0 taken", "421 4.4.2 idle for too long", "drop")}).send(2)


@line(NEXT, "hangs up after each message")
def _(world):
    used = Used(world, always={"dot": ("250 2.0.0 taken", "drop")})
    return [used.send(connections) for connections in (2, 3, 4)]


@line(NEXT, "hangs up at MAIL, RCPT, DATA or in the message")
def _(world):
    for stage in ("MAIL", "RCPT", "DATA", "block"):
        used = Used(world)
        used.server.script[stage] = ["drop"]
        yield used.send(2, message=LARGE if stage == "block" else MESSAGE)
        assert len(used.server.received) == 2


@line(NEXT, "says nothing at MAIL")
def _(world):
    used = Used(world, impatient="command")
    used.server.script["MAIL"] = ["silence"]
    return used.send(2)


@line(NEXT, "hangs up at MAIL, and the relay is gone")
def _(world):
    used = Used(world)
    used.server.script["MAIL"] = [lambda _: used.server.close()]
    return used.send(1)


@line(NEXT, "hangs up at MAIL each time")
def _(world):
    used = Used(world)
    used.server.always["MAIL"] = "drop"
    return used.send(2)


@line(NEXT, "hangs up after the dot")
def _(world):
    used = Used(world)
    used.server.script["dot"] = ["drop-taken"]
    yield used.send(1)
    assert len(used.server.received) == 2


def refused_before(world: World, *answer_to_rset: Step) -> tuple[sinks.Relay, Connection]:
    server = world.server()
    server.script |= {"RCPT": ["550 5.1.1 unknown"], "RSET": list(answer_to_rset)}
    client = world.client(server)
    assert str(send(client)) == "550 5.1.1 unknown"
    return server, client


@line(NEXT, "the last transaction was refused")
def _(world):
    server, client = refused_before(world)
    yield send(client)
    said = [text.split()[0] for text in server.lines[1:]]
    assert said == ["MAIL", "RCPT", *["DATA"] * world.pipelining, "RSET", "MAIL", "RCPT", "DATA"]
    yield send(client)
    assert server.lines.count("RSET") == server.connections == 1


@line(NEXT, "the last transaction was refused, and RSET fails")
def _(world):
    for answer in ("drop", "502 not here", GARBAGE):
        server, client = refused_before(world, answer)
        yield send(client)
        assert server.connections == 2


# Sizes and addresses

SIZES = "Sizes and addresses"


@line(SIZES, "SIZE smaller than the message")
def _(world):
    server = world.server(extensions=("SIZE 20",))
    outcome = send(world.client(server), to=(MOSS, JEN))
    assert str(outcome) == f"5.3.4 the message has {len(MESSAGE)} bytes, the relay takes at most 20"
    assert len(server.lines) == 1
    return outcome


@line(SIZES, "SIZE without a number, or 0")
def _(world):
    for size in ("SIZE", "SIZE 0", "SIZE much", "SIZE ²", "SIZE " + "1" * 30):
        yield send(world.client(world.server(extensions=(size,))))


@line(SIZES, "no SMTPUTF8, one recipient beyond ASCII")
def _(world):
    server = world.server()
    outcome = send(world.client(server), to=("mößs@example.com", JEN))
    assert "mößs@example.com" in outcome.summary(Verdict.BOUNCED)
    assert server.received[0].recipients == [JEN]
    return outcome


@line(SIZES, "no SMTPUTF8, sender beyond ASCII")
def _(world):
    server = world.server()
    yield send(world.client(server), to=(MOSS, JEN), sender="ladän@example.com")
    assert len(server.lines) == 1


@line(SIZES, "SMTPUTF8 and addresses beyond ASCII")
def _(world):
    server = world.server(extensions=("SMTPUTF8",))
    client = world.client(server)
    yield send(client, to=("mößs@example.com", JEN))
    yield send(client, sender="ladän@example.com")
    yield send(client)
    assert server.received[0].recipients == ["mößs@example.com", JEN]
    assert server.received[1].sender == "ladän@example.com"
    commands = [text for text in server.lines if text.startswith("MAIL")]
    assert [text.endswith(" SMTPUTF8") for text in commands] == [True, True, False]


SMUGGLERS = [
    "a@example.com>\r\nRCPT TO:<b@example.com", "a@example.com\r\n", "a@example.com\n", "a\r@example.com",
    "a@example.com> NOTIFY=NEVER", "a b@example.com", "a@exa mple.com", "<a@example.com", "a>@example.com",
    "a@example.com>", '"a@example.com', '"a"b@example.com', '"a\r\nb"@example.com', "a\0@example.com",
    "a\u2028@example.com", "\ud800@example.com", "a", "@", "a@", "@example.com", "",
]  # fmt: skip


@line(SIZES, "a recipient that would end its command")
def _(world):
    server = world.server(extensions=("SMTPUTF8",))
    outcome = send(world.client(server), to=(MOSS, *SMUGGLERS))
    assert all(outcome.results[address].reply.text.startswith("5.1.3 ") for address in SMUGGLERS)
    assert server.lines[1:] == [f"MAIL FROM:<{SENDER}>", f"RCPT TO:<{MOSS}>", "DATA"]
    return outcome


@line(SIZES, "a sender that would end its command")
def _(world):
    server = world.server(extensions=("SMTPUTF8",))
    client = world.client(server)
    for address in SMUGGLERS[:-1]:
        yield send(client, sender=address)
    assert len(server.lines) == 1


@line(SIZES, "a quoted address with a space and >")
def _(world):
    for address in ('"a b> c"@example.com', r'"a\"b\\"@example.com'):
        server = world.server(extensions=("SIZE",))
        yield send(world.client(server), to=(address,), sender=address)
        assert server.received == [sinks.Received(address, [address], MESSAGE)]


@line(SIZES, "the empty sender")
def _(world):
    server = world.server()
    yield send(world.client(server), sender="")
    assert "MAIL FROM:<>" in server.lines


# How replies are read

READ = "How replies are read"


@line(READ, "several lines with enhanced codes")
def _(world):
    outcome = world.scripted("RCPT", multiline(550, "5.1.1 There is nobody", "5.1.1 of this name."))
    assert outcome.results[MOSS].reply == Reply(550, "5.1.1 There is nobody\n5.1.1 of this name.")
    assert str(outcome) == "550 5.1.1 There is nobody 5.1.1 of this name."
    return outcome


@line(READ, "a code and nothing else")
def _(world):
    return [world.scripted("dot", b"250\r\n"), world.scripted("MAIL", b"250-\r\n250\r\n")]


@line(READ, "lines that end in LF only")
def _(world):
    return [world.scripted("dot", b"250-2.0.0 ta\n250 ken\n")]


@line(READ, "in pieces, as the network cuts them")
def _(world):
    return world.scripted("dot", drip(b"250-2.0.0 ta\r\n250 ken\r\n", 0.005))


@line(READ, "NUL, control and 8-bit characters")
def _(world):
    outcome = world.scripted("RCPT", b"550 5.1.1\ta\0b\x1b[31m\xff\r\x7f\xe2\x80\xa8\xc2\x85g\xc3\xbct \r\n")
    assert str(outcome) == "550 5.1.1 a?b?[31m\N{REPLACEMENT CHARACTER}????güt"
    return outcome


@line(READ, "a line of 30,000 bytes")
def _(world):
    outcome = world.scripted("RCPT", "550 5.1.1 " + "x" * 30_000)
    assert len(outcome.results[MOSS].reply.text) == 4000
    return outcome


@line(READ, "1,000 lines")
def _(world):
    return world.scripted("RCPT", multiline(550, *["5.1.1 no"] * 1000))


@line(READ, "a line without an end")
def _(world):
    outcome = world.scripted("MAIL", b"250 " + b"x" * 200_000)
    assert outcome.trouble == "the relay sent a line without an end (at MAIL FROM)"
    return outcome


@line(READ, "lines without an end")
def _(world):
    outcome = world.scripted("MAIL", b"250-x\r\n" * 50_000)
    assert "no SMTP" in outcome.trouble
    return outcome


@line(READ, "two replies to one command")
def _(world):
    world.pipelining = False  # there its replies can't be told apart
    outcome = world.scripted("MAIL", b"250 ok\r\n550 no\r\n")
    assert "spoke out of turn" in outcome.trouble
    return outcome


ALL = sorted(LINES.keys() | CASES.keys())
ALIKE = ("Connecting", "Greeting", "EHLO", "TLS", "AUTH", "QUIT")  # with and without pipelining


@pytest.mark.parametrize(
    "line, world",
    [pytest.param(line, True, id=": ".join(line)) for line in ALL]
    + [pytest.param(line, False, id=": ".join(line) + ", one by one") for line in ALL if line[0] not in ALIKE],
    indirect=["world"],
)
def test_line(line, world):
    assert line in CASES, "this line of docs/smtp.md has no test"
    assert line in LINES, "this test has no line in docs/smtp.md"
    came = CASES[line](world)
    assert {in_words(outcome) for outcome in ([came] if isinstance(came, Outcome) else came)} == {LINES[line]}


def test_the_timeouts_are_those_of_the_page():
    rows = re.findall(r"`SMTP_TIMEOUT_([A-Z]+)` \| (\d+) \|", PAGE)
    assert {name.lower(): int(seconds) for name, seconds in rows} == asdict(Timeouts())


# Besides the page


def test_we_greet_with_our_name_or_else_our_address(world):
    server = world.server()
    world.client(server).open()
    world.client(server, hello="mail.example.com").open()
    ours = smtp.default_hello(socket.gethostname()) or "[127.0.0.1]"
    assert server.lines == [f"EHLO {ours}", "EHLO mail.example.com"]


def test_a_worker_whose_claim_has_run_out_writes_no_final_dot(world):
    server = world.server()
    client = Connection(Address.from_url(f"smtp://127.0.0.1:{server.port}"), may_finish=lambda: False)
    world.open.append(client)
    outcome = send(client)
    assert "silent for a whole lease" in outcome.withdrawn
    assert not (outcome.trouble or outcome.results or outcome.is_answer)  # the relay has nothing to do with it
    assert not server.received


def test_over_ipv6(world):
    try:
        server = world.server(host="::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    client = world.client(server, host="[::1]")
    assert in_words(send(client)) == "accepted"
    assert server.lines[0] == f"EHLO {smtp.default_hello(socket.gethostname()) or '[IPv6:::1]'}"
    assert str(client.relay) == f"[::1]:{server.port}"


def test_dots_and_the_message_arrive_as_they_are(world):
    server = world.server()
    client = world.client(server)
    for message in (b".", b"..\r\n.\r\n", b".a\r\n\r\n.", b"", b"\0\xff\r\n"):
        assert in_words(send(client, message=message)) == "accepted"
        expected = message if message.endswith(b"\r\n") else message + b"\r\n"
        assert server.received[-1].data == expected


def test_a_message_for_nobody_says_nothing(world):
    server = world.server()
    assert send(world.client(server), to=()) == Outcome()
    assert len(server.lines) == 1


@pytest.mark.parametrize(
    "url",
    ["", "relay", "smtp://", "http://a", "smtp://a/b", "smtp://a?b", "smtp://a#b", "smtp://a:b", "smtp://a:99999",
     "smtp://:secret@a", "smtp://a..b", "sandbox://a"],
)  # fmt: skip
def test_urls_that_name_no_relay(url):
    with pytest.raises(ValueError):
        Address.from_url(url)


def test_urls_that_name_a_relay():
    assert Address.from_url("smtp://a") == Address("a", 25, "offered")
    assert Address.from_url("submission://u%40b:p%2Fw@a") == Address("a", 587, "required", "u@b", "p/w")
    assert Address.from_url("smtps://a:1465/") == Address("a", 1465, "implicit")
    assert Address.from_url("sandbox://a:2525") == Address("a", 2525, "none", is_sandbox=True)
    assert "secret" not in repr(Address.from_url("smtp://user:secret@a"))


@pytest.mark.parametrize("host", ["mail.example.com", "mail.example.com.", "MAIL.Example.COM"])
def test_a_fully_qualified_host_says_its_name(host):
    assert smtp.default_hello(host) == "mail.example.com"


@pytest.mark.parametrize(
    "host",
    ["web1", "3f2a9c0b1d2e", "3f2a9c0b1d2e.example.com", "localhost.localdomain", "ip-10-0-0-1.ec2.internal",
     "10.0.0.1", "a_b.example.com", ""],
)  # fmt: skip
def test_a_host_without_a_name_for_the_world_says_its_address(host):
    assert smtp.default_hello(host) == ""
