"""Why a message waits, and what happens next, or how it ended: one sentence for each cause, each provoked for real."""

import re
import signal
import socket
from datetime import UTC, datetime, timedelta

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from emails import doorbell, login
from emails.drafts import Draft
from emails.models import EmailRequest, Event, Hold, Suppression, Worker
from emails.smtp import is_greylisting
from emails.why import explain
from tests.environment import start_valkey, wait_until
from tests.test_worker import wait_for_state

pytestmark = [pytest.mark.stores, pytest.mark.django_db(transaction=True)]

LETTER = {"from": "Shop <shop@example.com>", "to": "moss@example.com", "subject": "Hello", "text": "Hello"}


@pytest.fixture
def alive():
    """A worker that is seen at all times, and does nothing."""
    return Worker.objects.create(name="moss", host="here", pid=1, heartbeat_at=datetime(2100, 1, 1, tzinfo=UTC))


@pytest.fixture
def desk(client):
    client.force_login(login.local_administrator())
    return client


@pytest.fixture
def valkey(settings, tmp_path):
    """A Valkey of this test's own, which it may kill."""
    server = start_valkey(tmp_path)
    settings.RQ_QUEUES = {name: {"URL": f"unix://{tmp_path}/valkey.sock"} for name in doorbell.QUEUES}
    doorbell.queue.cache_clear()
    yield server
    doorbell.queue.cache_clear()
    server.kill()
    server.wait()


def fresh(email) -> EmailRequest:
    return EmailRequest.objects.get(pk=email.pk)


def why(email, now=None) -> str:
    return explain(fresh(email), now)


def at(clock: str, day: int = 25) -> datetime:
    hour, minute = map(int, clock.split(":"))
    return datetime(2026, 11, day, hour, minute, tzinfo=UTC)


def pause(desk, target: str, reason: str) -> None:
    """As the operator does it."""
    assert desk.post("/admin/emails/hold/add/", {"target": target, "reason": reason}).status_code == 302


# It is not its time


def test_a_scheduled_message_says_for_when(submit, alive):
    email = submit(scheduled_at="in 2 hours")
    EmailRequest.objects.update(due_at=at("09:00"))
    assert why(email, at("07:00")) == "Scheduled for 09:00 UTC."
    assert why(email, at("07:00", day=24)).startswith("Scheduled for 09:00 UTC on 25 November.")


def test_times_are_those_of_the_configured_zone_and_name_it(submit, alive, settings):
    settings.TIME_ZONE = "Europe/Berlin"
    email = submit(scheduled_at="in 2 hours")
    EmailRequest.objects.update(due_at=at("23:30"))
    assert why(email, at("20:00")) == "Scheduled for 00:30 CET on 26 November."


def test_a_greylisted_message_says_by_whom_and_when_it_is_tried_again(worker, relay, submit):
    relay.script["RCPT grey@example.com"] = ["451 4.7.1 Greylisted, see http://grey.example"]
    email = submit(to=["grey@example.com", "open@example.com"])
    wait_for_state(email, "deferred")
    EmailRequest.objects.update(attempts=2, created_at=at("02:00"), due_at=at("03:05"))
    now = at("02:50")
    Worker.objects.update(heartbeat_at=now)
    assert why(email, now) == (
        "Greylisted by relay 127.0.0.1 for 1 of 2 recipients (451 4.7.1 Greylisted, see http://grey.example); "
        "third attempt at 03:05 UTC, given up after 02:00 UTC on 28 November."
    )
    assert "; third attempt in 90 s, given up" in why(email, at("03:04") - timedelta(seconds=30))


def test_a_deferred_message_says_what_the_relay_said_and_which_attempt_is_the_last(worker, relay, submit, settings):
    relay.always["MAIL"] = "452 4.3.1 no space"
    email = submit()
    wait_for_state(email, "deferred")
    waiting = fresh(email)
    now = waiting.due_at - timedelta(seconds=40)
    said = "Deferred by relay 127.0.0.1 (452 4.3.1 no space, at MAIL FROM)"
    assert explain(waiting, now).startswith(f"{said}; second attempt in 40 s,")
    settings.RETRY_MAX_AGE = timedelta(seconds=1)
    assert explain(waiting, now).startswith(f"{said}; second and last attempt in 40 s.")


