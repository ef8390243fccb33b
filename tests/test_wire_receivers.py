"""Real servers take every fixed message, and what they pass on is what they got."""

import os
import re
import shutil
import socket
import subprocess
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from emails import mime
from emails.drafts import Draft, Invalid
from emails.models import EmailRequest, SandboxMessage
from emails.smtp import Connection, Relay, Verdict
from tests import sinks, wire
from tests.environment import IN_CI, wait_until
from tests.test_wire import expand

# As strict as Postfix can be told to be: it refuses bare line ends, 8-bit headers, 8-bit bodies that nobody announced,
# encoded multiparts and mails in base64; and it cuts lines of over 998 characters when it passes a message on.
MAIN = """
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file = {folder}/log
maillog_file_prefixes = {folder}
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = postfix.test
mydestination =
mynetworks = 127.0.0.0/8
alias_maps =
alias_database =
relayhost = [127.0.0.1]:{relay}
smtp_dns_support_level = disabled
smtp_tls_security_level = none
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_data_restrictions = reject_unauth_pipelining
smtpd_forbid_bare_newline = {bare}
smtpd_forbid_bare_newline_exclusions =
smtpd_forbid_unauth_pipelining = yes
strict_rfc821_envelopes = yes
strict_7bit_headers = yes
strict_8bitmime = yes
strict_8bitmime_body = yes
strict_mime_encoding_domain = yes
strict_smtputf8 = yes
smtputf8_enable = yes
header_checks = regexp:{folder}/checks
mime_header_checks = regexp:{folder}/checks
message_drop_headers =
message_size_limit = 52428800
"""
CHECKS = """
/^[^:]{{1,}}:$/ REJECT an empty header
/^(Message-ID|In-Reply-To|References|List-[^I].*|Date|Auto-Submitted|Return-Path):.*=\\?utf-8/ REJECT encoded words
/=\\?[^ ]{{75,}}/ REJECT a word of more than 75 characters
/\\?==\\?/ REJECT words without white space between them
"""
SERVICES = """
127.0.0.1:{port} inet n - n - - smtpd
127.0.0.1:{port_for_utf8} inet n - n - - smtpd -o cleanup_service_name=cleanup8
cleanup   unix  n - n - 0 cleanup
cleanup8  unix  n - n - 0 cleanup -o strict_7bit_headers=no -o strict_8bitmime=no
qmgr      unix  n - n 300 1 qmgr
rewrite   unix  - - n - - trivial-rewrite
bounce    unix  - - n - 0 bounce
defer     unix  - - n - 0 bounce
smtp      unix  - - n - - smtp
relay     unix  - - n - - smtp
error     unix  - - n - - error
retry     unix  - - n - - error
proxymap  unix  - - n - - proxymap
anvil     unix  - - n - 1 anvil
postlog   unix-dgram n - n - 1 postlogd
"""


@pytest.fixture(scope="module")
def behind():
    """The server that Postfix passes everything on to."""
    relay = sinks.Relay(extensions=("8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES"))
    yield relay
    relay.close()


