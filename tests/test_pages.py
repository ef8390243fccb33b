"""The pages, as a browser without JavaScript and htmx ask for them."""

import json
import re
import shlex
from datetime import timedelta
from email.message import EmailMessage
from html import unescape
from itertools import count
from urllib.parse import urljoin
from uuid import UUID

import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from rq.job import Job

from emails import doorbell, login, sandbox
from emails.models import ApiKey, EmailRequest, Hold, SandboxMessage, Worker
from emails.smtp import Relay
from emails.states import WAITING
from emails.urls import urlpatterns
from tests.environment import wait_until
from tests.test_store import said, settle, transmit

pytestmark = pytest.mark.django_db

SCRIPT = "<script>alert('x')</script>"
LETTER = {"from": "Shop <shop@example.com>", "to": "moss@example.com", "subject": "Hello", "text": "Hello"}
ID = UUID("01900000-0000-7000-8000-000000000000")
PUBLIC = {
    "login", "login_link", "logout", "playground", "playground_live", "playground_direct", "send_email",
    "send_email_form", "live", "ready", "metrics", None,
}  # fmt: skip


@pytest.fixture
def member(client) -> Client:
    """A client that is logged in as the local administrator."""
    client.force_login(login.local_administrator())
    client.defaults["HTTP_ACCEPT"] = "text/html"
    return client


def arrive(raw: bytes, to: str = "moss@example.com") -> SandboxMessage:
    return sandbox.store("shop@example.com", [to], raw)


def subjects(response) -> list[str]:
    return re.findall(r'<span class="what">(.*?)</span>', response.text)


def link(response, words: str) -> str:
    href = unescape(re.search(rf'<a href="([^"]*)"[^>]*>{words}</a>', response.text)[1])
    return urljoin(response.request["PATH_INFO"], href)


# Who may look


def test_pages_need_a_login():
    for pattern in urlpatterns:
        if pattern.name in PUBLIC:
            continue
        url = reverse(pattern.name, kwargs={name: {"id": ID, "index": 0}[name] for name in pattern.pattern.converters})
        response = Client().get(url)
        assert (response.status_code, response["Location"]) == (302, f"/login?next={url}"), pattern


def test_the_health_check_asks_for_nothing(django_assert_num_queries):
    with django_assert_num_queries(0):
        assert Client().get("/health/live").text == "ok\n"


@pytest.mark.parametrize("path", ["/send", "/keys", "/sandbox/delete", "/logout", "/playground/direct", "/relay"])
def test_another_sites_form_is_refused(path, submit):
    client = Client(enforce_csrf_checks=True, headers={"Origin": "https://evil.example", "Accept": "text/html"})
    client.force_login(login.local_administrator())
    arrive(b"Subject: kept\r\n\r\n")
    response = client.post(
        path, {"from": "a@example.com", "to": "b@example.com", "text": "x", "email": "a@example.com"}
    )
    assert response.status_code == 403
    assert "This form was not accepted" in response.text
    assert (EmailRequest.objects.count(), SandboxMessage.objects.count(), ApiKey.objects.count()) == (0, 1, 0)


def test_every_page_says_where_mail_goes(member, settings, relay):
    assert f"Relay 127.0.0.1:{relay.port}" in member.get("/messages").text
    settings.RELAY = Relay("127.0.0.1", 1, "none", is_sandbox=True)
    for path in ("/", "/send", "/sandbox", "/playground", "/admin/", "/nothing"):
        assert "Sandbox: nothing leaves this machine" in member.get(path).text, path


def test_an_unknown_page_is_told_in_our_design(member):
    for path in ("/nothing", f"/messages/{ID}", f"/sandbox/{ID}", f"/sandbox/{ID}/attachments/0"):
        response = member.get(path)
        assert (response.status_code, "There is nothing here" in response.text) == (404, True), path


# Home


def test_home_shows_the_newest_first_with_their_states(member, submit):
    submit(subject="older")
    submit(subject="newer", to=["moss@example.com", "jen@example.com"])
    response = member.get("/messages")
    assert subjects(response) == ["newer", "older"]
    assert "moss@example.com and 1 more" in response.text
    assert response.text.count("Queued") == 2


