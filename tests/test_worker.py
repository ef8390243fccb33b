"""What `manage.py rqworker` promises, whatever happens around it."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from django.db import InterfaceError, connection, transaction
from django.db.models import F
from rq.suspension import resume, suspend

from emails import doorbell
from emails.models import EmailRequest, Event, Hold, Worker
from emails.worker import MailWorker
from tests import sinks
from tests.environment import start_valkey, wait_until

pytestmark = [pytest.mark.stores, pytest.mark.django_db(transaction=True)]


def state(email) -> str:
    return EmailRequest.objects.get(pk=email.pk).state


def wait_for_state(email, *expected: str) -> None:
    wait_until(
        lambda: state(email) in expected, f"{email.pk} did not become {expected}: {state(email)}, {timeline(email)}"
    )


def timeline(email) -> list[str]:
    return [str(event) for event in Event.objects.filter(email=email)]


def empty_queues() -> None:
    doorbell.queue("default").connection.flushall()


def test_a_mail_that_is_accepted_arrives_and_says_so(worker, relay, submit):
    email = submit(to=["Moss <moss@example.com>", "jen@example.com"], bcc="douglas@example.com")
    wait_for_state(email, "sent")
    [received] = relay.received
    assert received.sender == "shop@example.com"
    assert sorted(received.recipients) == ["douglas@example.com", "jen@example.com", "moss@example.com"]
    assert b"douglas" not in received.data
    assert [event.kind for event in email.events.all()] == ["accepted", "claimed", "sent"]
    assert "250 2.0.0 taken" in email.events.last().detail
    assert all(recipient.state == "accepted" for recipient in email.recipients.all())


def test_two_hundred_mails_arrive_once_each(worker, relay, submit):
    sent = [submit(to=f"reader{n}@example.com", priority=n % 3) for n in range(200)]
    wait_until(lambda: EmailRequest.objects.filter(state="sent").count() == 200, "not all were sent")
    assert sorted(received.recipients[0] for received in relay.received) == sorted(
        email.recipients.get().address for email in sent
    )
    assert relay.connections <= 16


def test_two_workers_share_the_work_and_no_mail(start, relay, submit):
    workers = [start("rqworker", EMAIL_URL=relay.url) for _ in range(2)]
    for process in workers:
        process.wait_for("Listening on")
    for n in range(300):
        submit(to=f"reader{n}@example.com")
    wait_until(lambda: EmailRequest.objects.filter(state="sent").count() == 300, "not all were sent")
    assert len(relay.received) == 300
    assert Event.objects.filter(kind="claimed").values("detail").distinct().count() == 2


# Redis


def test_an_emptied_redis_loses_no_mail(start, relay, submit):
    lost = [submit() for _ in range(5)]
    empty_queues()
    start("rqworker", EMAIL_URL=relay.url)
    for email in lost:
        wait_for_state(email, "sent")
    assert len(relay.received) == 5


def test_a_job_that_rings_twice_sends_once(worker, relay, submit):
    email = submit()
    wait_until(lambda: result_of(email).startswith("Sent"), "the job did not end")
    doorbell.ring([email.job()])
    wait_until(lambda: "Nothing to do: the message is sent" in result_of(email), result_of(email))
    assert len(relay.received) == 1


def result_of(email) -> str:
    job = doorbell.queue("default").fetch_job(str(email.pk))
    return str(job and job.return_value())


def test_a_job_with_an_unknown_id_ends_with_a_sentence(worker, submit):
    email = submit()
    wait_until(lambda: result_of(email).startswith("Sent"), "the job did not end")
    EmailRequest.objects.filter(pk=email.pk).delete()
    doorbell.ring([email.job()])
    wait_until(lambda: "nothing to do" in result_of(email), result_of(email))


def test_a_worker_that_stood_still_for_a_whole_lease_makes_no_second_copy(start, relay, submit):
    goes_on = threading.Event()
    relay.script["MAIL"] = [("250-one moment", lambda connection: goes_on.wait(60), "250 2.1.0 ok")]
    frozen = start("rqworker", EMAIL_URL=relay.url, LEASE="5")
    email = submit(on_unknown="resend")
    wait_until(lambda: any(line.startswith("MAIL") for line in relay.lines), "nothing came")
    os.kill(frozen.popen.pid, signal.SIGSTOP)
    start("rqworker", EMAIL_URL=relay.url, LEASE="5")
    wait_until(lambda: EmailRequest.objects.get(pk=email.pk).state == "sent", "the other did not send it")
    last = Worker.objects.get(pid=frozen.popen.pid).heartbeat_at
    os.kill(frozen.popen.pid, signal.SIGCONT)
    wait_until(Worker.objects.filter(pid=frozen.popen.pid, heartbeat_at__gt=last).exists, "the first did not wake up")
    goes_on.set()
    wait_until(Event.objects.filter(kind="late").exists, "the first did not end its transmission")
    assert len(relay.received) == 1


@pytest.mark.parametrize("what", ["Engine._next", "Engine._commit"])
def test_a_worker_that_has_lost_a_thread_ends_and_another_takes_its_mail(what, start, relay, submit):
    email = submit()
    lame = f"from emails.engine import Engine; {what} = lambda *a, **k: 1 / 0"
    run = "from django.core.management import call_command; call_command('rqworker')"
    process = start("shell", "--no-imports", "--command", f"{lame}; {run}", EMAIL_URL=relay.url, LEASE="5")
    process.wait_for("failed: this worker ends.")
    assert process.popen.wait(20) == 1
    start("rqworker", EMAIL_URL=relay.url, LEASE="5")
    wait_until(lambda: EmailRequest.objects.get(pk=email.pk).state == "sent", "it was not sent")


def test_without_redis_at_its_start_the_worker_waits_and_says_how_to_get_one(start, relay):
    process = start("rqworker", EMAIL_URL=relay.url, REDIS_URL="redis://127.0.0.1:1")
    process.wait_for("Start one with `make services`, or set REDIS_URL")
    assert process.stop() is not None


def test_without_redis_in_the_middle_mail_goes_on_and_the_worker_comes_back(start, relay, submit, tmp_path):
    folder = tmp_path / "valkey"
    valkey = start_valkey(folder)
    url = f"unix://{folder / 'valkey.sock'}"
    process = start("rqworker", EMAIL_URL=relay.url, REDIS_URL=url)
    process.wait_for("Listening on")
    valkey.kill()
    valkey.wait()
    email = submit()  # rings elsewhere: for this worker no doorbell ever sounds
    empty_queues()
    wait_for_state(email, "sent")
    assert "Redis can't be reached" in process.text()
    (folder / "valkey.sock").unlink(missing_ok=True)
    valkey = start_valkey(folder)
    try:
        process.wait_for("Redis can be reached again")
    finally:
        process.stop()
        valkey.kill()
        valkey.wait()


def test_rqsuspend_holds_all_delivery_and_rqresume_lets_it_go(start, worker, relay, submit):
    start("rqsuspend").popen.wait()
    worker.wait_for("suspended by `rqsuspend`")
    email = submit()
    worker.wait_for("suspended")
    assert state(email) == "queued"
    start("rqresume").popen.wait()
    wait_for_state(email, "sent")


def test_nothing_that_is_accepted_after_rqsuspend_is_let_out_by_a_worker_that_waits_for_mail(start, relay, submit):
    seldom = "from emails import worker; worker.WAIT = 3"  # seconds that a pop waits, and between two looks
    run = "from django.core.management import call_command; call_command('rqworker')"
    process = start("shell", "--no-imports", "--command", f"{seldom}; {run}", EMAIL_URL=relay.url)
    wait_for_state(submit(), "sent")
    redis = doorbell.queue("default").connection
    suspend(redis)
    emails = [submit(), submit()]
    process.wait_for("suspended by `rqsuspend`")
    assert [timeline(email) for email in emails] == [["Accepted and queued a test; queue default"]] * 2
    assert doorbell.queue("default").job_ids == [str(email.pk) for email in emails]
    resume(redis)
    for email in emails:
        wait_for_state(email, "sent")


# The relay


@pytest.mark.parametrize("senders", ["1", "16"])
def test_a_relay_that_is_down_pauses_mail_and_when_it_returns_mail_flows(start, submit, senders):
    relay = sinks.Relay()
    relay.close()
    process = start("rqworker", EMAIL_URL=relay.url, SENDERS=senders)
    emails = [submit(to=f"reader{n}@example.com") for n in range(30)]
    wait_until(Hold.objects.filter(target="trouble").exists, "no trouble was noted")
    assert "refused" in Hold.objects.get().reason
    back = sinks.Relay(port=relay.port)
    for email in emails:
        wait_for_state(email, "sent")
    assert EmailRequest.objects.filter(attempts=1).count() == 30  # the one that went through
    assert not Hold.objects.exists()
    process.wait_for("can be used again")
    back.close()


def test_a_relay_that_dies_of_every_mail_makes_few_of_them_uncertain(start, relay, submit):
    """It greets and takes each mail, and hangs up without a word after the last byte."""
    relay.always["dot"] = "drop"
    emails = [submit(to=f"reader{n}@example.com") for n in range(60)]
    process = start("rqworker", EMAIL_URL=relay.url, SENDERS="2")
    wait_until(Hold.objects.filter(target="trouble", failures=3).exists, "it was not tried again and again")
    assert Hold.objects.get().reason == "the relay closed the connection (after the final dot)"
    relay.always.clear()
    uncertain = EmailRequest.objects.filter(state="unknown").count()
    assert 5 <= uncertain <= 20
    wait_until(lambda: EmailRequest.objects.filter(state="sent").count() >= 60 - uncertain, "the rest was not sent")
    assert not Hold.objects.exists()
    process.wait_for("can be used again")
    assert EmailRequest.objects.filter(state__in=("sent", "unknown")).count() == len(emails)


@pytest.mark.parametrize("stage, reply", [("greeting", "554 go away"), ("EHLO", "drop"), ("greeting", "garbage")])
def test_a_relay_that_does_not_let_us_in_costs_no_mail_an_attempt(start, relay, submit, stage, reply):
    relay.always[stage] = reply
    start("rqworker", EMAIL_URL=relay.url)
    email = submit()
    wait_until(Hold.objects.filter(target="trouble").exists, "no trouble was noted")
    assert EmailRequest.objects.get(pk=email.pk).attempts == 0
    relay.always.clear()
    wait_for_state(email, "sent")


def test_a_password_that_the_relay_repeats_is_seen_nowhere(start, relay, submit, api, admin_user, settings):
    relay.login, relay.always["AUTH"] = ("user", "s3cr3t-pass"), "535 no: user s3cr3t-pass"
    worker = start("rqworker", EMAIL_URL=f"smtp://user:s3cr3t-pass@{relay.host}:{relay.port}")
    email = submit()
    worker.wait_for("535 no: user")
    wait_until(Hold.objects.filter(target="trouble").exists, "no trouble was noted")
    told = api.get(f"/emails/{email.pk}").text
    api.force_login(admin_user)
    shown = api.get("/messages").text
    for text in (Hold.objects.get().reason, worker.text(), told, shown):
        assert "535 no: user" in text and "s3cr3t" not in text


def test_one_mail_that_breaks_the_connection_does_not_stop_the_others(start, relay, submit):
    poison = submit(to="poison@example.com", subject="poison")
    relay.always["RCPT poison@example.com"] = "drop"
    others = [submit(to=f"reader{n}@example.com") for n in range(20)]
    start("rqworker", EMAIL_URL=relay.url)
    for email in others:
        wait_for_state(email, "sent")
    wait_for_state(poison, "deferred")


def test_a_relay_that_takes_few_connections_still_gets_all_mail(start, relay, submit):
    relay.most_connections = 2
    emails = [submit(to=f"reader{n}@example.com") for n in range(60)]
    start("rqworker", EMAIL_URL=relay.url)
    for email in emails:
        wait_for_state(email, "sent")
    assert len(relay.received) == 60


def test_a_relay_that_closes_after_a_handful_of_messages_costs_nothing(start, relay, submit):
    relay.messages_per_connection = 3
    emails = [submit(to=f"reader{n}@example.com") for n in range(30)]
    start("rqworker", EMAIL_URL=relay.url, SENDERS="2")
    for email in emails:
        wait_for_state(email, "sent")
    assert EmailRequest.objects.filter(attempts=1).count() == 30
    assert len(relay.received) == 30


def test_a_connection_is_closed_after_the_number_of_messages_that_the_operator_allows(start, relay, submit):
    emails = [submit(to=f"reader{n}@example.com") for n in range(10)]
    start("rqworker", EMAIL_URL=relay.url, SENDERS="1", MESSAGES_PER_CONNECTION="3")
    for email in emails:
        wait_for_state(email, "sent")
    assert relay.connections == 4
    assert relay.lines.count("QUIT") >= 3


def test_while_urgent_mail_fills_a_worker_the_lower_queues_still_get_their_tenth_of_what_it_takes(start, relay, submit):
    for n in range(1000):
        submit(to=f"urgent{n}@example.com", priority=0)
    low = [submit(to=f"low{n}@example.com", priority=2).pk for n in range(200)]
    start("rqworker", EMAIL_URL=relay.url)
    wait_until(lambda: len(relay.received) == 1200, "not all was sent", 90)
    last_urgent = Event.objects.filter(kind="claimed").exclude(email__in=low).latest("pk")
    assert Event.objects.filter(kind="claimed", email__in=low, pk__lt=last_urgent.pk).count() >= 50


def test_mail_whose_jobs_were_lost_goes_out_though_new_mail_keeps_coming(start, relay, submit):
    lost = [submit(to=f"old{n}@example.com").pk for n in range(400)]
    empty_queues()
    EmailRequest.objects.update(due_at=F("due_at") - timedelta(minutes=1))
    start("rqworker", EMAIL_URL=relay.url)

    def all_found() -> bool:
        submit(to="new@example.com")
        return EmailRequest.objects.filter(pk__in=lost, state="sent").count() == len(lost)

    wait_until(all_found, "what was lost was left to wait", 30)


def test_a_worker_that_waits_for_its_turn_can_be_stopped(start, relay, submit):
    emails = [submit(to=f"reader{n}@example.com") for n in range(3)]
    process = start("rqworker", EMAIL_URL=relay.url, RELAY_RATE="0.01", GRACE="600")
    wait_until(lambda: EmailRequest.objects.filter(state="sent").count() == 1, "the first was not sent")
    wait_until(lambda: EmailRequest.objects.filter(state="claimed").count() == 2, "the others were not claimed")
    assert process.stop() == 0
    assert sorted(EmailRequest.objects.get(pk=email.pk).state for email in emails) == ["queued", "queued", "sent"]


def test_a_message_that_waits_for_its_turn_hears_of_a_pause(start, relay, submit):
    for n in range(3):
        submit(to=f"reader{n}@example.com")
    start("rqworker", EMAIL_URL=relay.url, RELAY_RATE="0.1")
    wait_until(lambda: EmailRequest.objects.filter(state="sent").count() == 1, "the first was not sent")
    Hold.objects.create(target="relay", reason="enough", by="moss")
    wait_until(lambda: EmailRequest.objects.filter(state="queued").count() == 2, "what waits was not given back")
    assert len(relay.received) == 1


def test_a_limit_of_messages_a_second_holds_for_all_workers_together(start, relay, submit):
    emails = [submit(to=f"reader{n}@example.com") for n in range(4)]
    for _ in range(2):
        start("rqworker", EMAIL_URL=relay.url, RELAY_RATE="0.01")  # the second message's turn is 100 s later
    wait_until(lambda: EmailRequest.objects.filter(state="sent").count() == 1, "the first was not sent")
    wait_until(lambda: EmailRequest.objects.filter(state="claimed").count() == 3, "the others were not claimed")
    assert len(relay.received) == 1
    assert EmailRequest.objects.filter(state="sent").count() < len(emails)


def test_greylisting_is_waited_out_for_those_still_waiting(start, relay, submit):
    relay.script["RCPT grey@example.com"] = ["451 4.7.1 greylisted"]
    start("rqworker", EMAIL_URL=relay.url, RETRY_SCHEDULE="1")
    email = submit(to=["grey@example.com", "open@example.com"])
    wait_for_state(email, "sent")
    assert sorted(received.recipients for received in relay.received) == [["grey@example.com"], ["open@example.com"]]
    assert any("451 4.7.1 greylisted" in line for line in timeline(email))


def test_more_recipients_than_the_relay_takes_follow_in_the_next_transaction(worker, relay, submit):
    relay.script["RCPT b@example.com"] = ["452 4.5.3 too many recipients"]
    email = submit(to=["a@example.com", "b@example.com"])
    wait_for_state(email, "sent")
    assert [received.recipients for received in relay.received] == [["a@example.com"], ["b@example.com"]]


# Stopping and dying


def test_a_worker_that_is_stopped_gives_back_its_mail_at_once(start, worker, relay, submit):
    slow = submit(delay=60)
    worker.wait_for("Starting to send")
    assert worker.stop() == 0
    assert state(slow) == "queued"
    assert Worker.objects.get().stopped_at
    assert any("the worker is stopping" in line for line in timeline(slow))


def test_a_worker_that_waits_for_the_database_can_be_told_to_stop(start, relay):
    process = start("rqworker", EMAIL_URL=relay.url, DATABASE_URL="postgres://nobody@127.0.0.1:1/nothing")
    process.wait_for("The database can't be used yet")
    assert process.stop() == 0


def test_a_worker_waits_for_a_database_that_hangs_up(caplog):
    worker = MailWorker([doorbell.queue("default")])

    def hangs_up(execute, sql, params, many, context):
        worker._stop_requested = True
        raise InterfaceError("connection already closed")

    with connection.execute_wrapper(hangs_up):
        assert worker._enrol() is None
    assert "The database can't be used yet (connection already closed): waiting for it." in caplog.text


def test_what_is_on_the_wire_at_a_stop_gets_its_grace_and_then_is_uncertain(start, relay, submit):
    relay.always["dot"] = "silence"
    process = start("rqworker", EMAIL_URL=relay.url, GRACE="1")
    email = submit(on_unknown="hold")
    wait_for_state(email, "transmitting")
    process.stop()
    assert state(email) == "unknown"
    assert any("stopped during the transmission" in line for line in timeline(email))


def test_a_second_signal_ends_the_worker_at_once(start, relay, submit):
    relay.always["dot"] = "silence"
    process = start("rqworker", EMAIL_URL=relay.url)
    email = submit()
    wait_for_state(email, "transmitting")
    process.popen.send_signal(signal.SIGINT)
    process.wait_for("warm shut down")
    wait_until(lambda: process.popen.send_signal(signal.SIGINT) or process.popen.poll() is not None, "it did not end")
    assert state(email) == "transmitting"  # the lease will tell


def test_a_killed_workers_mail_is_sent_by_another_within_the_lease(start, relay, submit):
    environment = {"EMAIL_URL": relay.url, "LEASE": "3"}
    relay.always["dot"] = "silence"
    victim = start("rqworker", SENDERS="1", **environment)
    marked = submit(to="marked@example.com")
    wait_for_state(marked, "transmitting")
    claimed = submit(to="claimed@example.com")
    wait_for_state(claimed, "claimed")
    victim.stop(signal.SIGKILL)
    del relay.always["dot"]
    start("rqworker", **environment)
    wait_for_state(claimed, "sent")
    wait_for_state(marked, "sent")
    assert [event.kind for event in marked.events.all()] == ["accepted", "claimed", "unknown", "claimed", "sent"]
    assert [event.kind for event in claimed.events.all()] == ["accepted", "claimed", "released", "claimed", "sent"]


@contextmanager
def database_locked(seconds: float) -> Iterator[None]:
    """For all that want to write: for so long, and for as long as the body takes then."""
    with transaction.atomic():  # on SQLite that is the lock
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("LOCK TABLE emails_worker IN EXCLUSIVE MODE")
        end = time.monotonic() + seconds
        wait_until(lambda: time.monotonic() > end, "time stands still")
        yield


def test_a_lock_of_a_whole_lease_sends_mail_back_to_the_queue_and_blames_no_relay(start, relay, submit):
    go_on, has_ended = threading.Event(), threading.Event()

    def read_to_the_end(connection: socket.socket) -> None:
        while connection.recv(65536):
            pass
        has_ended.set()

    relay.script["greeting"] = [(lambda _: go_on.wait(20), "220 welcome")]
    relay.script["block"] = [read_to_the_end]
    email = submit()
    start("rqworker", EMAIL_URL=relay.url, LEASE="2")
    wait_for_state(email, "transmitting")
    with database_locked(2.1):
        go_on.set()
        assert has_ended.wait(20)
    wait_for_state(email, "sent")
    assert len(relay.received) == 1
    assert [event.kind for event in email.events.all()] == ["accepted", "claimed", "released", "claimed", "sent"]
    assert EmailRequest.objects.get(pk=email.pk).attempts == 1


def test_mail_that_is_claimed_as_a_long_lock_ends_goes_out_at_once(start, relay, submit):
    quickly = "from emails import engine; engine.POLL = 0.2"
    run = "from django.core.management import call_command; call_command('rqworker')"
    start("shell", "--no-imports", "--command", f"{quickly}; {run}", EMAIL_URL=relay.url, LEASE="2")
    wait_until(Worker.alive().exists, "the worker did not report")
    with database_locked(2.5):
        email = submit()
        EmailRequest.objects.update(due_at=F("due_at") - timedelta(minutes=1))
    wait_for_state(email, "sent")
    assert [event.kind for event in email.events.all()] == ["accepted", "claimed", "sent"]


def test_a_paused_queue_waits_and_the_others_go_on(worker, relay, submit):
    Hold.objects.create(target="default", reason="freeze", by="admin")
    held, other = submit(), submit(priority=0)
    wait_for_state(other, "sent")
    assert state(held) == "queued"
    Hold.objects.all().delete()
    wait_for_state(held, "sent")