@pytest.mark.parametrize(
    ("reply", "greylisting"),
    [
        ("451 4.7.1 Greylisting in action, please come back later", True),
        ("450 4.2.0 <moss@example.com>: Recipient address rejected: Greylisted for 300 seconds", True),
        ("451 graylisted", True),
        ("450 4.7.1 Please try again later", True),
        ("452 4.2.2 mailbox full, try again later", False),
        ("550 5.7.1 try again elsewhere", False),
        ("", False),
    ],
)
def test_greylisting_is_known_by_its_words_or_its_code(reply, greylisting):
    assert is_greylisting(reply) is greylisting


# Something holds mail back


def test_a_relay_in_trouble_says_since_when_why_and_when_it_is_probed(start, relay, submit):
    relay.close()
    process = start("rqworker", EMAIL_URL=relay.url)
    email, _ = submit(), submit()
    wait_until(Hold.objects.filter(target="trouble").exists, "no trouble was noted")
    wait_for_state(email, "queued")
    process.stop()
    Worker.objects.update(stopped_at=None)
    Hold.objects.update(since=at("02:14"), probe_at=at("04:00"))
    now = at("03:59") + timedelta(seconds=20)
    EmailRequest.objects.update(due_at=at("03:00"))
    Worker.objects.update(heartbeat_at=now)
    assert why(email, now) == (
        "Relay 127.0.0.1 has refused connections since 02:14 UTC (Connection refused); next probe in 40 s; "
        "2 messages wait behind it. Queued: it is next."
    )


def test_a_relay_that_turns_us_away_or_is_on_trial_says_so(start, relay, submit):
    relay.always["greeting"] = "554 5.3.2 go away (for now)"
    start("rqworker", EMAIL_URL=relay.url)
    email = submit()
    wait_until(Hold.objects.filter(target="trouble").exists, "no trouble was noted")
    wait_for_state(email, "queued")
    assert "Relay 127.0.0.1 has turned us away since" in why(email)
    assert "the relay said 554 5.3.2 go away (for now), waiting for the greeting" in why(email)
    Hold.try_again()
    assert why(email).startswith("Relay 127.0.0.1 lets us in again after trouble (the relay said 554")


def test_a_paused_queue_says_by_whom_when_and_why(desk, submit, alive):
    pause(desk, "default", "end of quarter freeze")
    email, urgent = submit(), submit(priority=0)
    Hold.objects.update(since=at("01:10"))
    Worker.objects.update(heartbeat_at=at("02:00"))
    EmailRequest.objects.update(due_at=at("01:30"))
    assert why(email, at("02:00")).startswith(
        "The queue default was paused by admin at 01:10 UTC: end of quarter freeze; mail waits until it is resumed."
    )
    assert "paused" not in why(urgent, at("02:00"))


def test_a_paused_relay_says_so_and_a_second_cause_follows_it_but_no_third(desk, submit):
    pause(desk, "relay", "moving house")
    pause(desk, "default", "freeze")
    Hold.note_trouble("Connection refused (connecting)")
    sentence = why(submit())
    assert sentence.startswith("The relay was paused by admin at")
    assert "The queue default was paused" in sentence
    assert "No worker" not in sentence and "refused" not in sentence
    Hold.objects.filter(target="default").delete()
    assert "No worker has been seen" in why(submit())


def test_a_message_for_later_names_what_would_hold_it_back(desk, submit, alive):
    pause(desk, "default", "freeze")
    sentence = why(submit(scheduled_at="in 2 hours"))
    assert sentence.startswith("Scheduled for") and "The queue default was paused by admin" in sentence


def test_without_a_worker_it_says_how_long_and_how_to_start_one(start, relay, submit):
    email = submit(scheduled_at="in 1 hour")
    assert "No worker has been seen yet: start one with `manage.py rqworker`." in why(email)
    process = start("rqworker", EMAIL_URL=relay.url)
    wait_until(lambda: "No worker" not in why(email), "the worker did not report")
    process.stop()
    EmailRequest.objects.update(due_at=timezone.now())
    later = Worker.objects.get().heartbeat_at + timedelta(minutes=6)
    assert why(email, later).startswith("No worker has been seen for 6 minutes: start one with `manage.py rqworker`.")
    assert why(email).startswith("No worker has been seen for")  # it has been stopped: its lease says nothing


