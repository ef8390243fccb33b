"""The operator's desk: what it shows, and whom it lets do what."""

import csv
import re
from datetime import UTC, datetime
from uuid import UUID

import pytest
from django.contrib.admin.models import ADDITION, DELETION, LogEntry
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.db import IntegrityError, connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from uuid_utils.compat import uuid7

from emails import doorbell, login
from emails.addresses import Address
from emails.admin import CappedPaginator, EmailRequestAdmin
from emails.models import ApiKey, Blob, EmailRequest, Hold, SandboxMessage, Suppression, Worker
from emails.sandbox import store

pytestmark = pytest.mark.django_db

DASHBOARD = "/admin/django_rq/dashboard/"
ID = UUID("01900000-0000-7000-8000-000000000000")


@pytest.fixture
def desk(client) -> Client:
    client.force_login(login.local_administrator())
    return client


def staff(*permissions: str) -> Client:
    user = get_user_model().objects.create_user("jen", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client(headers={"Accept": "text/html"})
    client.force_login(user)
    return client


# The queue's dashboard


@pytest.mark.parametrize("path", [DASHBOARD, f"{DASHBOARD}queues/0/", f"{DASHBOARD}stats.json/", "/admin/django_rq/"])
def test_the_dashboard_needs_its_permission(path):
    response = staff().get(path)
    assert response.status_code == 403
    assert "This is not for your account" in response.text


def test_staff_without_the_permission_can_not_empty_a_queue(submit):
    assert staff().post(f"{DASHBOARD}queues/0/empty/", {"_empty": "1"}).status_code == 403


def test_staff_with_the_permission_see_the_dashboard():
    assert staff("admin").get(DASHBOARD).status_code == 200


def test_others_are_asked_to_log_in(client):
    assert client.get(DASHBOARD)["Location"] == f"/admin/login/?next={DASHBOARD}"
    client.force_login(get_user_model().objects.create_user("roy"))
    assert client.get(DASHBOARD).status_code == 302


def test_the_admins_login_names_the_command_too(client):
    assert "make login" in client.get("/admin/login/?next=/admin/").text
    client.force_login(get_user_model().objects.create_user("roy"))
    assert "may not open that page" in client.get("/admin/login/?next=/admin/").text


def test_inline_scripts_may_run_on_the_dashboard_only(desk):
    assert "script-src 'self' 'unsafe-inline'" in desk.get(DASHBOARD)["Content-Security-Policy"]
    for path in ("/", "/send", "/admin/", "/admin/emails/emailrequest/"):
        assert "unsafe-inline" not in desk.get(path)["Content-Security-Policy"], path


def test_the_dashboard_says_that_redis_is_away(desk, settings):
    settings.RQ_QUEUES = {name: {"URL": "unix:///nowhere/valkey.sock"} for name in doorbell.QUEUES}
    for path in (DASHBOARD, f"{DASHBOARD}queues/0/{ID}/"):
        response = desk.get(path)
        assert response.status_code == 503
        assert "The queue can&#x27;t be seen" in response.text or "The queue can't be seen" in response.text


@pytest.mark.django_db(transaction=True)
def test_a_job_and_its_message_lead_to_each_other(desk, submit):
    email = submit(subject="Hello <b>")
    job_page = re.search(rf'"({DASHBOARD}queues/[^"]*)"', desk.get(f"/messages/{email.pk}").text)[1]
    page = desk.get(job_page).text
    assert f'<a href="/messages/{email.pk}">' in page
    assert "Email to moss@example.com: Hello &lt;b&gt;" in page
    assert "doesn't stop the mail" in page


def test_an_expired_job_is_said_to_be_one(desk, submit):
    email = submit()
    response = desk.get(f"{DASHBOARD}queues/0/{email.pk}/")
    assert response.status_code == 200
    assert "This job has expired" in response.text
    assert f'<a href="/messages/{email.pk}">' in response.text


@pytest.mark.parametrize("id", [ID, "garbage"])
def test_a_job_that_never_was_is_not_found(desk, id):
    response = desk.get(f"{DASHBOARD}queues/0/{id}/")
    assert response.status_code == 404
    assert "There is no message of that id either" in response.text


def test_the_admin_is_reached_without_its_slash(desk):
    assert desk.get("/admin")["Location"] == "/admin/"


# Emails


def test_emails_are_listed_and_shown(desk, submit):
    email = submit(to=["moss@example.com", "jen@example.com"], subject="Hello <b>")
    page = desk.get("/admin/emails/emailrequest/").text
    assert "moss@example.com and 1 more" in page and "Hello &lt;b&gt;" in page and "Queued" in page
    page = desk.get(f"/admin/emails/emailrequest/{email.pk}/change/").text
    for words in (f'href="/messages/{email.pk}"', "a test; queue default", "jen@example.com", email.message_id[1:30]):
        assert words in page, words


def test_history_is_not_changed_by_hand(desk, submit):
    email, mail = submit(), store("a@example.com", ["moss@example.com"], b"")
    worker = Worker.objects.create(name="w", host="h", pid=1)
    for model, row in (("emailrequest", email), ("sandboxmessage", mail), ("worker", worker)):
        assert desk.get(f"/admin/emails/{model}/add/").status_code == 403
        assert desk.post(f"/admin/emails/{model}/{row.pk}/change/", {"state": "sent"}).status_code == 403
        assert desk.post(f"/admin/emails/{model}/{row.pk}/delete/", {"post": "yes"}).status_code == 403
        data = {"action": "delete_selected", "_selected_action": [str(row.pk)], "post": "yes"}
        desk.post(f"/admin/emails/{model}/", data)
    assert EmailRequest.objects.get().state == "queued"
    assert (SandboxMessage.objects.count(), Worker.objects.count()) == (1, 1)


@pytest.mark.parametrize("query", ["moss@example.com", "@example.com", "mos", "{0.pk}", "{0.pk.hex}", "{0.message_id}"])
def test_emails_are_found_by_recipient_and_id(desk, submit, query):
    email = submit()
    submit(to="jen@example.org")
    page = desk.get("/admin/emails/emailrequest/", {"q": query.format(email)}).text
    assert "1 email\n" in page and "jen@example.org" not in page


def test_the_list_holds_whole_ids_and_leads_to_the_messages_pages(desk, submit):
    email = submit()
    cell = f'<a href="/messages/{email.pk}" title="{email.pk}"><bdi>{email.pk}</bdi></a>'
    assert cell in desk.get("/admin/emails/emailrequest/").text


def test_the_admin_is_framed_as_all_pages_are(desk, submit, settings):
    settings.REDIRECT_TO = Address.parse("tester@example.org")
    submit()
    for path in ("/admin/", "/admin/emails/emailrequest/", DASHBOARD):
        page = desk.get(path).text
        assert '<a href="/messages" >Mail</a>' in page and 'id="keys"' in page, path
        assert "tester@example.org" in page, path
    assert '<span class="state queued">Queued</span>' in desk.get("/admin/emails/emailrequest/").text


def test_emails_are_filtered_by_state_and_priority(desk, submit):
    submit(subject="bulk", priority=2)
    submit(subject="urgent", priority=0)
    assert "urgent" not in desk.get("/admin/emails/emailrequest/?queue=low").text
    assert "bulk" not in desk.get("/admin/emails/emailrequest/?state=sent").text


def test_a_list_costs_the_same_number_of_queries_however_long(desk, submit, django_assert_max_num_queries):
    for _ in range(30):
        submit()
    with django_assert_max_num_queries(6):
        desk.get("/admin/emails/emailrequest/")


def test_counting_ends_where_nobody_pages(submit, monkeypatch):
    monkeypatch.setattr(CappedPaginator, "LIMIT", 3)
    for _ in range(5):
        submit()
    assert CappedPaginator(EmailRequest.objects.order_by("-pk"), 2).count == 3


# API keys


def test_a_new_key_is_shown_once(desk):
    page = desk.post("/admin/emails/apikey/add/", KEY, follow=True).text
    token = re.search(r"shown this once: (ms_[\w-]+)", page)[1]
    assert ApiKey.find(token).name == "shop"
    assert token not in desk.get("/admin/emails/apikey/").text


def test_keys_are_revoked_by_an_action(desk):
    key, token = ApiKey.create("shop")
    data = {"action": "revoke", "_selected_action": [str(key.pk)]}
    page = desk.post("/admin/emails/apikey/", data, follow=True).text
    assert "Revoked: shop" in page
    assert ApiKey.find(token) is None
    assert "Revoked." in desk.get(f"/admin/emails/apikey/{key.pk}/history/").text
    assert desk.post(f"/admin/emails/apikey/{key.pk}/delete/", {"post": "yes"}).status_code == 403


KEY = {
    "name": "shop", "permission": "sending_access", "domains": "example.com\nEXAMPLE.org ", "priority": "2",
    "time_zone": "Europe/Berlin", "rate_limit": "5", "daily_quota": "100", "expires_at_0": "2099-01-01",
    "expires_at_1": "12:00",
}  # fmt: skip


def test_a_new_key_has_the_limits_that_were_asked_for(desk):
    desk.post("/admin/emails/apikey/add/", KEY)
    key = ApiKey.objects.get()
    assert (key.name, key.permission, key.domains) == ("shop", "sending_access", ["example.com", "example.org"])
    assert (key.priority, key.time_zone, key.rate_limit, key.daily_quota) == (2, "Europe/Berlin", 5, 100)
    assert key.expires_at == datetime(2099, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"name": " "}, "This field is required"),
        ({"permission": "everything"}, "not one of the available choices"),
        ({"domains": "not a domain"}, "list of names"),
        ({"time_zone": "Middle/Earth"}, "no time zone"),
        ({"rate_limit": "0"}, "at least 1"),
        ({"daily_quota": "-1"}, "greater than or equal to 0"),
        ({"expires_at_0": "2020-01-01"}, "past"),
    ],
)
def test_a_key_that_can_not_be_is_not_made(desk, fields, sentence):
    response = desk.post("/admin/emails/apikey/add/", KEY | fields)
    assert (response.status_code, ApiKey.objects.count()) == (200, 0)
    assert sentence in response.text