def test_home_turns_its_pages_both_ways(member, submit):
    for number in range(120):
        submit(subject=str(number))
    first = member.get("/messages")
    second = member.get(link(first, "Older →"))
    third = member.get(link(second, "Older →"))
    everything = subjects(first) + subjects(second) + subjects(third)
    assert everything == [str(number) for number in reversed(range(120))]
    assert "Older →" not in third.text and "← Newer" not in first.text
    assert subjects(member.get(link(third, "← Newer"))) == subjects(second)
    assert subjects(member.get(link(second, "← Newer"))) == subjects(first)


def test_pages_of_home_cost_the_same_number_of_queries(member, submit, django_assert_max_num_queries):
    for number in range(60):
        submit(subject=str(number))
    with django_assert_max_num_queries(5):
        member.get("/messages")


@pytest.mark.parametrize("query", ["after=garbage", f"after={ID}", f"before={ID}", "q=%00", "q=%25"])
def test_home_survives_strange_questions(member, submit, query):
    submit()
    assert member.get(f"/messages?{query}").status_code == 200


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("moss@example.com", ["one"]),
        ("MOSS@", ["one"]),
        ("mos", ["one"]),
        ("@example.org", ["two"]),
        ("example.org", ["two"]),
        ("oss", []),
    ],
)
def test_home_finds_recipients(member, submit, query, found):
    submit(subject="one", to="moss@example.com")
    submit(subject="two", to="jen@example.com", bcc="roy@example.org")
    response = member.get("/messages", {"q": query})
    assert subjects(response) == found
    assert f'value="{query}"' in response.text


@pytest.mark.parametrize("form", ["{0.pk}", "{0.pk.hex}", " {0.pk} ", "{0.message_id}", "{0.pk.hex}@example.com"])
def test_home_finds_a_message_by_its_id_and_its_message_id(member, submit, form):
    email = submit(subject="one")
    submit(subject="two")
    assert subjects(member.get("/messages", {"q": form.format(email)})) == ["one"]


def test_home_finds_a_recipient_whose_name_looks_like_an_id(member, submit):
    submit(subject="one", to=f"{ID.hex}@example.com")
    assert subjects(member.get("/messages", {"q": f"{ID.hex}@example.com"})) == ["one"]
    assert "No mail is found" in member.get("/messages", {"q": ID}).text


def test_the_search_stays_while_turning_pages(member, submit):
    for number in range(60):
        submit(subject=str(number), to="moss+1@example.com")
        submit(subject="other")
    second = member.get(link(member.get("/messages", {"q": "moss+1@"}), "Older →"))
    assert subjects(second) == [str(number) for number in reversed(range(10))]


def test_an_empty_home_says_what_to_do(member):
    response = member.get("/messages")
    assert 'href="/send"' in response.text
    assert 'href="/keys"' in response.text


def test_a_key_is_shown_once_with_a_line_that_works(member):
    assert "Make an API key" in member.get("/keys").text and not ApiKey.objects.exists()
    response = member.post("/keys")
    assert "no-store" in response["Cache-Control"]
    line = unescape(re.search(r'<pre id="curl">(.*?)</pre>', response.text, re.DOTALL)[1])
    words = shlex.split(line.replace("\\\n", ""))
    assert words[:2] == ["curl", "http://testserver/emails"]
    headers = dict(word.split(": ") for word in words if ": " in word and "{" not in word)
    answer = Client().post("/emails", words[-1], content_type=headers.pop("Content-Type"), headers=headers)
    assert EmailRequest.objects.get(pk=answer.json()["id"]).to == ["moss@example.com"]
    token = headers["Authorization"].removeprefix("Bearer ")
    assert token not in member.get("/keys").text + str(ApiKey.objects.values())


def test_the_line_names_the_public_url_to_who_came_by_it(member, settings):
    settings.PUBLIC_URL, settings.ALLOWED_HOSTS = "https://mail.example.com", ["mail.example.com"]
    response = member.post("/keys", headers={"Host": "mail.example.com"})
    assert "curl https://mail.example.com/emails" in response.text


# The form


