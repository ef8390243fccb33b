"""The relay check says what each step came to, and what to change: against real servers, good and bad."""

import os
import re
import socket
import ssl
import subprocess
import sys
import threading
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from emails.addresses import Address as Mailbox
from emails.relaycheck import Check, Step, check_within, mail_to
from emails.smtp import Relay as Address
from emails.staging import OnlyTo
from tests import sinks
from tests.conftest import ROOT
from tests.environment import wait_until
from tests.test_smtp import certificate, known_authority  # noqa: F401  a fixture for this file, too

LOGIN = ("user", "p:ass wörd")
MOSS = "moss@example.com"
SHORT = 0.3


@pytest.fixture
def servers():
    open_ones = []

    def server(**options) -> sinks.Relay:
        options = {"extensions": ("PIPELINING", "8BITMIME", "SIZE 1000000")} | options
        open_ones.append(sinks.Relay(**options))
        return open_ones[-1]

    yield server
    for one in open_ones:
        one.close()


def address_of(server: sinks.Relay, scheme="smtp", login="", host="127.0.0.1") -> Address:
    return Address.from_url(f"{scheme}://{login}{host}:{server.port}")


def checked(relay: Address, to: str = "", patience: float = 10.0) -> Check:
    check = Check(relay, mail_to(to, "shop@example.com") if to else None, patience=patience)
    check.run()
    return check


def failure(check: Check) -> Step:
    assert not check.is_passed
    assert [step.state for step in check.steps].count("failed") == 1
    return check.steps[-1]


def fails(check: Check, name: str, said: str, advice: str) -> None:
    step = failure(check)
    assert step.name == name
    assert re.search(said, step.said), step.said
    assert re.search(advice, step.advice), step.advice


# A relay that works


def test_every_step_of_a_good_relay_is_told(servers):
    server = servers(certificate=certificate(), login=LOGIN)
    check = checked(address_of(server, "submission", "user:p%3Aass%20w%C3%B6rd@", "localhost"), to=MOSS)
    assert check.is_passed
    assert {step.state for step in check.steps} == {"ok"}
    assert [step.name for step in check.steps] == [
        "Name", "Connection", "Greeting", "EHLO", "STARTTLS", "TLS", "EHLO", "Login", "Sender", "Recipient", "DATA",
        "Message", "Acceptance",
    ]  # fmt: skip
    said = [step.said for step in check.steps]
    assert "127.0.0.1" in said[0]
    assert said[1] == f"to 127.0.0.1, port {server.port}"
    assert said[2] == "220 relay.test ESMTP"
    assert said[3] == "250, offers PIPELINING, 8BITMIME, SIZE 1000000, STARTTLS, AUTH PLAIN LOGIN"
    assert re.fullmatch(
        r"TLSv1\.\d, \S+; certificate for localhost, issued by .+, valid until \d{4}-\d\d-\d\d", said[5]
    )
    assert said[7] == "235 2.7.0 welcome"
    assert said[-1] == "250 2.0.0 taken"
    [received] = server.received
    assert (received.sender, received.recipients) == ("shop@example.com", [MOSS])
    assert b"\r\nSubject: Relay check\r\n" in received.data
    assert server.connections == 1


def test_without_an_address_no_mail_is_sent(servers):
    server = servers()
    check = checked(address_of(server))
    assert check.is_passed
    assert not any(line.startswith("MAIL") for line in server.lines)


def test_the_workers_own_name_is_said(servers, settings):
    settings.EHLO_NAME = "mail.example.com"
    server = servers()
    checked(address_of(server))
    assert server.lines[0] == "EHLO mail.example.com"


def test_a_relay_without_tls_is_warned_about(servers):
    check = checked(address_of(servers()))
    assert check.is_passed
    [warning] = [step for step in check.steps if step.state == "warning"]
    assert (warning.name, warning.said) == ("TLS", "the relay offers none: mail travels in the clear")


def test_a_starttls_that_is_refused_is_a_warning_where_it_was_only_offered(servers):
    server = servers(certificate=certificate(), always={"STARTTLS": "454 not now"})
    check = checked(address_of(server))
    assert check.is_passed
    assert [step.name for step in check.steps if step.state == "warning"] == ["STARTTLS", "TLS"]


# The host and its port


def test_a_name_that_nobody_knows():
    fails(checked(Address("-no name-", 25)), "Name", "Name or service not known|No address", "EMAIL_URL")