def test_a_keys_limits_are_changed_and_nothing_else(desk):
    key, token = ApiKey.create("shop", rate_limit=1)
    change = KEY | {"name": "bakery", "rate_limit": "", "revoked_at": "2020-01-01", "digest": "x", "start": "x"}
    desk.post(f"/admin/emails/apikey/{key.pk}/change/", change)
    changed = ApiKey.find(token)
    assert (changed.name, changed.rate_limit, changed.daily_quota, changed.start) == ("bakery", None, 100, key.start)
    page = desk.get(f"/admin/emails/apikey/{key.pk}/change/").text
    assert "example.com\nexample.org</textarea>" in page and "Last used at" in page
    page = desk.get("/admin/emails/apikey/").text
    for words in ("bakery", "Sending only", "example.com, example.org", "100"):
        assert words in page, words


# Suppressions


def test_an_address_is_suppressed_and_released(desk):
    desk.post("/admin/emails/suppression/add/", {"mailbox": " Moss@Example.COM "})
    row = Suppression.objects.get()
    assert (row.mailbox, row.origin) == ("moss@example.com", "manual")
    assert "already exists" in desk.post("/admin/emails/suppression/add/", {"mailbox": "MOSS@example.com"}).text
    assert "is not a valid email address" in desk.post("/admin/emails/suppression/add/", {"mailbox": "moss"}).text
    assert desk.post(f"/admin/emails/suppression/{row.pk}/change/", {"mailbox": "x@example.com"}).status_code == 403
    desk.post(f"/admin/emails/suppression/{row.pk}/delete/", {"post": "yes"})
    assert not Suppression.objects.exists()


