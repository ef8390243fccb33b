"""The playground's slow email, as a person sees it in the worker's terminal; and whatever else a worker may meet.

All with real worker processes.
"""

import math
import signal

import pytest
from rq.job import Job, JobStatus
from rq.results import Result

from emails import doorbell
from emails.models import EmailRequest
from tests.environment import wait_until

pytestmark = pytest.mark.django_db(transaction=True)

STARTING = "Starting to send email to moss@example.com..."
SENT = "Email sent to moss@example.com!"


def fetch(id) -> Job:
    return Job.fetch(str(id), doorbell.queue("default").connection)


def state(email: EmailRequest) -> str:
    return EmailRequest.objects.get(pk=email.pk).state


def arrived(relay) -> list[str]:
    return [recipient for received in list(relay.received) for recipient in received.recipients]


@pytest.mark.stores
def test_a_slow_email_is_told_of_in_the_terminal_and_in_the_jobs_result(worker, submit, relay):
    email = submit(delay=1)
    worker.wait_for(STARTING)
    assert SENT not in worker.text()
    assert fetch(email.pk).get_status() == JobStatus.STARTED
    assert relay.received == []

    worker.wait_for(SENT)
    assert arrived(relay) == ["moss@example.com"]
    wait_until(lambda: fetch(email.pk).is_finished, "the job did not end")
    assert fetch(email.pk).return_value() == "Task complete: Email sent to moss@example.com"
    assert worker.text().index(STARTING) < worker.text().index(SENT)
    assert worker.text().count(STARTING) == worker.text().count(SENT) == 1


def test_the_link_of_the_origin_names_the_job(worker, client):
    answer = client.get("/send-email/moss@example.com")
    assert answer.json()["message"] == "Email sending task has been queued."
    worker.wait_for(SENT)
    id = answer.json()["job_id"]
    wait_until(lambda: fetch(id).is_finished, "the job did not end")
    assert fetch(id).return_value() == "Task complete: Email sent to moss@example.com"


def test_slow_emails_hold_up_nobody(worker, submit, relay):
    """More of them than the worker has senders, and the fast one goes first all the same."""
    slow = [submit(delay=3) for _ in range(20)]
    wait_until(lambda: worker.text().count(STARTING) == 20, "the slow ones were not begun")
    fast = submit(to="jen@example.com")
    wait_until(lambda: state(fast) == "sent", "the fast one did not arrive")
    assert arrived(relay) == ["jen@example.com"]
    wait_until(lambda: all(state(email) == "sent" for email in slow), "the slow ones did not arrive")
    assert len(relay.received) == 21


def test_a_burst_ends_by_itself_when_all_is_sent(start, submit, relay):
    emails = [submit() for _ in range(20)] + [submit(delay=0.5)]
    worker = start("rqworker", "default", "--burst", EMAIL_URL=relay.url)
    assert worker.popen.wait(60) == 0, worker.text()
    assert [state(email) for email in emails] == ["sent"] * 21
    assert len(relay.received) == 21


def test_a_pool_of_workers_delivers(start, submit, relay):
    emails = [submit(priority=number % 3) for number in range(30)]
    pool = start("rqworker-pool", "--num-workers", "2", EMAIL_URL=relay.url)
    try:
        wait_until(lambda: all(state(email) == "sent" for email in emails), "not all arrived")
    finally:
        ended = pool.stop()  # its workers end with it, whatever else happened here
    assert ended == 0, pool.text()
    assert len(relay.received) == 30


def test_other_apps_jobs_run_as_rq_would_run_them(worker, submit):
    queue = doorbell.queue("default")
    good = queue.enqueue(math.factorial, 5, result_ttl=60)
    bad = queue.enqueue(math.factorial, -1)
    named = queue.enqueue(math.factorial, 3, job_id="01a21213-9894-765b-9962-ee0574db74df")  # as our own are
    email = submit()
    wait_until(lambda: good.is_finished and named.is_finished and bad.is_failed, worker.text())
    assert good.return_value() == 120
    assert named.return_value() == 6
    assert "ValueError: factorial() not defined for negative values" in Result.fetch_latest(bad).exc_string
    assert bad.id in queue.failed_job_registry.get_job_ids()
    assert good.id in queue.finished_job_registry.get_job_ids()
    wait_until(lambda: state(email) == "sent", "our own mail did not arrive beside them")


def test_a_slow_email_that_is_stopped_goes_to_the_next_worker(start, worker, submit, relay):
    email = submit(delay=2)
    worker.wait_for(STARTING)
    assert worker.stop(signal.SIGTERM) == 0
    assert state(email) == "queued"
    assert [event.kind for event in email.events.all()] == ["accepted", "claimed", "released"]
    assert relay.received == []
    assert SENT not in worker.text()

    second = start("rqworker", EMAIL_URL=relay.url)
    second.wait_for(SENT)
    wait_until(lambda: state(email) == "sent", "it was not noted as sent")
    assert arrived(relay) == ["moss@example.com"]


def test_a_slow_email_whose_worker_was_killed_is_sent_by_another_after_the_lease(start, submit, relay):
    killed = start("rqworker", EMAIL_URL=relay.url, LEASE="2")
    email = submit(delay=2)
    killed.wait_for(STARTING)
    killed.stop(signal.SIGKILL)
    assert relay.received == []

    other = start("rqworker", EMAIL_URL=relay.url, LEASE="2")
    other.wait_for(SENT)
    wait_until(lambda: state(email) == "sent", "it was not noted as sent")
    assert arrived(relay) == ["moss@example.com"]
    assert [event.kind for event in email.events.all()] == ["accepted", "claimed", "released", "claimed", "sent"]