def test_the_form_sends(member):
    letter = {"to": "moss@example.com\r\n\r\n Jen <jen@example.com>", "cc": "", "bcc": "roy@example.com", "html": ""}
    response = member.post("/send", LETTER | letter)
    email = EmailRequest.objects.get()
    assert response["Location"] == f"/messages/{email.pk}"
    assert email.to == ["moss@example.com", "Jen <jen@example.com>"]
    assert email.content.bcc == ["roy@example.com"]
    assert "web form, admin" in email.events.get().detail


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("from", "", "The from field is missing"),
        ("from", "nobody", "is not a valid email address"),
        ("to", "", "The to field is missing"),
        ("to", "moss@example.com\nmoss@", "is not a valid email address"),
        ("to", "\n".join(f"a{n}@example.com" for n in range(51)), "at most 50"),
        ("cc", "jen", "is not a valid email address"),
        ("bcc", "a@example.com, b@example.com", "seems to hold several addresses"),
        ("subject", "Hello\r\nBcc: evil@example.com", "line break"),
        ("subject", "x" * 999, "at most 998"),
        ("text", "", "no body"),
        ("text", "a\0b", "NUL"),
    ],
)
def test_errors_stand_beside_their_field_and_what_was_typed_is_kept(member, field, value, sentence):
    response = member.post("/send", LETTER | {field: value})
    assert not EmailRequest.objects.exists()
    boxes = dict(re.findall(r'<div class="field (\w+)(?: wrong)?">(.*?)</div>', response.text, re.DOTALL))
    name = "sender" if field == "from" else field
    assert sentence in unescape(boxes[name])
    assert 'aria-invalid="true"' in boxes[name]
    assert not any("aria-invalid" in box for other, box in boxes.items() if other != name)
    for kept, text in (LETTER | {field: value}).items():
        shown = unescape(boxes["sender" if kept == "from" else kept])
        assert text.replace("\r\n", "\n").replace("\0", "") in shown.replace("\r\n", "\n").replace("\0", "")


# A message


def test_a_message_page_shows_all_there_is(member, submit):
    email = submit(
        to=["Moss <moss@example.com>", "jen@example.com"], bcc="roy@example.com", html="<p>Hi</p>", text="Hey"
    )
    page = member.get(f"/messages/{email.pk}").text
    for words in (
        "Moss &lt;moss@example.com&gt;",
        "roy@example.com",
        "No worker has been seen yet",
        "Accepted and queued",
        "Hey",
    ):
        assert words in page
    assert email.message_id.strip("<>") in page
    assert f'<iframe src="/messages/{email.pk}/html"' in page


@pytest.mark.django_db(transaction=True)  # health, which the overview asks, writes beside the test
def test_what_is_code_in_a_sentence_is_shown_as_code_and_nothing_else_is(member, submit):
    email = submit()
    sentence = "start one with <code>manage.py rqworker</code>."
    for path in (email.get_absolute_url(), f"/admin/emails/emailrequest/{email.pk}/change/"):
        assert sentence in member.get(path).text, path
    EmailRequest.objects.cancel("`<b>`")
    assert "by <code>&lt;b&gt;</code> before" in member.get(email.get_absolute_url()).text


def test_a_message_page_works_without_javascript(member, submit):
    email = submit()
    assert '<noscript><meta http-equiv="refresh"' in member.get(f"/messages/{email.pk}").text
    EmailRequest.objects.cancel("a test")
    page = member.get(f"/messages/{email.pk}").text
    assert "refresh" not in page and "hx-trigger" not in page
    assert "by a test before it went out" in page


def test_the_live_part_is_sent_when_it_has_changed_and_polls_no_more_at_the_end(member, submit):
    email = submit()
    url = unescape(re.search(r'hx-get="([^"]*)"', member.get(f"/messages/{email.pk}").text)[1])
    sentence = member.get(url, headers={"HX-Request": "true"})
    assert sentence["HX-Reswap"] == "none"
    assert sentence.text.startswith('<p id="why" hx-swap-oob="true">No worker has been seen yet')
    EmailRequest.objects.cancel("a test")
    fragment = member.get(url, headers={"HX-Request": "true"}).text
    assert "Canceled" in fragment and "hx-get" not in fragment and "<html" not in fragment
    assert '<p id="state" hx-swap-oob="innerHTML">' in fragment


def test_a_message_page_says_why_nothing_goes_out(member, submit):
    email = submit(priority=2)
    Hold.objects.create(target="low", reason="a party")
    page = member.get(f"/messages/{email.pk}").text
    assert page.count("The queue low was paused at") == page.count("a party") == 1
    Hold.objects.all().delete()
    Hold.note_trouble("Connection refused (connecting)")
    assert member.get(f"/messages/{email.pk}").text.count("has refused connections since") == 1