@pytest.mark.parametrize(("query", "count"), [("moss@example.com", 1), ("MOSS", 2), ("oss", 0), ("m%", 0), ("m_", 0)])
def test_suppressions_are_found_by_their_beginning(desk, query, count):
    for mailbox in ("moss@example.com", "moss@example.org", "jen@example.com"):
        Suppression.objects.create(mailbox=mailbox)
    page = desk.get("/admin/emails/suppression/", {"q": query}).text
    assert f"{count} suppression{'' if count == 1 else 's'}\n" in page


def test_staff_who_may_only_look_suppress_nobody():
    client = staff("view_suppression")
    assert client.post("/admin/emails/suppression/add/", {"mailbox": "moss@example.com"}).status_code == 403
    assert client.get("/admin/emails/suppression/").status_code == 200


# Attachments


def test_attachments_are_listed_without_their_bytes(desk, submit):
    files = [{"filename": f"{n}.pdf", "content": [n] * 2048, "content_id": f"c{n}"} for n in range(9)]
    email = submit(attachments=files)
    with CaptureQueriesContext(connection) as queries:
        page = desk.get(f"/admin/emails/emailrequest/{email.pk}/change/").text
    assert f'<a href="/messages/{email.pk}/attachments/8" download>8.pdf</a>' in page
    assert page.count("2.0\xa0KB") == 9 and "c8" in page
    assert not [query for query in queries if "emails_blob" in query["sql"]]
    assert len(queries) < 20