def test_suspended_delivery_says_how_to_resume(start, worker, submit):
    start("rqsuspend").popen.wait()
    worker.wait_for("suspended by `rqsuspend`")
    email = submit()
    assert why(email).startswith("Delivery is suspended by `manage.py rqsuspend`: `manage.py rqresume` lets it go on.")
    start("rqresume").popen.wait()
    wait_for_state(email, "sent")


def test_with_redis_gone_it_says_that_mail_goes_on(valkey, alive, submit):
    email = submit()
    assert "Redis" not in why(email)
    valkey.kill()
    valkey.wait()
    assert why(email).startswith("Redis can't be reached: workers go on from the database")


def test_a_redis_that_is_silent_is_not_waited_for(settings, alive, submit):
    email = submit()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings.RQ_QUEUES = {name: {"URL": f"redis://127.0.0.1:{silent.getsockname()[1]}"} for name in doorbell.QUEUES}
        doorbell.queue.cache_clear()
        began = timezone.now()
        assert why(email).startswith("Redis can't be reached")
        assert timezone.now() - began < timedelta(seconds=3)
    doorbell.queue.cache_clear()


# Its turn


def test_a_queued_message_says_how_many_go_first(alive, submit):
    low, urgent, first, email, _ = submit(priority=2), submit(priority=0), submit(), submit(), submit()
    assert why(urgent) == "Queued: it is next, and a worker takes it within seconds."
    assert why(first) == "Queued: 1 message waits before it with its priority or a higher one."
    assert why(email) == "Queued: 2 messages wait before it with its priority or a higher one."
    assert why(low).startswith("Queued: 4 messages wait before it")
    submit(priority=0, scheduled_at="in 1 hour")
    assert why(first) == "Queued: 1 message waits before it with its priority or a higher one."


def test_what_a_pause_keeps_back_does_not_go_first(desk, alive, submit):
    urgent, email = submit(priority=0), submit()
    assert "1 message waits before it" in why(email)
    pause(desk, "high", "freeze")
    assert why(email) == "Queued: it is next, and a worker takes it within seconds."
    assert "The queue high was paused by admin" in why(urgent)
    Hold.note_trouble("no answer within 60 s (connecting)")
    assert "1 message waits behind it." in why(email)


@pytest.mark.parametrize(
    ("attempts", "words"),
    [(9, "tenth"), (10, "11th"), (12, "13th"), (20, "21st"), (21, "22nd"), (22, "23rd"), (110, "111th")],
)
def test_attempts_are_counted_as_people_do(alive, submit, attempts, words):
    email = submit()
    EmailRequest.objects.update(state="deferred", attempts=attempts)
    assert why(email).startswith(f"Its {words} attempt is due")


def test_counting_stops_at_a_thousand(alive, submit):
    EmailRequest.objects.submit([Draft.clean(LETTER)] * 1001, origin="a test")
    assert "Queued: more than 1,000 messages wait before it" in why(submit())
    Hold.note_trouble("no answer within 60 s (connecting)")
    sentence = why(submit())
    assert "has not answered since" in sentence and "more than 1,000 messages wait behind it." in sentence


def test_the_pace_is_told_where_there_is_one(worker, relay, submit):
    for _ in range(40):
        last = submit()
    wait_for_state(last, "sent")
    wait_until(lambda: EmailRequest.objects.filter(state="sent").count() == 40, "not all were sent")
    worker.stop()
    first, email = submit(), submit()
    Worker.objects.update(stopped_at=None)
    assert "1 message waits before it" in why(email) and "; about 1 are sent a second." in why(email)
    assert first.state == "queued"
    later = timezone.now() + timedelta(seconds=65)
    Worker.objects.update(heartbeat_at=later)
    assert "sent a second" not in why(email, later)


def test_a_retry_that_is_due_says_which_it_is(alive, relay, submit):
    email = submit()
    EmailRequest.objects.update(state="deferred", attempts=1)
    assert why(email) == "Its second attempt is due: it is next, and a worker takes it within seconds."
    late = submit(scheduled_at="in 1 hour")
    Worker.objects.update(heartbeat_at=late.due_at)
    assert why(late, late.due_at).startswith("Its time has come: 1 message waits before it")


# In a worker's hands


def test_a_message_in_hand_says_who_has_it_since_when(worker, submit, relay):
    email = submit(delay=60)
    wait_for_state(email, "claimed")
    name = Worker.objects.get().name
    Event.objects.filter(kind="claimed").update(at=at("02:14"))
    Worker.objects.update(heartbeat_at=at("02:15"))
    assert why(email, at("02:15")) == f"Worker {name} picked it up at 02:14 UTC, and takes its time on purpose (60 s)."