def test_every_page_says_what_is_paused_and_no_more_than_that(member):
    assert "paused" not in member.get("/messages").text
    Hold.objects.create(target="low", reason="a party", by="jen")
    page = unescape(member.get("/messages").text)
    assert re.search(
        r"The queue low was paused by jen at [^:]+:\d\d UTC: a party; mail waits until it is resumed\.", page
    )
    Hold.note_trouble("Connection refused (connecting)")
    page = member.get("/messages").text
    assert "The sandbox has refused connections since" in page and "0 messages wait behind it" in page
    Hold.try_again()
    assert "refused connections" not in member.get("/messages").text  # it flows again, on trial


def test_a_look_at_a_message_reads_its_row_once(member, submit):
    email = submit()
    for path in ("/messages/{}", "/messages/{}/status"):
        with CaptureQueriesContext(connection) as queries:
            member.get(path.format(email.pk))
        rows = [
            query["sql"]
            for query in queries
            if re.search(r'FROM "emails_emailrequest".* WHERE "emails_emailrequest"."id" =', query["sql"])
        ]
        assert len(rows) == 1, rows


ANY = ["Send now", "Give up", "Cancel"]


def levers(response) -> dict[str, str]:
    """The buttons under the sentence that says why, and the actions they stand for."""
    found = re.search(r'<div id="levers".*?</div>', response.text, re.DOTALL)[0]
    return {title: action for action, title in re.findall(r'name="action" value="(\w+)">(.*?)<', found)}


@pytest.mark.parametrize(
    ("state", "titles"),
    [
        ("queued", ANY), ("deferred", ANY), ("unknown", [*ANY, "Note that it arrived"]), ("claimed", []),
        ("sent", ["Send again as new"]), ("bounced", ["Send again as new"]), ("suppressed", ["Send again as new"]),
    ],
)  # fmt: skip
def test_under_the_sentence_stand_the_decisions_that_the_state_allows(member, submit, state, titles):
    email, worker = submit(), Worker.objects.create(name="moss", host="here", pid=1)
    due_at = timezone.now() if state in WAITING else None
    EmailRequest.objects.update(state=state, due_at=due_at, worker=worker if state == "claimed" else None)
    page = member.get(f"/messages/{email.pk}")
    assert list(levers(page)) == titles
    assert page.text.index('id="why"') < page.text.index('id="levers"') < page.text.index("Timeline")
    assert list(levers(member.get(f"/messages/{email.pk}/status", headers={"HX-Request": "true"}))) == titles


def test_a_decision_on_a_messages_page_asks_first_and_leads_back_to_it(member, submit):
    email = submit()
    action = levers(member.get(f"/messages/{email.pk}"))["Cancel"]
    asked = {"action": action, "_selected_action": email.pk, "page_of": email.pk}
    question = member.post("/admin/emails/emailrequest/", asked).text
    assert "Cancel: 1 email." in question
    assert f'href="/messages/{email.pk}">Back, and change nothing' in question
    sure = dict(re.findall(r'name="(\w+)" value="([^"]*)"', question.partition('<form method="post">')[2]))
    response = member.post("/admin/emails/emailrequest/", sure, follow=True)
    assert response.request["PATH_INFO"] == f"/messages/{email.pk}"
    assert "Canceled: 1 email." in response.text and "Taken back at" in response.text


@pytest.mark.parametrize("fields", [{}, {"is_staff": True}])
def test_who_may_not_decide_sees_no_decisions(client, submit, fields):
    client.force_login(get_user_model().objects.create_user("jen", **fields))
    assert not levers(client.get(f"/messages/{submit().pk}"))