# The sandbox


def test_the_sandboxs_mail_is_listed_without_its_bytes(desk, django_assert_max_num_queries):
    mail = store("shop@example.com", ["moss@example.com"], b"Subject: Hello\r\n\r\nbody")
    assert "Hello" in desk.get("/admin/emails/sandboxmessage/").text
    page = desk.get(f"/admin/emails/sandboxmessage/{mail.pk}/change/").text
    assert f'href="/sandbox/{mail.pk}"' in page and "body" not in re.sub("<[^>]*>", "", page)


# Decisions


def act(desk: Client, action: str, *emails: EmailRequest, **confirmed) -> str:
    data = {"action": action, "_selected_action": [email.pk for email in emails], **confirmed}
    return desk.post("/admin/emails/emailrequest/", data, follow=True).text


def decide(desk: Client, action: str, *emails: EmailRequest) -> str:
    return act(desk, action, *emails, confirmed=question(act(desk, action, *emails)))


def question(page: str) -> str:
    """By what the page that asks names its question."""
    return re.search(r'name="confirmed" value="([^"]+)"', page)[1]


def act_on_all(desk: Client, action: str, query: str, **confirmed):
    data = {"action": action, "select_across": "1", "_selected_action": "any", **confirmed}
    return desk.post(f"/admin/emails/emailrequest/?{query}", data, follow=True)


def decide_on_all(desk: Client, action: str, query: str) -> str:
    return act_on_all(desk, action, query, confirmed=question(act_on_all(desk, action, query).text)).text


@pytest.mark.parametrize(
    "action, state, said",
    [
        ("send_now", "queued", "Due at once: 1 email."),
        ("give_up", "failed", "Given up: 1 email."),
        ("cancel", "canceled", "Canceled: 1 email."),
    ],
)
def test_an_operator_decides_about_waiting_mail_and_the_timeline_says_who(desk, submit, action, state, said):
    email = submit(scheduled_at="in 1 hour")
    assert "1 email" in act(desk, action, email) and email.events.count() == 1  # it asks first
    assert said in decide(desk, action, email)
    assert EmailRequest.objects.get(pk=email.pk).state == state
    assert "admin" in email.events.last().detail


def test_what_is_finished_stays_as_it_is(desk, submit):
    email = submit()
    decide(desk, "cancel", email)
    assert "None of those that you chose is in a state that allows it" in act(desk, "send_now", email)
    assert "Due at once: 0 emails." in decide(desk, "send_now", email)
    other = submit()
    page = act(desk, "cancel", email, other)
    assert "Cancel: 1 email." in page and "1 more is selected, but in a state that does not allow it" in page


def test_staff_who_may_only_look_decide_nothing(submit):
    email = submit()
    act(staff("view_emailrequest"), "cancel", email, confirmed=str(uuid7()))
    assert EmailRequest.objects.get(pk=email.pk).state == "queued"


