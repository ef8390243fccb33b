"""The sandbox, started as in life and talked to by real SMTP clients: what arrives is kept, byte for byte."""

import signal
import smtplib
import socket
import sqlite3
from pathlib import Path

import pytest

from emails.models import SandboxMessage
from emails.sandbox import MAX_BYTES, store
from emails.smtp import Connection, Relay
from tests.environment import wait_until

MAIL = b"Subject: Hello\r\n\r\nHello\r\n"


class Sandbox:
    """A running `manage.py sandbox` with a data folder of its own."""

    def __init__(self, start, folder: Path, *arguments: str, **environment: str):
        self.address_file = folder / "sandbox.address"
        self.process = start("sandbox", *arguments, MAILSITE_DATA=str(folder), **environment)
        self.process.wait_for("takes mail on")

    @property
    def port(self) -> int:
        return int(self.address_file.read_text().rpartition(":")[2])

    def connect(self) -> smtplib.SMTP:
        client = smtplib.SMTP("127.0.0.1", self.port, timeout=30)
        client.command_encoding = "utf-8"
        client.ehlo("test")
        return client


@pytest.fixture
def run(start, tmp_path):
    return lambda *arguments, **environment: Sandbox(start, tmp_path, *arguments, **environment)


@pytest.fixture
def smtp(run):
    """A client that is connected to a running sandbox."""
    with run().connect() as client:
        yield client


def deliver(client: smtplib.SMTP, raw: bytes = MAIL, sender="shop@example.com", to=("moss@example.com",), options=""):
    """One message by hand, since smtplib mends what it sends. Returns the reply to the final dot."""
    replies = [client.docmd(f"MAIL FROM:<{sender}>{options}")]
    replies += [client.docmd(f"RCPT TO:<{recipient}>") for recipient in to]
    assert [code for code, _ in replies] == [250] * len(replies), replies
    assert client.docmd("DATA")[0] == 354
    return finish(client, raw)


def finish(client: smtplib.SMTP, raw: bytes) -> tuple[int, bytes]:
    stuffed = (b"\r\n" + raw).replace(b"\r\n.", b"\r\n..")[2:]
    client.send(stuffed + (b"" if raw.endswith(b"\r\n") else b"\r\n") + b".\r\n")
    return client.getreply()


def newest() -> SandboxMessage:
    return SandboxMessage.objects.order_by("-pk").first()


BYTES = {
    "nothing": b"\r\n",
    "only dots": b".\r\n..\r\n.a\r\n...\r\n",
    "a dot after a bare line feed": b"Subject: x\r\n\r\na\n.\nb\r\n",
    "bare line ends": b"Subject: x\n\na\rb\nc\r\n",
    "a line of a million bytes": b"Subject: x\r\n\r\n" + b"x" * 1_000_000 + b"\r\n",
    "a long line that begins with a dot": b"Subject: x\r\n\r\n." + b"x" * 2000 + b"\r\n",
    "8-bit bytes that are no UTF-8": b"Subject: gr\xfc\xdf\r\n\r\n\xff\xfe\x80\r\n",
    "NUL bytes": b"Subject: a\0b\r\n\r\n\0\0\r\n",
    "every byte": b"\r\n" + bytes(set(range(256)) - {10, 13}) + b"\r\n",
    "no headers": b"just text\r\n",
    "broken headers": b": x\r\nno colon here\r\nSubject\r\n : y\r\n\r\n",
    "a broken From": b"From: <<<>>\"\r\nSubject: x\r\n\r\n",
    "a subject without an end": b"Subject: " + b"=?utf-8?q?" * 10_000 + b"\r\n",
    "a charset that nobody knows": b"Subject: =?klingon?q?x?=\r\n\r\n",
    "a word that is no UTF-8": b"Subject: =?utf-8?q?=FF=ED=A0=80?=\r\n\r\n",
    "deep comments": b"From: " + b"(" * 50_000 + b"\r\n\r\n",
}  # fmt: skip


@pytest.mark.stores
@pytest.mark.django_db(transaction=True)
def test_the_very_bytes_are_kept(smtp):
    for name, raw in BYTES.items():
        assert deliver(smtp, raw)[0] == 250, name
        assert bytes(newest().raw) == raw, name
    assert SandboxMessage.objects.count() == len(BYTES)


@pytest.mark.django_db(transaction=True)
def test_what_smtplib_sends_and_what_our_own_client_sends(smtp, run):
    smtp.sendmail("shop@example.com", ["moss@example.com"], "Subject: x\n\n.dot\nno end")
    assert bytes(newest().raw) == b"Subject: x\r\n\r\n.dot\r\nno end\r\n"

    ours = Connection(Relay.from_url(f"sandbox://127.0.0.1:{smtp.sock.getpeername()[1]}"))
    for raw in BYTES.values():
        outcome = ours.send("shop@example.com", ["moss@example.com"], raw)
        assert "kept in the sandbox as" in str(outcome.results["moss@example.com"].reply)
        assert bytes(newest().raw) == raw
    ours.close()