def test_the_mail_as_rendered_can_do_nothing(member, submit):
    email = submit(html=f"<p>Hi</p>{SCRIPT}")
    response = member.get(f"/messages/{email.pk}/html")
    assert response["Content-Security-Policy"] == (
        "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    )
    assert response["X-Frame-Options"] == "SAMEORIGIN"
    assert response["Content-Type"] == "text/html; charset=utf-8"


def test_the_one_line_that_is_still_to_come_is_named(member, submit):
    email = submit()
    assert "The Date line is still to come" in member.get(f"/messages/{email.pk}").text
    EmailRequest.objects.update(date=timezone.now())
    page = member.get(f"/messages/{email.pk}").text
    assert "still to come" not in page and "Date:" in page


def test_the_raw_mail_is_plain_text(member, submit):
    email = submit(subject=SCRIPT)
    response = member.get(f"/messages/{email.pk}/raw")
    assert response["Content-Type"] == "text/plain; charset=utf-8"
    assert response["X-Content-Type-Options"] == "nosniff"
    assert f"Message-ID: {email.message_id}" in response.text


def test_a_message_that_cannot_be_built_still_has_its_page(member, submit):
    email = submit()
    EmailRequest.objects.update(sender="not\nan address")
    assert member.get(f"/messages/{email.pk}").status_code == 200
    assert "can't be built" in member.get(f"/messages/{email.pk}/raw").text


@pytest.mark.parametrize("moment", range(9))
def test_a_page_that_is_final_lacks_nothing_whenever_the_mail_was_sent(moment, member, submit):
    worker = Worker.objects.create(name="moss", host="here", pid=1)
    [email] = transmit([submit().pk], worker)
    asked = count()

    def sent_at_that_moment(execute, *arguments):
        if next(asked) == moment:
            settle(email, said(email, 250, "queued as moss"), worker)
        return execute(*arguments)

    with connection.execute_wrapper(sent_at_that_moment):
        page = member.get(f"/messages/{email.pk}").text
    timeline = page.partition("Timeline")[2].partition("Recipients")[0]
    assert "hx-get=" in page or "queued as moss" in timeline
    assert next(asked) > 9


@pytest.mark.django_db(transaction=True)
def test_the_job_is_linked_while_redis_keeps_it(member, submit):
    email = submit(priority=2)
    page = member.get(f"/messages/{email.pk}").text
    assert f'/admin/django_rq/dashboard/queues/2/{email.pk}/"' in page
    doorbell.queue("low").connection.flushall()
    assert "Its RQ job has expired" in member.get(f"/messages/{email.pk}").text


def test_the_job_is_not_linked_for_who_may_not_see_it(client, submit):
    client.force_login(get_user_model().objects.create_user("jen", is_staff=True))
    email = submit()
    assert "/admin/django_rq/" not in client.get(f"/messages/{email.pk}").text


@pytest.mark.django_db(transaction=True)
def test_pages_do_without_redis(member, no_redis, submit):
    email = submit()
    assert "Redis can't be reached" in unescape(member.get(f"/messages/{email.pk}").text)
    assert "Redis can't be reached" in unescape(member.get("/playground").text)
    assert member.get("/messages").status_code == 200


@pytest.mark.django_db(transaction=True)
def test_what_the_relay_said_is_shown_with_code_and_text(member, worker, relay, submit):
    relay.always["dot"] = f"550 5.7.1 no {SCRIPT}"
    email = submit()
    wait_until(lambda: EmailRequest.objects.get().is_finished, "the mail was not settled")
    page = member.get(f"/messages/{email.pk}").text
    assert page.count("550 5.7.1 no &lt;script&gt;") == 3  # in the sentence, the timeline and beside the recipient
    assert "refused the message (550 5.7.1 no &lt;script&gt;" in page
    assert SCRIPT not in page


# Script in every field that is shown


def test_script_is_text_on_every_page(member, submit):
    address = f'"{SCRIPT}" <moss@example.com>'
    addresses = dict.fromkeys(("from", "to", "cc", "bcc", "reply_to"), address)
    email = submit(**addresses, subject=SCRIPT, html=SCRIPT, text=SCRIPT)
    EmailRequest.objects.cancel(SCRIPT)
    mail = EmailMessage()
    for header in ("Subject", "X-Evil"):
        mail[header] = SCRIPT
    mail["From"] = address
    mail.set_content(SCRIPT)
    mail.add_alternative(SCRIPT, subtype="html")
    mail.add_attachment(b"", maintype="text", subtype="plain", filename=f"{SCRIPT}.txt")
    kept = arrive(mail.as_bytes(), to=f"{SCRIPT}@example.com")
    pages = [
        "/", "/messages", f"/messages?q={SCRIPT}", f"/messages/{email.pk}", f"/messages/{email.pk}/status", "/sandbox",
        f"/sandbox?q={SCRIPT}", f"/sandbox/{kept.pk}", "/playground", f"/login/{SCRIPT}", "/admin/emails/emailrequest/",
        f"/admin/emails/emailrequest/{email.pk}/change/", "/admin/emails/sandboxmessage/",
        f"/admin/emails/sandboxmessage/{kept.pk}/change/", f"/admin/django_rq/dashboard/queues/0/{email.pk}/",
        f"/{SCRIPT}",
    ]  # fmt: skip
    for path in pages:
        page = member.get(path).text
        assert page and SCRIPT not in page, path
    page = member.post("/send", dict.fromkeys(LETTER, SCRIPT)).text
    assert SCRIPT not in page and page.count("&lt;script&gt;") >= 4


# The sandbox's viewer


def mail_with_everything() -> bytes:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "Söhne <shop@example.com>", "moss@example.com", "Größe"
    mail.set_content("plain words")
    mail.add_alternative('<img src="cid:logo"><img src="https://example.com/t.png"><img src=cid:gone>', subtype="html")
    mail.get_payload()[1].add_related(b"\x89PNG", "image", "png", cid="<logo>")
    mail.add_attachment(b"%PDF", maintype="application", subtype="pdf", filename="../Rechnung Größe.pdf")
    return mail.as_bytes()


def test_the_sandbox_shows_a_mail_as_its_reader_sees_it(member):
    mail = arrive(mail_with_everything())
    page = member.get(f"/sandbox/{mail.pk}").text
    for words in ("Größe", "Söhne &lt;shop@example.com&gt;", "plain words", "Rechnung Größe.pdf", "moss@example.com"):
        assert words in page, words
    assert f'<iframe src="/sandbox/{mail.pk}/html"' in page
    html = member.get(f"/sandbox/{mail.pk}/html")
    assert '<img src="data:image/png;base64,iVBORw==">' in html.text
    assert "cid:gone" in html.text
    assert html["Content-Security-Policy"].startswith("sandbox; default-src 'none';")
    source = member.get(f"/sandbox/{mail.pk}/source")
    assert (source.content, source["Content-Type"]) == (mail.raw, "text/plain; charset=utf-8")


def test_attachments_are_downloads_and_nothing_else(member):
    mail = arrive(mail_with_everything())
    response = member.get(f"/sandbox/{mail.pk}/attachments/1")
    assert response.content == b"%PDF"
    assert response["Content-Disposition"] == "attachment; filename*=utf-8''Rechnung%20Gr%C3%B6%C3%9Fe.pdf"
    assert response["Content-Type"] == "application/octet-stream"
    assert response["X-Content-Type-Options"] == "nosniff"
    assert response["Content-Security-Policy"].startswith("sandbox;")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff\xfe\x00 no mail at all",
        b"Subject: =?nope?q?=ff?=\r\nFrom: <<>,\r\nDate: never\r\n\r\nbody",
        b"Content-Type: multipart/mixed\r\n\r\nwithout a boundary",
        b"Content-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\nContent-Type: text/plain; charset=nope\r\n\r\n\xff",
        b"Content-Type: text/html; charset=unicode_escape\r\n\r\n\\ud800",
        b"Content-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\nContent-Type: application/pdf\r\n"
        b"Content-Disposition: attachment; filename*=utf-8''%ff%0d%0aSet-Cookie: a\r\n"
        b"Content-Transfer-Encoding: base64\r\n\r\n@@@\r\n--a--",
        b"Content-Type: message/rfc822\r\n\r\n" * 2000,
        b"".join(b"Content-Type: multipart/mixed; boundary=%d\r\n\r\n--%d\r\n" % (n, n) for n in range(2000)),
    ],
    ids=["empty", "bytes", "headers", "no boundary", "charset", "surrogate", "file name", "mail in mail", "deep"],
)
def test_a_broken_mail_breaks_no_page(member, raw):
    mail = arrive(raw)
    for path in ("", "/html", "/source"):
        assert member.get(f"/sandbox/{mail.pk}{path}").status_code == 200
    assert member.get(f"/sandbox/{mail.pk}/attachments/0").status_code in (200, 404)
    assert member.get("/sandbox").status_code == 200