def test_a_decision_about_all_that_match_is_made_in_batches(desk, submit, monkeypatch):
    monkeypatch.setattr(EmailRequestAdmin, "BATCH", 2)
    for number in range(5):
        submit(to=f"u{number}@example.com", scheduled_at="in 1 hour" if number % 2 else None)
    other, done = submit(to="moss@example.org"), submit(to="done@example.com")
    decide(desk, "cancel", done)
    page = act_on_all(desk, "give_up", "domain=example.com").text
    assert "Give up: 5 emails." in page and "u4@example.com" in page and "moss@" not in page and "done@" not in page
    assert "Given up: 5 emails." in decide_on_all(desk, "give_up", "domain=example.com")
    assert EmailRequest.objects.filter(state="failed").count() == 5
    assert EmailRequest.objects.get(pk=other.pk).state == "queued"


def test_what_comes_after_the_question_is_not_meant(desk, submit):
    submit(), submit(), submit()
    page = act_on_all(desk, "cancel", "").text
    assert "Cancel: 3 emails" in page
    later = submit()
    assert "Canceled: 3 emails." in act_on_all(desk, "cancel", "", confirmed=question(page)).text
    assert EmailRequest.objects.get(pk=later.pk).state == "queued"


def test_a_confirmation_of_no_question_is_asked_first(desk, submit):
    submit()
    assert "Cancel: 1 email" in act_on_all(desk, "cancel", "", confirmed="yes").text
    assert EmailRequest.objects.get().state == "queued"


def test_one_request_decides_about_so_many_and_says_so(desk, submit, monkeypatch):
    monkeypatch.setattr(EmailRequestAdmin, "BATCH", 2)
    monkeypatch.setattr(EmailRequestAdmin, "AT_ONCE", 4)
    for _ in range(5):
        submit()
    assert "Cancel: 4 emails, the most for one time." in act_on_all(desk, "cancel", "").text
    assert "Canceled: 4 emails." in decide_on_all(desk, "cancel", "")
    assert "Canceled: 1 email." in decide_on_all(desk, "cancel", "")


def test_what_is_made_due_is_counted_once(desk, submit):
    for _ in range(3):
        submit(scheduled_at="in 1 hour")
    submit()
    assert "Due at once: 4 emails." in decide_on_all(desk, "send_now", "")


def test_uncertain_mail_is_decided_about(desk, submit):
    uncertain, queued = submit(), submit()
    EmailRequest.objects.filter(pk=uncertain.pk).update(state="unknown", due_at=None)
    assert "Noted as sent: 1 email." in decide(desk, "confirm", uncertain, queued)
    assert EmailRequest.objects.get(pk=uncertain.pk).state == "sent"
    assert "admin found that it arrived" in uncertain.events.last().detail


def test_canceling_uncertain_mail_says_that_it_may_have_arrived(desk, submit):
    email = submit()
    EmailRequest.objects.filter(pk=email.pk).update(state="unknown", due_at=None)
    assert "is not sent again, but may have arrived" in act(desk, "cancel", email)


def test_mail_is_sent_again_as_new_with_all_that_it_carries(desk, submit):
    file = {"filename": "bill.pdf", "content": [1, 2]}
    old = submit(
        to=["moss@example.com", "jen@example.com"], bcc="roy@example.com", attachments=[file], text="Once more",
        tags=[{"name": "kind", "value": "bill"}], headers={"X-Shop": "7"},
    )  # fmt: skip
    assert "Sent again as new: 0 emails." in decide(desk, "send_again", old)  # it waits
    decide(desk, "cancel", old)
    assert "who has the old one gets another" in act(desk, "send_again", old)
    assert "Sent again as new: 1 email." in decide(desk, "send_again", old)
    new = EmailRequest.objects.exclude(pk=old.pk).get()
    assert (new.state, new.to, new.subject, new.queue) == ("queued", old.to, old.subject, old.queue)
    assert new.message_id == f"<{new.pk.hex}@example.com>"
    assert sorted(new.recipients.values_list("address", "state")) == [
        (f"{name}@example.com", "waiting") for name in ("jen", "moss", "roy")
    ]
    assert b"X-Shop: 7" in new.raw() and b"bill.pdf" in new.raw() and b"Once more" in new.raw()
    assert Blob.objects.count() == 1 and new.tag_set.get().value == "bill"
    assert f"sent again from {old.pk} by admin; queue default" in new.events.get().detail
    assert old.events.last().detail == f"as {new.pk} by admin" and old.events.last().kind == "again"


