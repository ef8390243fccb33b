"""On a test system, mail reaches the testers and nobody else."""

import pytest
from django.urls import reverse

from emails.addresses import Address
from emails.models import EmailRequest, Suppression
from emails.sandbox import store
from emails.staging import OnlyTo
from tests.test_worker import timeline, wait_for_state

ONLY = "example.com, Tester@Example.org"
TESTER = "tester@example.org"


@pytest.fixture
def staging(start, relay, settings):
    """A worker with such a setting, and pages that know of it."""

    def begin(**environment: str) -> None:
        settings.ONLY_TO = OnlyTo.parse(environment["ONLY_TO"]) if "ONLY_TO" in environment else OnlyTo()
        settings.REDIRECT_TO = Address.parse(environment["REDIRECT_TO"]) if "REDIRECT_TO" in environment else None
        start("rqworker", EMAIL_URL=relay.url, **environment)

    return begin


def replies(email) -> dict[str, tuple[str, str]]:
    return {one.address: (one.state, one.reply) for one in email.recipients.all()}


# Only to some


@pytest.mark.parametrize(
    ("address", "lets"),
    [
        ("moss@example.com", True),
        ("MOSS@EXAMPLE.COM", True),
        ("Tester <TESTER@example.org>", True),
        ("jen@example.org", False),
        ("moss@sub.example.com", False),
        ("moss@notexample.com", False),
        ("example.com@example.org", False),
        ("moss@bücher.example", True),
        ("moss@xn--bcher-kva.example", True),
    ],
)
def test_the_list_names_domains_and_addresses(address, lets):
    assert OnlyTo.parse(f"{ONLY},xn--bcher-kva.example").lets(Address.parse(address)) is lets


@pytest.mark.parametrize(
    "text", [",", " , ", "a b", "@example.com", "moss@", "*.example.com", "example.com;example.org"]
)
def test_what_is_no_list_stops_the_start(text):
    with pytest.raises(ValueError):
        OnlyTo.parse(text)


@pytest.mark.stores
@pytest.mark.django_db(transaction=True)
def test_who_is_not_on_the_list_gets_nothing_and_the_message_says_why(staging, relay, submit):
    before = submit(to=["moss@example.com", "jen@elsewhere.example"], bcc=TESTER)  # accepted before the setting was
    nobody = submit(to=["jen@elsewhere.example", "roy@elsewhere.example"])
    Suppression.objects.create(mailbox="roy@elsewhere.example")
    staging(ONLY_TO=ONLY)
    wait_for_state(before, "sent")
    wait_for_state(nobody, "suppressed")
    [received] = relay.received
    assert sorted(received.recipients) == ["moss@example.com", TESTER]
    assert replies(before)["jen@elsewhere.example"] == ("suppressed", "held back: not on ONLY_TO")
    assert timeline(before)[-1] == "Sent 250 2.0.0 taken; jen@elsewhere.example is held back: not on ONLY_TO"
    assert timeline(nobody)[-1].startswith("Suppressed ")
    assert "jen@elsewhere.example is held back: not on ONLY_TO" in timeline(nobody)[-1]
    assert "roy@elsewhere.example is on the suppression list" in timeline(nobody)[-1]


@pytest.mark.django_db
def test_a_dry_run_tells_who_would_be_held_back(api, settings):
    settings.ONLY_TO = OnlyTo.parse(ONLY)
    body = {"from": "shop@example.com", "to": [TESTER, "jen@example.org"], "subject": "x", "text": "x"}
    tried = api.post("/emails?dry_run=true", body).json()
    assert (tried["recipients"], tried["suppressed"]) == ([TESTER], ["jen@example.org"])


# All to one


@pytest.mark.stores
@pytest.mark.django_db(transaction=True)
def test_all_mail_goes_to_one_address_with_the_original_ones_in_its_headers(staging, relay, submit, client, admin_user):
    email = submit(to=["Moss <moss@example.com>", "jen@example.net"], bcc="boss@example.net", subject="Hello")
    Suppression.objects.create(mailbox="jen@example.net")
    staging(REDIRECT_TO=TESTER)
    wait_for_state(email, "sent")
    [received] = relay.received
    assert received.recipients == [TESTER]
    originals = received.data.splitlines()[:2]
    assert sorted(originals) == [b"X-Original-To: boss@example.net", b"X-Original-To: moss@example.com"]
    assert b"To: Moss <moss@example.com>, jen@example.net\r\n" in received.data
    assert b"\r\nSubject: Hello\r\n" in received.data
    said = ("accepted", f"250 2.0.0 taken (redirected to {TESTER})")
    assert replies(email) == {
        "moss@example.com": said,
        "jen@example.net": ("suppressed", "on the suppression list"),
        "boss@example.net": said,
    }
    client.force_login(admin_user)
    assert f"(redirected to {TESTER})" in client.get(email.get_absolute_url()).text


@pytest.mark.django_db(transaction=True)
def test_mail_to_a_mailbox_beyond_ascii_reaches_the_one_address_by_any_relay(staging, relay, submit, admin_client):
    email = submit(to="jörg@bücher.example")
    staging(REDIRECT_TO=TESTER)
    wait_for_state(email, "sent")
    [received] = relay.received
    assert received.data.isascii() and "SMTPUTF8" not in " ".join(relay.lines)
    kept = store(received.sender, received.recipients, received.data)
    page = admin_client.get(reverse("sandbox_message", args=[kept.pk])).text
    assert "<dt>X-Original-To</dt><dd>jörg@xn--bcher-kva.example</dd>" in page


@pytest.mark.stores
@pytest.mark.django_db(transaction=True)
def test_what_the_one_address_refuses_is_refused_for_all(staging, relay, submit):
    relay.script[f"RCPT {TESTER}"] = ["550 5.1.1 no such user"]
    email = submit(to=["moss@example.com", "jen@example.net"])
    staging(REDIRECT_TO=TESTER)
    wait_for_state(email, "bounced")
    assert set(replies(email).values()) == {("bounced", f"550 5.1.1 no such user (redirected to {TESTER})")}


@pytest.mark.stores
@pytest.mark.django_db(transaction=True)
def test_what_the_one_address_puts_off_waits_for_all(staging, relay, submit):
    relay.script["dot"] = ["451 4.3.0 later"]
    email = submit(to=["moss@example.com", "jen@example.net"])
    staging(REDIRECT_TO=TESTER)
    wait_for_state(email, "deferred")
    assert {state for state, _ in replies(email).values()} == {"deferred"}
    EmailRequest.objects.filter(pk=email.pk).send_now("a test")
    wait_for_state(email, "sent")
    assert [received.recipients for received in relay.received] == [[TESTER]]


# Everybody can see it


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/", "/send", "/sandbox", "/admin/", "/messages/"])
def test_every_page_says_that_it_is_in_force(admin_client, settings, submit, path):
    path = submit().get_absolute_url() if path == "/messages/" else path
    for only_to, redirect_to, sentence in (
        (OnlyTo.parse(ONLY), None, f"Mail goes only to example.com, {TESTER}; to others it is held back (ONLY_TO)."),
        (OnlyTo(), Address.parse(TESTER), f"All mail is redirected to {TESTER} (REDIRECT_TO)."),
        (OnlyTo(), None, ""),
    ):
        settings.ONLY_TO, settings.REDIRECT_TO = only_to, redirect_to
        page = admin_client.get(path).text
        assert sentence in page
        assert ("ONLY_TO" in page, "REDIRECT_TO" in page) == (bool(only_to), bool(redirect_to))
