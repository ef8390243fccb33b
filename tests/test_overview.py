"""What a tired person reads at three in the morning: a sentence, then what is wrong, then the figures."""

import re
import sqlite3
from contextlib import closing
from datetime import timedelta

import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.utils import timezone

from emails import login, tallies, why
from emails.models import EmailRequest, Event, Hold, Worker
from emails.overview import Chart, reason
from emails.tallies import Tally
from tests.environment import ON_POSTGRESQL, wait_until
from tests.test_store import said, settle, transmit

pytestmark = [pytest.mark.stores, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def staff(client):
    client.force_login(login.local_administrator())
    return client


@pytest.fixture
def moss():
    return Worker.objects.create(name="moss", host="mail-1", pid=4711)


def verdict(response) -> str:
    return re.search(r'<p class="verdict [^>]+>(.*?)</p>', response.text, re.DOTALL)[1].replace("&#x27;", "'")


def send(submit, worker, code=250, text="ok", **fields) -> EmailRequest:
    [claimed] = transmit([submit(**fields).pk], worker)
    return settle(claimed, said(claimed, code, text), worker)


def test_a_fresh_install_says_what_to_do_first(staff):
    text = staff.get("/").text
    assert "No worker has been seen yet: start one with `manage.py rqworker`." in text
    assert "No mail yet" in text and "Write the first one" in text and "Make an API key" in text


def test_all_is_well(staff, submit, moss):
    for _ in range(3):
        send(submit, moss)
    response = staff.get("/")
    assert verdict(response) == "All is well: nothing waits, 3 sent in the last hour."
    assert "The database can be read and written." in response.text and "Redis answers." in response.text
    assert "mail-1, process 4711: holds 0, sends 0" in response.text
    submit(scheduled_at="in 1 hour")
    assert verdict(staff.get("/")) == "All is well: nothing is due, 1 for later, 3 sent in the last hour."


def test_the_gravest_comes_first(staff, submit, moss):
    submit()
    Hold.objects.create(target="low", reason="end of quarter freeze", by="jen")
    response = staff.get("/")
    assert verdict(response).startswith("The queue low was paused by jen")
    Worker.objects.update(heartbeat_at=timezone.now() - timedelta(minutes=6))
    response = staff.get("/")
    assert verdict(response) == "No worker has been seen for 6 minutes: start one with <code>manage.py rqworker</code>."
    assert "The queue low was paused by jen" in response.text
    assert "Silent" in response.text
    assert "/admin/emails/hold/" in response.text


@pytest.mark.skipif(ON_POSTGRESQL, reason="one writer at a time is SQLite's")
def test_while_the_database_is_locked_nobody_is_told_to_start_a_worker(staff, moss):
    """It may well be there: it can't write its heartbeat."""
    Worker.objects.update(heartbeat_at=timezone.now() - timedelta(minutes=6))
    with closing(sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        response = staff.get("/")
    assert verdict(response) == "The database can't be used: nothing is accepted until it answers."
    assert "No worker has been seen" not in response.text
    wait_until(lambda: verdict(staff.get("/")).startswith("No worker has been seen for 6 minutes"), "not told again")


def test_what_waits_by_queue_and_what_workers_hold(staff, submit, moss):
    submit(priority=2), submit(priority=2), submit(priority=2, scheduled_at="in 1 hour")
    transmit([submit(priority=0).pk], moss)
    text = staff.get("/").text
    rows = {
        name: figures
        for name, *figures in re.findall(r">(\w+)</a></th><td>(.*?)</td><td>(.*?)</td><td>(.*?)</td>", text)
    }
    assert rows == {"high": ["0", "0", "1"], "default": ["0", "0", "0"], "low": ["3", "2", "0"]}
    assert "1 is being sent now" in text and "holds 1, sends 1" in text


def test_the_oldest_that_is_due_is_linked_with_its_reason(staff, submit, moss):
    submit()
    oldest = submit(to="roy@example.com", priority=2)
    EmailRequest.objects.filter(pk=oldest.pk).update(due_at=timezone.now() - timedelta(minutes=3))
    text = staff.get("/").text
    assert f'<a href="/messages/{oldest.pk}">to roy@example.com</a>' in text
    assert "Queued: " in text


def test_failures_by_reason(staff, submit, moss):
    for name in ("roy", "jen", "denholm"):
        send(submit, moss, 550, f"5.1.1 <{name}@example.com>: user unknown", to=f"{name}@example.com")
    last = send(submit, moss, 451, "4.7.1 Greylisted, try again in 300 s")
    old = send(submit, moss, 554, "5.7.1 long ago")
    Event.objects.filter(email=old).update(at=timezone.now() - timedelta(days=2))
    text = staff.get("/").text
    assert "<strong>3</strong> times bounced: 550 5.1.1 … user unknown, <a" in text
    assert "<strong>1</strong> time deferred: 451 4.7.1 Greylisted, try again in … s" in text
    assert f'<a href="/messages/{last.pk}">for example</a>' in text and "more reason" not in text
    assert "long ago" not in text


def test_that_there_are_more_reasons_than_are_shown_is_said(staff, submit, moss):
    for word in ("one", "two", "three", "four", "five", "six", "seven"):
        send(submit, moss, 550, f"5.1.1 {word}")
    text = staff.get("/").text
    assert text.count(">for example</a>") == 5 and "and 2 more reasons" in text
    assert 'href="/admin/emails/emailrequest/?state=bounced"' in text


def test_the_overview_leads_straight_to_resuming_and_pausing(staff, submit, moss):
    submit()
    for target in ("low", "relay"):
        Hold.objects.create(target=target, reason="a party", by="jen")
    text = staff.get("/").text
    assert 'href="/admin/emails/hold/add/">Pause a queue or the relay</a>' in text
    assert 'action="/admin/emails/hold/"' in text and 'name="action" value="resume"' in text
    assert re.findall(r'name="_selected_action" value="(\w+)">(.*?)<', text) == [
        ("low", "Resume: queue low"),
        ("relay", "Resume: relay"),
    ]
    question = staff.post("/admin/emails/hold/", {"action": "resume", "_selected_action": "low"}).text
    assert "Queue low: a party" in question and Hold.objects.count() == 2


def test_trouble_that_ends_by_itself_has_no_button(staff, submit, moss):
    submit()
    Hold.note_trouble("Connection refused (connecting)")
    assert "Resume" not in staff.get("/").text


def test_a_worker_that_is_gone_does_not_look_bad_while_all_is_well(staff, submit, moss):
    submit()
    old = timezone.now() - timedelta(minutes=6)
    Worker.objects.create(name="roy", host="mail-2", pid=4712, heartbeat_at=old)
    text = staff.get("/").text
    assert "All is well" in text and ">Gone<" in text and "Silent" not in text


@pytest.mark.parametrize(
    ("detail", "words"),
    [
        ("550 5.1.1 <a@example.com>: unknown; 550 5.1.1 <b@example.com>: unknown", "550 5.1.1 … unknown"),
        ("421 too many, id 4f3a1b see https://example.com/x", "421 too many, id … see …"),
        ("given up after 3 attempts: 451 4.7.1 <a@b.example> later", "given up after … attempts: 451 4.7.1 … later"),
        ("the relay said 421 4.3.2 to us, job 4f21a", "the relay said 421 4.3.2 to us, job …"),
        ("the message can't be built", "the message can't be built"),
        ("", ""),
    ],
)
def test_a_reason_is_what_replies_have_in_common(detail, words):
    assert reason(detail) == words


def test_the_charts_show_when_how_much_was_sent():
    now = tallies.minute()
    for minute, sent, bounced in ((now, 5, 1), (now - 59, 10, 0), (now - 60, 7, 0), (now - 1000, 30, 0)):
        Tally.objects.create(minute=minute, priority=1, shard=0, sent=sent, bounced=bounced)
    hour, day = Chart.of("hour", 60, 1, now), Chart.of("day", 144, 10, now)
    assert (hour.sent[0], hour.sent[-1], hour.failed[-1], hour.total, hour.most) == (10, 5, 1, 15, 10)
    assert (day.total, day.most) == (52, 3)
    assert hour.sent_path.count("M") == 2 and hour.failed_path.count("M") == 1


def test_who_is_not_staff_sees_the_mail_instead(client, submit):
    submit(subject="Have you tried")
    client.force_login(get_user_model().objects.create_user("roy"))
    response = client.get("/")
    assert "Have you tried" in response.text and "verdict" not in response.text
    assert client.get("/overview/live").status_code == 403


def test_a_verdict_of_another_kind_is_read_out(staff, submit, moss):
    send(submit, moss)
    live = staff.get("/").text
    assert 'hx-get="/overview/live?seen=ok"' in live
    assert 'role="status"' not in staff.get("/overview/live?seen=ok").text
    EmailRequest.objects.filter(pk=submit().pk).update(state="unknown", due_at=None)
    assert 'role="status"' in staff.get("/overview/live?seen=ok").text
    assert 'role="status"' not in staff.get("/overview/live?seen=undecided").text
    Worker.objects.all().update(heartbeat_at=timezone.now() - timedelta(minutes=6))
    assert 'role="status"' in staff.get("/overview/live?seen=undecided").text  # a graver one
    Worker.objects.all().update(heartbeat_at=timezone.now() - timedelta(minutes=7))
    assert 'role="status"' not in staff.get("/overview/live?seen=no%20worker").text  # the same, for longer


def test_mail_that_waits_for_a_decision_is_no_good_news(staff, submit, moss):
    decided, *held = [submit() for _ in range(3)]
    EmailRequest.objects.filter(pk=decided.pk).update(state="unknown")  # to be sent again by itself
    EmailRequest.objects.filter(pk=held[0].pk).update(state="unknown", due_at=None)
    assert verdict(staff.get("/")).startswith("Uncertain: 1 message waits for a person's decision.")
    EmailRequest.objects.filter(pk=held[1].pk).update(state="unknown", due_at=None)
    response = staff.get("/")
    assert "Uncertain: 2 messages wait for a person's decision." in verdict(response)
    [link] = re.findall(r'<a href="([^"]+)">Decide</a>', response.text)
    assert f"{held[0].pk.hex[-8:]}" in staff.get(link).text


def test_a_pause_does_not_hide_that_the_rest_lags(staff, submit, moss):
    Hold.objects.create(target="low", reason="freeze", by="jen")
    late, paused = submit(to="late@example.com"), submit(priority=2, to="paused@example.com")
    EmailRequest.objects.filter(pk=paused.pk).update(due_at=timezone.now() - timedelta(hours=9))
    text = staff.get("/").text
    assert "has waited for" not in text and "to late@example.com" in text and "to paused@example.com" not in text
    EmailRequest.objects.filter(pk=late.pk).update(due_at=timezone.now() - timedelta(minutes=40))
    response = staff.get("/")
    assert verdict(response).startswith("The queue low was paused by jen")
    assert "The oldest message that is due has waited for 40 minutes: more than 15 minutes." in response.text


def test_what_is_harmless_comes_last(staff, submit, moss, no_redis):
    submit()
    Hold.objects.create(target="low", reason="freeze", by="jen")
    response = staff.get("/")
    assert verdict(response).startswith("The queue low was paused by jen")
    assert '<p class="notice warning">Redis can&#x27;t be reached' in response.text


def test_what_stops_all_comes_before_what_stops_some(staff, submit, moss):
    submit()
    for target in ("default", "low"):
        Hold.objects.create(target=target, reason="freeze", by="jen")
    Hold.note_trouble("Connection refused (connecting)")
    assert " has refused connections since" in verdict(staff.get("/"))
    Hold.objects.create(target="high", reason="freeze", by="jen")
    assert verdict(staff.get("/")).startswith("The queue high was paused by jen")


def test_each_pause_is_told_once_and_closes_the_relay_only_where_it_is_the_relays(staff, submit, moss):
    submit()
    Hold.objects.create(target="low", reason="end of quarter", by="jen")
    text = staff.get("/").text
    assert text.count("end of quarter") == 2  # once for the eye, once for the ear
    assert re.search(r'<span class="state sent">Open</span>', text)
    Hold.objects.create(target="relay", reason="moving house", by="jen")
    assert '<span class="state deferred">Paused</span>' in staff.get("/").text
    Hold.objects.all().delete()
    Hold.note_trouble("Connection refused (connecting)")
    assert '<span class="state deferred">In trouble</span>' in staff.get("/").text


def test_what_was_counted_no_further_is_not_told_as_if_it_were_exact(staff, moss, monkeypatch, submit):
    monkeypatch.setattr(why, "COUNTED", 2)
    for _ in range(3):
        submit()
    assert verdict(staff.get("/")).startswith("All is well: more than 2 are due,")


def test_workers_are_judged_by_the_clock_that_they_are_written_by(staff, submit, moss, monkeypatch):
    submit()
    clock = timezone.now
    monkeypatch.setattr(timezone, "now", lambda: clock() + timedelta(hours=1))  # this machine's is wrong
    response = staff.get("/")
    assert verdict(response).startswith("All is well: 1 is due")
    assert "Silent" not in response.text and "Idle" in response.text