def test_a_selection_is_exported_and_no_cell_is_a_formula(desk, submit):
    email = submit(
        to=["moss@example.com", "jen@example.com"], subject="=HYPERLINK(1)", tags=[{"name": "a", "value": "b"}]
    )
    submit(to="roy@example.org", subject='Said "no", twice')
    answer = act_on_all(desk, "export", "domain=example.com")
    assert answer.streaming and answer["Content-Type"] == "text/csv; charset=utf-8"
    [row] = csv.DictReader(answer.getvalue().decode().splitlines())
    assert (row["id"], row["subject"], row["tags"]) == (str(email.pk), "'=HYPERLINK(1)", "a:b")
    assert row["to"] == "moss@example.com, jen@example.com"
    assert len(act_on_all(desk, "export", "").getvalue().splitlines()) == 3


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("domain=example.org", "b"), ("domain=@EXAMPLE.org", "b"), ("tag=kind", "ab"), ("tag=kind:one", "a"),
        ("tag=no", ""), ("queue=low", "c"), ("after=2020-01-01T00:00", "abc"), ("before=2020-01-01T00:00", ""),
        ("domain=example.com&queue=low", "c"), ("q=moss&tag=kind:two", "b"), ("state=queued&tag=kind", "ab"),
        ("after=soon", ""), ("state=strange", ""), ("domain=example.com&q=moss@example.com&state=queued", "ac"),
    ],
)  # fmt: skip
def test_emails_are_filtered(desk, submit, query, found):
    submit(subject="is-a", tags=[{"name": "kind", "value": "one"}])
    submit(subject="is-b", to="moss@example.org", tags=[{"name": "kind", "value": "two"}])
    submit(subject="is-c", priority=2)
    page = desk.get(f"/admin/emails/emailrequest/?{query}").text
    assert re.findall(r">is-(\w)<", page) == sorted(found, reverse=True)


def test_a_domain_that_is_none_is_said_to_be_none_and_finds_nothing(desk, submit):
    submit(subject="is-a")
    page = desk.get("/admin/emails/emailrequest/?domain=@@@").text
    assert "A domain is called example.com, say." in page and "is-a" not in page


def test_the_filters_keep_what_was_searched_for_once(desk):
    page = desk.get("/admin/emails/emailrequest/?q=moss&state=sent&tag=kind").text
    form = page.partition('<form class="typed">')[2].partition("</form>")[0]
    assert re.findall(r'type="hidden" name="(\w+)" value="(\w+)"', form) == [("q", "moss"), ("state", "sent")]


def test_a_moment_that_is_none_is_said_to_be_none(desk):
    assert "Enter a valid date/time" in desk.get("/admin/emails/emailrequest/?after=soon").text


def test_a_queue_is_paused_with_who_and_why_and_resumed(desk, submit, client):
    desk.post("/admin/emails/hold/add/", {"target": "default", "reason": "end of quarter freeze"})
    hold = Hold.objects.get()
    assert (hold.target, hold.reason, hold.by) == ("default", "end of quarter freeze", "admin")
    assert "end of quarter freeze" in desk.get("/admin/emails/hold/").text
    submit()
    assert "Queue default (1 message waits)" in desk.get("/admin/emails/hold/add/").text
    page = desk.post("/admin/emails/hold/", {"action": "resume", "_selected_action": ["default"]}).text
    assert "Queue default: end of quarter freeze (1 message waits)" in page
    assert "Resumed: Queue default." in resume(desk, page)
    assert not Hold.objects.exists()