def test_a_port_where_nobody_listens(servers):
    server = servers()
    server.close()
    fails(checked(address_of(server)), "Connection", "Connection refused", "nothing listens on port .*587")


def test_a_port_that_a_firewall_swallows():
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as full,
        socket.create_connection(full.getsockname()),  # its one place is taken, so the next is not answered
    ):
        check = checked(Address("127.0.0.1", full.getsockname()[1]), patience=SHORT)
    fails(check, "Connection", f"no answer within {SHORT} s", "A firewall")


def test_a_port_that_waits_for_tls(servers):
    server = servers(certificate=certificate(known=False), implicit_tls=True)
    check = checked(address_of(server, "submission", host="localhost"), patience=1)
    advice = f"TLS from the first byte: set EMAIL_URL to smtps://localhost:{server.port}"
    fails(check, "Greeting", "no answer within 1 s", advice)


def test_a_port_that_begins_in_the_clear(servers):
    server = servers(certificate=certificate(), login=LOGIN)
    check = checked(address_of(server, "smtps", "user:secret@", "localhost"))
    advice = f"set EMAIL_URL to submission://user:password@localhost:{server.port}"
    fails(check, "TLS", "TLS failed", advice)


def test_a_server_that_says_nothing(servers):
    server = servers(always={"greeting": "silence"})
    fails(checked(address_of(server), patience=SHORT), "Greeting", "no answer", "the right one")


def test_a_server_for_something_else(servers):
    server = servers(always={"greeting": b"HTTP/1.1 400 Bad Request\r\n\r\n"})
    fails(checked(address_of(server)), "Greeting", "no SMTP", "the right one")


def test_a_server_that_turns_us_away(servers):
    fails(checked(address_of(servers(always={"greeting": "554 5.7.1 listed"}))), "Greeting", "554 5.7.1", "its address")
    fails(checked(address_of(servers(always={"greeting": "421 too many"}))), "Greeting", "421", "SENDERS")


def test_a_server_that_dislikes_our_name(servers):
    server = servers(always={"EHLO": "550 5.7.1 bad name", "HELO": "550 5.7.1 bad name"})
    fails(checked(address_of(server)), "EHLO", "550 5.7.1 bad name", "EHLO_NAME")


# TLS


def test_a_relay_without_the_tls_that_is_required(servers):
    fails(checked(address_of(servers(), "submission")), "EHLO", "offers no STARTTLS", "smtps://.*smtp://")


@pytest.mark.parametrize("scheme", ["submission", "smtps"])
@pytest.mark.parametrize(
    ("wrong", "reason", "advice"),
    [
        ({"known": False}, "unable to get local issuer", "for localhost, issued by .*SSL_CERT_FILE"),
        ({"days": -1}, "has expired", r"valid until \d{4}-\d\d-\d\d\. Have it renewed"),
        ({"name": "mx.example.net"}, "not valid for 'localhost'", "for mx.example.net.* Write the name"),
    ],
)
def test_a_certificate_that_is_not_valid_is_shown(servers, scheme, wrong, reason, advice):
    server = servers(certificate=certificate(**wrong), implicit_tls=scheme == "smtps")
    fails(checked(address_of(server, scheme, host="localhost")), "TLS", reason, advice)


def test_a_certificate_that_is_not_valid_is_a_warning_where_any_is_taken(servers):
    server = servers(certificate=certificate("mx.example.net", known=False, days=-1))
    check = checked(address_of(server, host="localhost"))
    assert check.is_passed
    [step] = [step for step in check.steps if step.state == "warning"]
    assert step.name == "TLS"
    assert re.search("for mx.example.net, .*; the relay's certificate is not valid: ", step.said)
    assert "submission://" in step.advice


def test_a_certificate_that_is_valid_is_shown_where_any_is_taken(servers):
    check = checked(address_of(servers(certificate=certificate()), host="localhost"))
    assert {step.state for step in check.steps} == {"ok"}
    assert "certificate for localhost" in next(step.said for step in check.steps if step.name == "TLS")


def test_a_certificate_that_ends_soon_is_a_warning(servers):
    check = checked(address_of(servers(certificate=certificate(days=3)), "submission", host="localhost"))
    assert check.is_passed
    [step] = [step for step in check.steps if step.state == "warning"]
    assert re.fullmatch(r"It ends in [23] days: have it renewed\.", step.advice)