def test_a_message_on_the_wire_says_so(start, relay, submit):
    relay.always["dot"] = "silence"
    start("rqworker", EMAIL_URL=relay.url)
    email = submit()
    wait_for_state(email, "transmitting")
    assert "and is handing it to relay 127.0.0.1, whose reply decides." in why(email)


def test_a_worker_that_fell_silent_is_named_and_when_others_take_over(start, relay, submit):
    relay.always["dot"] = "silence"
    process = start("rqworker", EMAIL_URL=relay.url, SENDERS="1")
    marked = submit(on_unknown="hold")
    wait_for_state(marked, "transmitting")
    claimed = submit()
    wait_for_state(claimed, "claimed")
    process.stop(signal.SIGKILL)
    worker = Worker.objects.get()
    silent = worker.heartbeat_at + timedelta(seconds=40)
    assert why(claimed, silent) == (
        f"Worker {worker}, which has it, has been silent for 40 s: its lease ends in 20 s, "
        "then another takes the message over."
    )
    assert "its lease ends in 20 s, then another finds it uncertain, and it is held for a person to decide." in why(
        marked, silent
    )
    dead = worker.heartbeat_at + timedelta(minutes=6)
    assert "its lease has ended, then another" in why(claimed, dead)
    assert why(claimed, dead).endswith("No worker has been seen for 6 minutes: start one with `manage.py rqworker`.")


# Nobody knows


def test_an_uncertain_message_that_is_held_waits_for_a_decision(worker, relay, submit):
    relay.script["dot"] = ["drop-taken"]
    email = submit(on_unknown="hold")
    wait_for_state(email, "unknown")
    Event.objects.update(at=at("02:20"))
    assert why(email, at("03:00")) == (
        "Uncertain: the relay closed the connection after the last byte at 02:20 UTC; held for your decision."
    )


def test_an_uncertain_message_that_is_sent_again_says_when(worker, relay, submit):
    relay.script["dot"] = ["drop"]
    email = submit()
    wait_for_state(email, "unknown")
    waiting = fresh(email)
    sentence = explain(waiting, waiting.due_at - timedelta(seconds=30))
    assert sentence.startswith("Uncertain: the relay closed the connection after the last byte at")
    assert "; to be sent again with the same Message-ID in 30 s." in sentence


def test_a_message_during_which_workers_died_says_that_it_goes_alone(alive, submit):
    email = submit()
    other = Worker.objects.create(name="roy", host="here", pid=2)
    for _ in range(2):
        Worker.objects.filter(pk=alive.pk).update(heartbeat_at=timezone.now())
        with transaction.atomic():
            EmailRequest.objects.record(alive, upcoming=EmailRequest.objects.claim([email.pk], alive))
        Worker.objects.filter(pk=alive.pk).update(heartbeat_at=timezone.now() - timedelta(hours=1))
        EmailRequest.objects.free_dead()
    other.beat()
    sentence = why(email)
    assert sentence.startswith(
        "2 workers died while transmitting it: it goes alone, and is given up when that makes 3. "
        "Uncertain: its worker died during the transmission at"
    )
    assert "; now due to be sent again with the same Message-ID: it is next" in sentence


# The end


def test_a_sent_message_says_when_and_what_the_relay_said(worker, relay, submit):
    relay.script["RCPT jen@example.com"] = ["550 5.1.1 no such user"]
    email, partly = submit(), submit(to=["moss@example.com", "jen@example.com"])
    wait_for_state(email, "sent")
    wait_for_state(partly, "sent")
    Event.objects.update(at=at("02:14"))
    assert why(email, at("03:00")) == "Sent at 02:14 UTC: 250 2.0.0 taken."
    assert why(partly, at("03:00", day=26)) == (
        "Sent at 02:14 UTC on 25 November to 1 of 2 recipients, not to jen@example.com (550 5.1.1 no such user)."
    )


def test_a_bounced_message_says_who_refused_whom_and_in_which_words(worker, relay, submit):
    relay.always["RCPT"] = "550 5.1.1 no such user"
    email = submit(to=["moss@example.com", "jen@example.com"])
    wait_for_state(email, "bounced")
    assert "relay 127.0.0.1 refused moss@example.com (550 5.1.1 no such user) and 1 more." in why(email)