@pytest.mark.stores
@pytest.mark.django_db(transaction=True)
def test_the_envelope_is_kept(smtp):
    deliver(smtp, sender="", to=["Moss@Example.com", "moss@example.com", "postmaster", '"a b"@example.com'])
    kept = newest()
    assert kept.envelope_from == ""  # a bounce's
    assert kept.envelope_to == ["Moss@Example.com", "moss@example.com", "postmaster", '"a b"@example.com']
    mailboxes = kept.recipients.order_by("pk").values_list("mailbox", flat=True)
    assert list(mailboxes) == ["moss@example.com", "postmaster", '"a b"@example.com']

    deliver(
        smtp, b"Subject: Gr\xc3\xbc\xc3\x9fe\r\n\r\n", options=" SMTPUTF8 BODY=8BITMIME", to=["möss@bücher.example"]
    )
    assert newest().envelope_to == ["möss@bücher.example"]
    assert newest().subject == "Grüße"


@pytest.mark.stores
@pytest.mark.django_db(transaction=True)
def test_addresses_that_cannot_be_kept_are_refused_and_the_rest_goes_on(smtp):
    """Refused like a relay would, so that the fault shows here and not in production."""
    assert smtp.docmd("MAIL FROM:<möss@example.com>") == (553, b"5.6.7 An address beyond ASCII needs SMTPUTF8")
    assert smtp.docmd("MAIL FROM:<shop@example.com>")[0] == 250
    for bad in (b"m\xc3\xb6ss@example.com", b"m\xff@example.com", b"m\0@example.com", b"x" * 321 + b"@example.com"):
        smtp.sock.sendall(b"RCPT TO:<" + bad + b">\r\n")
        assert smtp.getreply()[0] in (501, 553), bad
    assert smtp.docmd("DATA")[0] == 503  # nobody to send it to
    assert smtp.docmd("RCPT TO:<moss@example.com>")[0] == 250
    assert smtp.docmd("DATA")[0] == 354
    assert finish(smtp, MAIL)[0] == 250
    assert newest().envelope_to == ["moss@example.com"]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("raw", "subject", "sender"),
    [
        (b"Subject: Hello\r\nFrom: Shop <shop@example.com>\r\n\r\n", "Hello", "Shop <shop@example.com>"),
        (b"subject: Hello\r\n there\r\n\r\n", "Hello there", ""),
        (b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n =?utf-8?b?IQ==?=\r\n\r\n", "Grüße!", ""),
        (b"From: =?utf-8?q?Zo=C3=AB?= <zoe@example.com>\r\n\r\n", "", "Zoë <zoe@example.com>"),
        (b"From: <<<>>\r\n\r\n", "", "<<<>>"),
        (b"Subject: a\0b\r\n\r\n", "a\ufffdb", ""),
        (b"\r\nSubject: in the body\r\n", "", ""),
        (b"Subject: " + b"x" * 100_000 + b"\r\n\r\n", "x" * 1000, ""),
    ],
)
def test_subject_and_sender_are_shown_as_they_were_meant(raw, subject, sender):
    kept = store("shop@example.com", ["moss@example.com"], raw)
    assert (kept.subject, kept.sender) == (subject, sender)