@pytest.mark.parametrize("scheme", ["submission", "smtps"])
def test_a_relay_whose_tls_is_out_of_date(servers, scheme):
    context = certificate()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES256-SHA")
    server = servers(certificate=context, implicit_tls=scheme == "smtps")
    fails(checked(address_of(server, scheme, host="localhost")), "TLS", "TLS failed: .*handshake", "out of date")


# The login


def test_a_login_that_is_refused(servers):
    server = servers(login=LOGIN)
    fails(
        checked(address_of(server, login="user:other@")), "Login", "535 5.7.8 wrong", "user and password in EMAIL_URL"
    )


def test_a_login_where_there_is_none(servers):
    server = servers(certificate=certificate())
    check = checked(address_of(server, "submission", "user:secret@", "localhost"))
    fails(check, "Login", "neither AUTH PLAIN nor AUTH LOGIN", "out of EMAIL_URL")


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_the_password_is_never_told(servers, mechanism, settings):
    """Not even by a relay that repeats what it was told."""
    echo = "535 no: p:ass cGE6c3M= AHVzZXIAcDphc3M= AHVzZXIAcGE6c3M= pa:ss"
    server = servers(extensions=(f"AUTH {mechanism}",), login=LOGIN, always={"AUTH": echo})
    settings.RELAY = address_of(server, login="user:pa%3Ass@")
    out = StringIO()
    with pytest.raises(CommandError):
        call_command("checkrelay", stdout=out)
    assert "535 no" in out.getvalue()
    for secret in ("pa:ss", "cGE6c3M=", "AHVzZXIAcGE6c3M="):
        assert secret not in out.getvalue()


# The mail


@pytest.mark.parametrize(
    ("stage", "reply", "step", "advice"),
    [
        ("MAIL", "530 5.7.0 authentication required", "Sender", "wants a login"),
        ("MAIL", "553 5.7.1 sender not owned", "Sender", "takes no mail from this sender"),
        ("MAIL", "451 4.3.0 later", "Sender", "RETRY_SCHEDULE"),
        ("RCPT", "450 4.2.0 greylisted", "Recipient", "Strangers are put off .*RETRY_SCHEDULE"),
        ("RCPT", "554 5.7.1 relay access denied", "Recipient", "does not pass mail on for us"),
        ("RCPT", "550 5.1.1 no such user", "Recipient", "no such mailbox"),
        ("DATA", "451 4.3.0 later", "DATA", "RETRY_SCHEDULE"),
        ("dot", "554 5.7.1 spam", "Acceptance", "for what it is"),
    ],
)
@pytest.mark.parametrize("pipelining", [True, False])
def test_a_mail_that_is_refused(servers, stage, reply, step, advice, pipelining):
    server = servers(extensions=("PIPELINING",) if pipelining else (), always={stage: reply})
    fails(checked(address_of(server), to=MOSS), step, re.escape(reply), advice)
    assert not server.received


def test_a_mail_that_the_relay_can_not_take(servers):
    fails(checked(address_of(servers(extensions=("SIZE 10",))), to=MOSS), "Message", "takes at most 10", "")


def test_a_relay_that_hangs_up_after_the_mail(servers):
    server = servers(always={"dot": "drop"})
    fails(checked(address_of(server), to=MOSS), "Acceptance", "closed the connection", "may have the mail or not")


def test_a_refused_dialogue_is_not_begun_again(servers):
    server = servers(always={"MAIL": "drop"})
    fails(checked(address_of(server), to=MOSS), "Sender", "closed the connection|reset|Broken pipe", "")
    assert server.connections == 1


def test_the_mails_sender(settings):
    settings.RELAY = Address.from_url("submission://user:password@relay.example.com")
    assert str(mail_to(MOSS).sender) == MOSS
    assert str(mail_to(MOSS, "Shop <shop@example.com>").sender) == "Shop <shop@example.com>"
    settings.RELAY = Address.from_url("submission://shop%40example.net:password@relay.example.com")
    assert str(mail_to(MOSS).sender) == "shop@example.net"


def test_each_step_of_the_mail_says_something_and_an_address_that_is_none_is_named(servers, settings):
    settings.RELAY = address_of(servers())
    out = StringIO()
    call_command("checkrelay", MOSS, stdout=out)
    assert re.search(r"Message +\d\.\d\d s  \d+ bytes\n", out.getvalue())
    with pytest.raises(CommandError, match="^'nonsense' is not a valid email address"):
        call_command("checkrelay", "nonsense", stdout=out)