@pytest.fixture(scope="module")
def postfix(behind):
    """A Postfix of our own, with its configuration, queue and log in a folder that goes away.

    Two addresses: the strict one, and one for SMTPUTF8, where headers may have eight bits.
    """
    if not shutil.which("postfix") or os.getuid():
        reason = (
            "NOT TAKEN BY POSTFIX: " + ("it needs root" if os.getuid() else "apt install postfix") + " for this test."
        )
        pytest.fail(reason) if IN_CI else pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="mailsite-postfix-"))
    folder.chmod(0o755)  # Postfix's own user has to reach its queue
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        port, port_for_utf8 = one.getsockname()[1], other.getsockname()[1]
    (folder / "conf").mkdir()
    for name in ("queue", "data"):
        (folder / name).mkdir()
    shutil.chown(folder / "data", "postfix")
    settings = {"folder": folder, "relay": behind.port, "bare": bare_newline()}
    settings |= {"port": port, "port_for_utf8": port_for_utf8}
    for name, text in (("conf/main.cf", MAIN), ("conf/master.cf", SERVICES), ("checks", CHECKS)):
        (folder / name).write_text(text.format(**settings))
    command = ["postfix", "-c", folder / "conf"]
    started = subprocess.run([*command, "start"], capture_output=True, text=True, timeout=60)
    assert started.returncode == 0, started.stderr + read_log(folder)
    try:
        wait_until(lambda: answers(port), "Postfix doesn't answer")
        yield [Relay.from_url(f"smtp://127.0.0.1:{number}") for number in (port, port_for_utf8)]
    finally:
        subprocess.run([*command, "stop"], capture_output=True, timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


def bare_newline() -> str:
    """Newer versions can refuse bare line feeds; those that only know "yes" end the session with an error."""
    known = subprocess.run(["postconf", "-d", "smtpd_forbid_bare_newline_reject_code"], capture_output=True, text=True)
    return "reject" if "=" in known.stdout else "yes"


def read_log(folder: Path) -> str:
    return (folder / "log").read_text() if (folder / "log").exists() else ""


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def sent_through(relays: list[Relay]) -> dict[str, bytes]:
    """All fixed messages, each to a recipient of its own; asserts that the server takes them."""
    sent = {}
    with closing(Connection(relays[0], "client.test")) as plain, closing(Connection(relays[-1], "client.test")) as utf8:
        for number, case in enumerate(wire.cases()):
            message = expand(case)
            recipient = f"{'ü' if message.smtputf8 else 'u'}{number}@example.com"
            sent[recipient] = mime.build(message)
            connection = utf8 if message.smtputf8 else plain
            outcome = connection.send("shop@example.com", [recipient], sent[recipient])
            verdicts = [result.verdict for result in outcome.results.values()]
            assert verdicts == [Verdict.ACCEPTED], f"{case['name']}: {outcome}"
    return sent


def test_postfix_takes_every_message_and_passes_it_on_unchanged(postfix, behind):
    sent = sent_through(postfix)
    wait_until(lambda: len(behind.received) >= len(sent), "Postfix keeps messages back")
    passed_on = {received.recipients[0]: received.data for received in behind.received}
    for recipient, raw in sent.items():
        trace, own = re.fullmatch(
            rb"(Received: .*?\r\n(?:[ \t].*?\r\n)*)(.*)", passed_on[recipient], re.DOTALL
        ).groups()
        assert b"postfix.test" in trace
        assert own == raw


@pytest.mark.parametrize(
    "raw",
    [
        b"Subject: x\r\n\r\na\nb\r\n",
        b"Subject: Gr\xc3\xbc\xc3\x9fe\r\n\r\nb\r\n",
        b"Subject: x\r\n\r\nGr\xc3\xbc\xc3\x9fe\r\n",
        b"MIME-Version: 1.0\r\nContent-Type: message/rfc822\r\nContent-Transfer-Encoding: base64\r\n\r\nYQ==\r\n",
        b"List-Unsubscribe: =?utf-8?q?x?=\r\n\r\nx\r\n",
    ],
)
def test_that_postfix_is_strict(postfix, raw):
    with closing(Connection(postfix[0], "client.test")) as connection:
        outcome = connection.send("shop@example.com", ["moss@example.com"], raw)
    assert outcome.trouble or outcome.unknown or outcome.results["moss@example.com"].verdict is not Verdict.ACCEPTED


@pytest.mark.django_db(transaction=True)
def test_the_sandbox_keeps_every_message_as_it_was_sent(start, tmp_path):
    process = start("sandbox", MAILSITE_DATA=str(tmp_path))
    process.wait_for("takes mail on")
    sent = sent_through([Relay.from_url("sandbox://" + (tmp_path / "sandbox.address").read_text())])
    kept = {message.envelope_to[0]: bytes(message.raw) for message in SandboxMessage.objects.all()}
    assert kept == sent


# From the door to the relay


@pytest.mark.django_db(transaction=True)
def test_the_relay_gets_what_the_pages_show(start, relay, submit, settings):
    settings.TIME_ZONE = "Europe/Berlin"
    email = submit(
        to=["Zoë <zoe@bücher.example>"], bcc="roy@example.com", subject="Grüße", html='<img src="cid:a b">',
        headers={"X-Metadata": '{"name": "Zoë"}'},
        attachments=[
            {"filename": "Zoë.png", "content": "iVBORw==", "content_id": "a b"},
            {"filename": "b.pdf", "content": "JVBERg=="},
        ],
    )  # fmt: skip
    early = email.raw()
    start("rqworker", EMAIL_URL=relay.url, TIME_ZONE="Europe/Berlin").wait_for("Listening on")
    wait_until(lambda: relay.received, "nothing came")
    email = EmailRequest.objects.get(pk=email.pk)
    [received] = relay.received
    assert received.data == email.raw()
    [date] = [line for line in received.data.split(b"\r\n") if line.startswith(b"Date: ")]
    assert date.endswith((b"+0100", b"+0200"))
    assert received.data.replace(date + b"\r\n", b"") == early
    assert b"Message-ID: <%s@example.com>" % email.pk.hex.encode() in received.data
    assert b"roy" not in received.data
    wire.check_lines(received.data)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("knows_smtputf8", [False, True])
def test_a_mailbox_beyond_ascii_needs_smtputf8_and_the_others_dont(start, relay, submit, knows_smtputf8):
    relay.extensions = (*relay.extensions, *(["SMTPUTF8"] if knows_smtputf8 else []))
    alone = submit(to="Zoë <möss@bücher.example>")
    shared = submit(to=["möss@bücher.example", "jen@example.com"])
    start("rqworker", EMAIL_URL=relay.url).wait_for("Listening on")
    wait_until(lambda: not EmailRequest.objects.filter(finished_at=None).exists(), "they are not done")
    states = [EmailRequest.objects.get(pk=email.pk).state for email in (alone, shared)]
    received = {tuple(mail.recipients): mail.data for mail in relay.received}
    if knows_smtputf8:
        assert states == ["sent", "sent"]
        assert (
            "To: =?utf-8?q?Zo=C3=AB?= <möss@xn--bcher-kva.example>" in received["möss@xn--bcher-kva.example",].decode()
        )
    else:
        assert states == ["bounced", "sent"]
        assert "SMTPUTF8" in shared.recipients.get(mailbox="möss@bücher.example").reply
        assert received.keys() == {("jen@example.com",)}
    assert all(data.isascii() for recipients, data in received.items() if "jen@example.com" in recipients)


@pytest.mark.parametrize(
    ("fields", "field", "named"),
    [
        ({"headers": {"X-Token": "t" * 990}}, "headers", "X-Token"),
        ({"headers": {"List-Unsubscribe": "<https://example.com/ü>"}}, "headers", "List-Unsubscribe"),
        ({"headers": {"X-Campaign": "a\r\nBcc: x@example.com"}}, "headers", "X-Campaign"),
        ({"headers": {"X-Campaign": "a\0"}}, "headers", "X-Campaign"),
        ({"text": "a\0"}, "text", "NUL"),
        ({"html": "a\0"}, "html", "NUL"),
        ({"reply_to": "möss@example.com"}, "reply_to", "möss@example.com"),
        ({"to": "moss@☃.example"}, "to", "☃"),  # IDNA 2003 took it, 2008 doesn't
    ],
)
def test_what_cannot_be_written_is_refused_by_name_when_it_is_given(fields, field, named):
    known = {"from": "shop@example.com", "to": "moss@example.com", "subject": "x", "text": "x"}
    with pytest.raises(Invalid) as caught:
        Draft.clean(known | fields)
    assert [(problem.field, named in problem.message) for problem in caught.value.problems] == [(field, True)]


def test_what_can_be_written_is_taken():
    known = {"from": "shop@example.com", "to": "moss@faß.example", "subject": "x", "text": "x"}
    draft = Draft.clean(known | {"headers": {"X-Token": "t" * 989, "Auto-Submitted": "auto-generated"}})
    assert draft.to[0].envelope == "moss@xn--fa-hia.example"
    assert len(draft.headers) == 2