def test_the_sandbox_turns_its_pages_and_finds_recipients(member):
    for number in range(60):
        arrive(f"Subject: {number}\r\n\r\n".encode(), to=f"Moss+{number}@example.com")
    first = member.get("/sandbox")
    second = member.get(link(first, "Older →"))
    assert subjects(first) + subjects(second) == [str(number) for number in reversed(range(60))]
    assert subjects(member.get("/sandbox", {"q": "moss+7@"})) == ["7"]
    assert subjects(member.get("/sandbox", {"q": "MOSS+5"})) == [str(n) for n in (*range(59, 49, -1), 5)]


def test_deleting_all_asks_first(member):
    arrive(b"Subject: one\r\n\r\n")
    arrive(b"Subject: two\r\n\r\n")
    assert "/sandbox/delete" in member.get("/sandbox").text
    assert "Delete everything" in member.get("/sandbox/delete").text
    assert SandboxMessage.objects.count() == 2
    page = member.post("/sandbox/delete", follow=True).text
    assert "2 mails deleted" in page and "Nothing has arrived" in page


# The playground


@pytest.fixture
def playground(settings):
    settings.PLAYGROUND, settings.PLAYGROUND_DELAY = True, 0.2


@pytest.mark.parametrize("path", ["/playground", "/playground/live", "/send-email/moss@example.com", "/send-email"])
def test_without_the_playground_its_pages_do_not_exist(settings, path):
    settings.PLAYGROUND = False
    assert Client().get(path).status_code == 404
    assert Client().post("/playground/direct").status_code == 404


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "path", ["/send-email/moss@example.com", "/send-email/moss%40example.com", "/send-email?email=moss@example.com"]
)
def test_the_slow_email_is_answered_at_once(playground, path):
    response = Client().get(path)
    email = EmailRequest.objects.get()
    assert response.json() == {"message": "Email sending task has been queued.", "job_id": str(email.pk)}
    assert (email.to, email.delay, email.queue) == (["moss@example.com"], 0.2, "default")
    assert Job.fetch(str(email.pk), connection=doorbell.queue("default").connection).origin == "default"