@pytest.mark.parametrize(
    ("stage", "reply", "sentence"),
    [
        ("MAIL", "553 5.1.8 rejected", "refused our sender shop@example.com (553 5.1.8 rejected, at MAIL FROM)."),
        ("DATA", "554 5.7.1 no mail today", "refused the message (554 5.7.1 no mail today, at DATA)."),
        (
            "dot",
            "554 5.7.1 spam (see spam.example)",
            "refused the message (554 5.7.1 spam (see spam.example), at DATA).",
        ),
    ],
)
def test_a_refusal_of_the_sender_or_the_message_is_not_told_as_the_recipients(
    stage, reply, sentence, worker, relay, submit
):
    relay.always[stage] = reply
    email = submit(to=["moss@example.com", "jen@example.com"])
    wait_for_state(email, "bounced")
    assert why(email).endswith(sentence)


def test_a_silent_relay_is_told_without_brackets_in_brackets(start, relay, submit):
    relay.always["MAIL"] = "silence"
    start("rqworker", EMAIL_URL=relay.url, SMTP_TIMEOUT_COMMAND="0.2")
    email = submit()
    wait_for_state(email, "deferred")
    Hold.objects.all().delete()
    assert "(no answer within 0.2 s, at MAIL FROM);" in why(email)


def test_a_message_that_was_given_up_says_why(start, relay, submit, alive):
    relay.always["RCPT"] = "451 4.2.0 not now"
    given_up = submit()
    EmailRequest.objects.update(created_at=timezone.now() - timedelta(days=4))
    start("rqworker", EMAIL_URL=relay.url)
    wait_for_state(given_up, "failed")
    assert "given up after 1 attempt: 451 4.2.0 not now." in why(given_up)
    by_hand = submit(scheduled_at="in 1 hour")
    EmailRequest.objects.filter(pk=by_hand.pk).give_up("admin")
    assert why(by_hand).startswith("Failed at ") and why(by_hand).endswith("given up by admin.")


def test_a_message_that_never_went_out_says_who_or_what_prevented_it(worker, relay, submit):
    canceled = submit(scheduled_at="in 1 hour")
    EmailRequest.objects.cancel("admin")
    assert why(canceled).startswith("Taken back at ") and why(canceled).endswith("by admin before it went out.")
    Suppression.objects.create(mailbox="moss@example.com")
    suppressed = submit()
    wait_for_state(suppressed, "suppressed")
    assert why(suppressed).startswith("Not sent at ")
    assert why(suppressed).endswith(": moss@example.com is on the suppression list.")


# Where it is said


def test_page_api_admin_and_command_say_the_same_sentence(desk, api, alive, submit, capsys):
    email = submit(scheduled_at="in 20 days")
    sentence = why(email)
    assert sentence.startswith("Scheduled for")
    assert f'<p id="why">{sentence}</p>' in desk.get(f"/messages/{email.pk}").text
    assert sentence in desk.get(f"/admin/emails/emailrequest/{email.pk}/change/").text
    assert api.get(f"/emails/{email.pk}").json()["explanation"] == sentence
    call_command("why", str(email.pk))
    assert capsys.readouterr().out == f"{sentence}\n"


@pytest.mark.parametrize(
    ("id", "sentence"),
    [
        ("01900000-0000-7000-8000-000000000000", "There is no message 01900000-0000-7000-8000-000000000000."),
        (
            "0190",
            "Error: argument id: '0190' is no message's id. One looks like 0199d1a2-3b4c-7d5e-8f60-718293a4b5c6, and",
        ),
    ],
)
def test_the_command_says_what_is_wrong_with_an_id(id, sentence):
    with pytest.raises(CommandError, match=f"^{re.escape(sentence)}"):
        call_command("why", id)


def test_the_list_is_not_explained_line_by_line(api, submit):
    submit()
    assert "explanation" not in api.get("/emails").json()["data"][0]


# What it costs


def test_a_sentence_costs_a_handful_of_queries_whatever_waits(alive, submit):
    EmailRequest.objects.submit([Draft.clean(LETTER)] * 1500, origin="a test")
    email = fresh(submit(priority=2))
    with CaptureQueriesContext(connection) as queries:
        explain(email)
    assert len(queries) <= 10, [query["sql"] for query in queries]