def test_staging_safety_holds_for_the_mail_too(servers, settings):
    server = servers()
    settings.REDIRECT_TO = Mailbox.parse("tester@example.org")
    assert checked(address_of(server), to=MOSS).is_passed
    assert server.received[0].recipients == ["tester@example.org"]
    settings.REDIRECT_TO, settings.ONLY_TO = None, OnlyTo.parse("example.org")
    settings.RELAY = address_of(server)
    with pytest.raises(CommandError, match="moss@example.com is not on ONLY_TO"):
        call_command("checkrelay", MOSS)
    assert len(server.received) == 1


# The command


def test_the_command_tells_each_step_and_ends_with_0_or_1(servers):
    server = servers(certificate=certificate(known=False))

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "manage.py", "checkrelay", *arguments]
        environment = os.environ | {"DATABASE_URL": "postgres://nobody@127.0.0.1:1/nothing"} | environment
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    good = run(MOSS, "--from", "shop@example.com", EMAIL_URL=server.url)
    assert good.returncode == 0, good.stderr
    assert re.search(r"^  Greeting +\d+\.\d\d s  220 relay.test ESMTP$", good.stdout, re.MULTILINE)
    assert "The relay has taken the mail for moss@example.com" in good.stdout
    bad = run(EMAIL_URL=server.url.replace("smtp:", "submission:"))
    assert bad.returncode == 1
    assert "FAILED: the relay's certificate is not valid" in bad.stdout
    assert " → " in bad.stdout
    wrong = run("moss")
    assert wrong.returncode == 1
    assert "moss" in wrong.stderr and "Traceback" not in wrong.stderr


# The page


@pytest.mark.django_db
def test_the_page_shows_each_step(admin_client, servers, settings):
    server = servers(always={"RCPT": "554 5.7.1 relay <b>access</b> denied"})
    settings.RELAY = address_of(server)
    assert "Check the relay" in admin_client.get("/relay").text
    assert not server.lines
    page = admin_client.post("/relay", {"address": "", "sender": ""}).text
    assert "220 relay.test ESMTP" in page and "The relay can be used" in page
    page = admin_client.post("/relay", {"address": MOSS, "sender": "shop@example.com"}).text
    assert "relay &lt;b&gt;access&lt;/b&gt; denied" in page
    assert "It does not pass mail on for us" in page and "The check has failed" in page


@pytest.mark.django_db
def test_the_page_asks_for_an_address_that_is_one(admin_client, servers, settings):
    server = servers()
    settings.RELAY = address_of(server)
    for typed in ({"address": "moss"}, {"address": MOSS, "sender": "moss"}):
        assert admin_client.post("/relay", typed).text.count("is not a valid email address") == 1
    assert not server.connections


@pytest.mark.django_db
def test_the_page_is_for_who_may_pause_the_relay(client, django_user_model):
    assert client.get("/relay").status_code == 302
    client.force_login(django_user_model.objects.create_user("jen"))
    assert client.get("/relay").status_code == client.post("/relay").status_code == 403
    assert "/relay" not in client.get("/").text


def test_a_check_ends_in_time_and_sends_nothing_afterwards(servers, settings):
    """The relay takes all but the dot, and goes on when nobody waits any longer."""
    gone_on = threading.Event()
    server = servers(always={"DATA": (lambda connection: gone_on.wait(30), "354 go on")})
    settings.RELAY = address_of(server)
    check = check_within(1, mail_to(MOSS))
    gone_on.set()
    assert not check.is_passed
    assert (check.steps[-1].name, check.steps[-1].said) == ("DATA", "no end within 1 s")
    wait_until(lambda: not server._open, "the dialogue did not end")
    assert not server.received


def test_what_comes_when_nobody_waits_any_longer_is_not_kept_after_the_end(servers):
    class Raced(Check):
        """Nobody waits any longer from the moment at which a step is being kept."""

        @property
        def steps(self) -> list[Step]:
            if not stopping.ident:
                stopping.start()
                stopping.join(SHORT)  # which is over before, or waits for the step
            return self.known

        @steps.setter
        def steps(self, steps: list[Step]) -> None:
            self.known = steps

    check = Raced(address_of(servers()))
    stopping = threading.Thread(target=check.stop, args=["no end"])
    check.run()
    stopping.join()
    assert check.steps[-1].said == "no end"