@pytest.mark.parametrize("address", ["moss", "moss@", "a/b", "moss@example.com%0d%0aBcc:x@example.com", "%00", "%ff"])
def test_a_bad_address_is_refused_in_the_apis_words(playground, address):
    response = Client().get(f"/send-email/{address}")
    error = response.json()
    assert response.status_code == error["statusCode"] == 422
    assert error["name"] == "validation_error" and error["message"]
    assert not EmailRequest.objects.exists()


def test_asking_for_the_head_sends_nothing(playground):
    assert Client().head("/send-email/moss@example.com").status_code == 405
    assert not EmailRequest.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_the_playground_needs_no_login_and_shows_its_mails_only(playground, submit):
    submit(subject="secret", to="secret@example.com")
    Client().get("/send-email/moss@example.com")
    for path in ("/playground", "/playground/live"):
        page = Client().get(path).text
        assert "moss@example.com" in page and "secret" not in page
        assert '<span class="count">2</span>' in page
        assert "None is running" in page


@pytest.mark.parametrize("headers", [{}, {"HX-Request": "true"}])
def test_the_same_work_inside_the_request_takes_its_time(playground, relay, headers):
    started = timezone.now()
    page = Client().post("/playground/direct", {"email": "moss@example.com"}, headers=headers).text
    assert timezone.now() - started >= timedelta(seconds=0.2)
    assert re.search(r"Answered in 0\.\d s", page)
    assert relay.received[0].recipients == ["moss@example.com"]
    assert not EmailRequest.objects.exists()


def test_a_bad_address_inside_the_request_is_told(playground, relay):
    page = Client().post("/playground/direct", {"email": "moss"}).text
    assert "Not sent." in page and "is not a valid email address" in page
    assert not relay.received


def test_a_relay_that_is_away_is_told_inside_the_request(playground, settings):
    settings.RELAY = Relay("127.0.0.1", 1, "none", is_sandbox=True)
    assert "Connection refused" in Client().post("/playground/direct", {"email": "moss@example.com"}).text


def test_the_answer_of_the_playground_is_json_for_browsers_too(playground):
    response = Client().get("/send-email/moss@example.com", headers={"Accept": "text/html"})
    assert json.loads(response.text)["job_id"]


def test_the_timeline_says_how_long_after_the_line_before_each_stands(member, submit):
    email = submit()
    first = email.events.get()
    for minutes in (5, 65):
        email.events.create(kind="deferred", at=first.at + timedelta(minutes=minutes))
    page = member.get(email.get_absolute_url()).text.replace("\N{NO-BREAK SPACE}", " ")
    assert "5 minutes later" in page and "1 hour later" in page