@pytest.mark.django_db(transaction=True)
def test_fifty_megabytes_are_the_limit(smtp):
    line = b"x" * 76 + b"\r\n"
    largest = line * (MAX_BYTES // len(line))
    assert deliver(smtp, largest)[0] == 250
    assert bytes(newest().raw) == largest

    assert deliver(smtp, largest + line) == (552, b"Error: Too much mail data")
    assert smtp.docmd(f"MAIL FROM:<shop@example.com> SIZE={MAX_BYTES + 1}")[0] == 552
    assert deliver(smtp)[0] == 250
    assert SandboxMessage.objects.count() == 2


@pytest.mark.django_db(transaction=True)
def test_a_message_that_is_not_complete_is_not_kept(run):
    sandbox = run()
    with socket.create_connection(("127.0.0.1", sandbox.port)) as caller:
        caller.sendall(
            b"HELO x\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nDATA\r\nSubject: x\r\n\r\nhalf"
        )
    with sandbox.connect() as client:
        deliver(client, b"Subject: whole\r\n\r\n")
    assert [message.subject for message in SandboxMessage.objects.all()] == ["whole"]
    assert "Traceback" not in sandbox.process.text()


@pytest.mark.django_db(transaction=True)
def test_many_clients_at_once_and_the_list_shows_all(run, api):
    sandbox = run()
    clients = [sandbox.connect() for _ in range(20)]
    for number, client in enumerate(clients):
        client.docmd("MAIL FROM:<shop@example.com>")
        client.docmd(f"RCPT TO:<moss{number}@example.com>")
        client.docmd("DATA")
        client.send(f"Subject: {number}\r\n\r\n.\r\n")
    for client in clients:
        assert client.getreply()[0] == 250
        client.quit()
    listed = api.get("/sandbox/messages?limit=100").json()["data"]
    assert sorted(int(message["subject"]) for message in listed) == list(range(20))
    [found] = api.get("/sandbox/messages?to=moss7@example.com").json()["data"]
    assert api.get(f"/sandbox/messages/{found['id']}.eml").content == b"Subject: 7\r\n\r\n"


# Its address


@pytest.mark.django_db(transaction=True)
def test_it_takes_a_free_port_records_it_and_takes_it_again(run, tmp_path):
    first = run()
    port = first.port
    assert first.address_file.read_text() == f"127.0.0.1:{port}"
    assert Relay.beside(first.address_file).address == ("127.0.0.1", port)
    assert first.process.stop() == 0
    with pytest.raises(ConnectionError, match="the sandbox is not running"):
        _ = Relay.beside(first.address_file).address

    second = run()
    assert second.port == port
    assert second.process.stop(signal.SIGINT) == 0

    with socket.create_server(("127.0.0.1", port)):
        third = run()
        assert third.port != port
    third.process.stop(signal.SIGKILL)
    assert run().port == third.port


@pytest.mark.django_db(transaction=True)
def test_a_port_that_it_was_told_to_take(run, start, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        refused = start("sandbox", "--port", str(taken), MAILSITE_DATA=str(tmp_path))
        assert refused.popen.wait(30) == 1
        assert refused.text().startswith(f"CommandError: The sandbox can't listen on 127.0.0.1, port {taken}")
        assert refused.text().count("\n") == 1
    assert run("--port", str(taken)).port == taken


# Its end


@pytest.mark.django_db(transaction=True)
def test_sigterm_ends_it_whatever_its_clients_do(run):
    sandbox = run()
    idle, in_the_middle = sandbox.connect(), sandbox.connect()
    in_the_middle.docmd("MAIL FROM:<shop@example.com>")
    in_the_middle.docmd("RCPT TO:<moss@example.com>")
    in_the_middle.docmd("DATA")
    in_the_middle.send(b"Subject: x\r\n")
    assert sandbox.process.stop() == 0
    assert "Traceback" not in sandbox.process.text()
    for client in (idle, in_the_middle):
        assert client.sock.recv(100) == b""
        client.close()


@pytest.fixture
def impatient(tmp_path) -> dict[str, str]:
    """An environment in which a locked SQLite is given up after a moment, where life allows half a minute."""
    (tmp_path / "impatient.py").write_text(
        "from mailsite.settings import *\nDATABASES['default']['OPTIONS']['timeout'] = 0.2\n"
    )
    return {"DJANGO_SETTINGS_MODULE": "impatient", "PYTHONPATH": str(tmp_path)}


@pytest.fixture
def locked(settings):
    """The tests' database, held by somebody else until `locked.rollback()`."""
    holder = sqlite3.connect(settings.DATABASES["default"]["NAME"], isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    yield holder
    holder.close()


@pytest.mark.django_db(transaction=True)
def test_what_is_being_stored_at_the_end_is_stored_and_answered(run, locked):
    sandbox = run()
    client, other = sandbox.connect(), sandbox.connect()
    client.docmd("MAIL FROM:<shop@example.com>")
    client.docmd("RCPT TO:<moss@example.com>")
    client.docmd("DATA")
    client.send(MAIL + b".\r\n")
    for _ in range(5):  # by its answers to another client it has seen the final dot
        other.noop()
    sandbox.process.popen.terminate()
    wait_until(lambda: other.sock and not still_open(sandbox.port), "it still listens")
    locked.rollback()
    assert client.getreply()[0] == 250
    assert sandbox.process.popen.wait(30) == 0
    assert newest().subject == "Hello"
    client.close()
    other.close()


def still_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# Its database


@pytest.mark.django_db(transaction=True)
def test_a_locked_database_is_a_temporary_failure_and_nothing_is_lost(run, locked, impatient):
    sandbox = run(**impatient)
    with sandbox.connect() as client:
        code, text = deliver(client)
        assert code == 451
        assert b"try again" in text
        locked.rollback()
        assert deliver(client)[0] == 250
    assert SandboxMessage.objects.count() == 1
    assert "could not store" in sandbox.process.text()


@pytest.mark.django_db(transaction=True)
def test_a_database_that_is_away_comes_back(run, settings, tmp_path):
    place = tmp_path / "away" / "database"
    sandbox = run(DATABASE_URL=f"sqlite:///{place}")
    with sandbox.connect() as client:
        assert deliver(client)[0] == 451
        place.parent.mkdir()
        assert deliver(client)[0] == 451  # there, but without tables
        with sqlite3.connect(settings.DATABASES["default"]["NAME"]) as tests, sqlite3.connect(place) as copy:
            tests.backup(copy)
        assert deliver(client)[0] == 250
        assert copy.execute("SELECT raw FROM emails_sandboxmessage").fetchall() == [(MAIL,)]
    tests.close()
    copy.close()