def test_before_a_pause_ends_only_what_would_go_is_counted(desk, submit):
    for target in ("low", "relay"):
        Hold.objects.create(target=target, reason="a party", by="jen")
    submit(), submit(priority=2), submit(priority=2), submit(priority=2, scheduled_at="in 20 days")

    def waiting(*targets: str) -> list[str]:
        page = desk.post("/admin/emails/hold/", {"action": "resume", "_selected_action": targets}).text
        return re.findall(r"<li>[^<]*\(([^()<]+)\)</li>", page)

    assert waiting("low") == ["0 messages wait"]  # on, for the relay
    assert waiting("relay") == ["1 message waits"]
    assert sorted(waiting("low", "relay")) == ["2 messages wait", "3 messages wait"]


def resume(desk: Client, confirmation: str) -> str:
    """The page that answers who presses the button of such a page."""
    data: dict[str, list[str]] = {}
    for name, value in re.findall('<input type="hidden" name="([a-z_]+)" value="(.*?)">', confirmation):
        data.setdefault(name, []).append(value)
    return desk.post("/admin/emails/hold/", data, follow=True).text


def test_who_paused_and_who_resumed_is_logged_and_kept(desk, caplog, django_capture_on_commit_callbacks):
    jen = staff("view_hold", "delete_hold")
    with django_capture_on_commit_callbacks(execute=True):
        desk.post("/admin/emails/hold/add/", {"target": "low", "reason": "a party\nfor all"})
        resume(jen, jen.post("/admin/emails/hold/", {"action": "resume", "_selected_action": ["low"]}).text)
    assert [record.getMessage() for record in caplog.records if record.name == "emails.models"] == [
        "Paused by admin: Queue low, 'a party\\nfor all'",
        "Resumed by jen: Queue low",
    ]
    entries = LogEntry.objects.order_by("pk").values_list("user__username", "action_flag", "object_id")
    assert list(entries) == [("admin", ADDITION, "low"), ("jen", DELETION, "low")]


def test_only_the_pauses_that_were_shown_are_resumed(desk):
    for target in ("high", "low", "relay"):
        Hold.objects.create(target=target, reason="a party", by="jen")
    selected = {"action": "resume", "_selected_action": ["high", "low", "relay"]}
    confirmation = desk.post("/admin/emails/hold/", selected).text
    Hold.objects.filter(target__in=("low", "relay")).delete()
    Hold.objects.create(target="low", reason="a broken template", by="roy")
    page = resume(desk, confirmation)
    assert "Resumed: Queue high." in page
    assert "had ended already or was paused anew: 2 of 3." in page
    assert Hold.objects.get().by == "roy"
    page = resume(desk, confirmation)
    assert "Resumed:" not in page and "3 of 3." in page
    assert desk.get("/admin/emails/hold/low/delete/").status_code == 403  # which would ask for no pause in particular


def test_a_pause_takes_no_others_place(desk):
    Hold.objects.create(target="low", reason="a party", by="jen")
    page = desk.post("/admin/emails/hold/add/", {"target": "low", "reason": "another"}).text
    assert "already exists" in page
    with pytest.raises(IntegrityError), transaction.atomic():
        Hold(target="low", reason="another").pause(by="roy")
    assert Hold.objects.get().by == "jen"


def test_trouble_with_the_relay_can_be_seen_but_not_made(desk):
    desk.post("/admin/emails/hold/add/", {"target": "trouble", "reason": "x"})
    assert not Hold.objects.exists()
    Hold.note_trouble("connection refused")
    assert "connection refused" in desk.get("/admin/emails/hold/").text


@pytest.mark.parametrize("path", ["/admin/", DASHBOARD, f"{DASHBOARD}queues/0/", f"{DASHBOARD}workers/0/"])
def test_beside_the_dashboards_link_and_on_its_pages_stand_the_levers_that_hold_mail(desk, path):
    page = desk.get(path, follow=True).text
    assert "the messages are sent all the same" in page and "rqsuspend" in page
    assert "A worker that was killed stays" in page
    for path in (DASHBOARD, "/admin/emails/emailrequest/", "/admin/emails/hold/add/"):
        assert f'href="{path}"' in page and desk.get(path).status_code == 200


def test_the_desk_warns_about_its_surroundings(desk):
    for host in ("here", "there"):
        Worker.objects.create(name=host, host=host, pid=1)
    assert "several hosts (here, there) share one SQLite file" in desk.get("/admin/").text
