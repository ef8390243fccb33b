"""What we write into Redis in our own way, held against RQ's own readers: the dashboard shows the truth."""

import logging
import socket
from itertools import count
from uuid import uuid4

import django_rq
import pytest
from django_rq.utils import get_statistics
from rq.executions import Execution, ExecutionRegistry
from rq.job import Job as RQJob
from rq.job import JobStatus
from rq.registry import FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry
from rq.results import Result
from rq.worker import Worker as RQWorker
from rq.worker import WorkerStatus

from emails import doorbell, engine
from emails.doorbell import FAILURE_TTL, QUEUES, STARTED_TTL, Job, Ledger, Popped, Settled
from emails.drafts import Draft
from emails.models import EmailRequest
from emails.worker import MailWorker

numbers = count()


def rung(queue="default", keep=10, times=1) -> list[Job]:
    """Rings for `times` messages; returns their jobs in the order of the bell."""
    jobs = [Job(uuid4().hex, queue, f"Email to moss@example.com: {next(numbers)}", keep) for _ in range(times)]
    doorbell.ring(jobs)
    return jobs


def connection():
    return doorbell.queue("default").connection


def fetch(job: Job | Popped) -> RQJob:
    return RQJob.fetch(job.id, connection())


def exists(job: Job | Popped) -> bool:
    return RQJob.exists(job.id, connection())


def registry(kind, queue="default") -> list[str]:
    return kind(queue, connection()).get_job_ids()


def statistics(queue="default") -> dict:
    return next(line for line in get_statistics()["queues"] if line["name"] == queue)


@pytest.fixture
def ledger() -> Ledger:
    worker = MailWorker([doorbell.queue(name) for name in QUEUES])
    worker.register_birth()
    return Ledger(worker)


def started(ledger: Ledger, queue="default", keep=10) -> Popped:
    rung(queue, keep)
    [popped] = ledger.pop(1, timeout=1)
    ledger.start([popped])
    return popped


# Ringing


def test_a_rung_job_is_one_of_rqs_own():
    [job] = rung(keep=500)
    known = fetch(job)
    assert known.get_status() == JobStatus.QUEUED
    assert known.description == job.description
    assert known.func_name == "emails.engine.deliver"
    assert known.func is engine.deliver
    assert known.args == (job.id,)
    assert known.origin == "default"
    assert (known.result_ttl, known.failure_ttl) == (500, FAILURE_TTL)
    assert known.enqueued_at
    assert doorbell.queue("default").job_ids == [job.id]
    assert statistics()["jobs"] == 1
    assert {queue.name for queue in django_rq.get_queue().all(connection())} == {"default"}


def test_each_job_stands_in_its_own_queue_in_the_order_of_the_bell():
    jobs = {name: rung(name, times=3) for name in QUEUES}
    for name in QUEUES:
        assert doorbell.queue(name).job_ids == [job.id for job in jobs[name]]


@pytest.mark.django_db(transaction=True)
def test_the_dashboard_reads_email_to_whom_about_what(submit):
    one = submit(to="moss@example.com", subject="Your order")
    three = submit(to=["Moss <moss@example.com>", "jen@example.com", "roy@example.com"], subject="News", priority=2)
    assert fetch(one.job()).description == "Email to moss@example.com: Your order"
    assert fetch(three.job()).description == "Email to Moss <moss@example.com> and 2 more: News"
    assert doorbell.queue("low").job_ids == [str(three.pk)]


@pytest.mark.django_db(transaction=True)
def test_a_mail_is_accepted_when_redis_is_away(settings, caplog):
    """The bell is no copy of the message: the overdue poll finds what was not rung for."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        closed = probe.getsockname()[1]
    away = {name: {"URL": f"redis://127.0.0.1:{closed}"} for name in QUEUES}
    settings.RQ_QUEUES = away
    doorbell.queue.cache_clear()
    try:
        draft = Draft.clean({"from": "a@example.com", "to": "b@example.com", "subject": "x", "text": "x"})
        [email] = EmailRequest.objects.submit([draft], origin="a test")
        with_no_jobs = doorbell.ring([])
    finally:
        del settings.RQ_QUEUES
        doorbell.queue.cache_clear()
    assert with_no_jobs is None
    assert EmailRequest.objects.get(pk=email.pk).state == "queued"
    assert "waits for the overdue poll" in caplog.text


@pytest.fixture
def silent_redis(settings, monkeypatch):
    """A Redis that takes connections and says nothing."""
    monkeypatch.setattr(doorbell, "_silent_until", 0.0)
    doorbell.queue.cache_clear()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}?socket_timeout=0.2"
        settings.RQ_QUEUES = {name: {"URL": url} for name in QUEUES}
        yield
    doorbell.queue.cache_clear()


def test_a_redis_that_does_not_answer_is_left_alone_for_a_while(silent_redis, monkeypatch, caplog):
    for _ in range(3):
        rung()
    assert caplog.text.count("Redis can't be reached (Timeout") == 1
    monkeypatch.setattr(doorbell, "_silent_until", 0.0)
    rung()
    assert caplog.text.count("Redis can't be reached (Timeout") == 2


# Taking


def test_the_most_urgent_go_first(ledger):
    low, default, high = rung("low"), rung("default"), rung("high")
    popped = ledger.pop(10, timeout=0)
    assert popped == [Popped(job.id, job.queue) for job in [*high, *default, *low]]
    assert ledger.pop(10, timeout=0) == []


def test_within_a_queue_the_first_come_first(ledger):
    jobs = rung(times=5)
    assert [popped.id for popped in ledger.pop(100, timeout=0)] == [job.id for job in jobs]


def test_each_waiting_lower_queue_gets_a_tenth(ledger):
    for name in QUEUES:
        rung(name, times=100)
    popped = [job.queue for job in ledger.pop(50, timeout=0)]
    assert {name: popped.count(name) for name in QUEUES} == {"high": 40, "default": 5, "low": 5}


def test_what_a_queue_does_not_use_goes_to_the_others(ledger):
    rung("high", times=3)
    rung("low", times=100)
    popped = [job.queue for job in ledger.pop(50, timeout=0)]
    assert {name: popped.count(name) for name in QUEUES} == {"high": 3, "default": 0, "low": 47}


def test_no_more_than_there_is_room_for(ledger):
    for name in QUEUES:
        rung(name, times=10)
    for limit in (1, 2, 3, 10):
        assert len(ledger.pop(limit, timeout=0)) == limit


def test_in_the_long_run_a_lower_queue_gets_its_tenth_however_small_the_room(ledger):
    """A busy worker takes one at a time; what is low must arrive all the same, but not before its turn."""
    for limit in (1, 2, 3):
        for name in QUEUES:
            rung(name, times=100)
        popped = [job.queue for _ in range(60 // limit) for job in ledger.pop(limit, timeout=0)]
        assert popped.count("default") in range(4, 12), (limit, popped)
        assert popped.count("low") in range(4, 12), (limit, popped)


def test_a_queue_that_is_paused_is_left_alone(ledger):
    [held] = rung("high")
    [free] = rung("low")
    assert [job.id for job in ledger.pop(10, timeout=0, without=["high", "default"])] == [free.id]
    assert ledger.pop(10, timeout=0.01, without=QUEUES) == []
    assert doorbell.queue("high").job_ids == [held.id]


def test_an_empty_queue_is_waited_at(ledger):
    assert ledger.pop(10, timeout=0.01) == []
    [job] = rung("low")
    assert ledger.pop(10, timeout=5) == [Popped(job.id, "low")]


def test_only_the_named_queues_are_served():
    rung("high")
    [job] = rung("low")
    ledger = Ledger(MailWorker([doorbell.queue("low")]))
    assert ledger.pop(10, timeout=0) == [Popped(job.id, "low")]


# Working


def test_a_started_job_stands_in_all_of_rqs_books(ledger):
    job = started(ledger)
    known = fetch(job)
    assert known.get_status() == JobStatus.STARTED
    assert known.is_started
    assert known.worker_name == ledger.worker.name
    assert known.started_at and known.last_heartbeat
    assert registry(StartedJobRegistry) == [job.id]
    assert statistics()["started_jobs"] == 1
    assert statistics()["jobs"] == 0

    [worker] = RQWorker.all(connection())
    assert worker.name == ledger.worker.name
    assert worker.get_state() == WorkerStatus.BUSY
    assert worker.get_current_job_id() == job.id
    assert [name for name in worker.queue_names()] == list(QUEUES)

    [execution] = ExecutionRegistry(job.id, connection()).get_executions()
    assert execution.job_id == job.id
    assert Execution.fetch(execution.id, job.id, connection()).worker_name == worker.name
    assert [running.job_id for running in worker.get_current_executions()] == [job.id]
    assert [running.id for running in known.get_executions()] == [execution.id]


def test_many_jobs_run_at_once(ledger):
    rung(times=5)
    popped = ledger.pop(100, timeout=0)
    ledger.start(popped)
    [worker] = RQWorker.all(connection())
    assert {running.job_id for running in worker.get_current_executions()} == {job.id for job in popped}
    ledger.settle([Settled(popped[0].id, "Sent")])
    assert worker.get_state() == WorkerStatus.BUSY
    ledger.settle([Settled(job.id, "Sent") for job in popped[1:]])
    [worker] = RQWorker.all(connection())
    assert worker.get_state() == WorkerStatus.IDLE
    assert worker.get_current_job_id() is None


def test_looking_at_the_started_jobs_does_not_fail_those_that_live(ledger):
    """RQ's page of started jobs first fails those whose heartbeat is missing."""
    job = started(ledger)
    StartedJobRegistry("default", connection()).cleanup()
    assert fetch(job).is_started
    get_statistics(run_maintenance_tasks=True)
    assert fetch(job).is_started
    assert registry(FailedJobRegistry) == []


def test_a_beat_keeps_started_jobs_and_the_worker_believed(ledger):
    job = started(ledger)
    key = StartedJobRegistry("default", connection()).key
    [(member, _)] = connection().zrange(key, 0, -1, withscores=True)
    connection().zadd(key, {member: 1})  # long ago, so that the next look would fail it
    [execution] = ExecutionRegistry(job.id, connection()).get_executions()
    connection().expire(execution.key, 1)
    connection().expire(ledger.worker.key, 1)

    ledger.beat()
    StartedJobRegistry("default", connection()).cleanup()
    assert fetch(job).is_started
    assert connection().ttl(execution.key) > STARTED_TTL - 10
    assert connection().ttl(ledger.worker.key) > 60
    assert connection().ttl(ledger.worker.executions_key) > 0


def test_a_dead_workers_started_jobs_are_failed_by_rq(ledger):
    job = started(ledger)
    key = StartedJobRegistry("default", connection()).key
    [(member, _)] = connection().zrange(key, 0, -1, withscores=True)
    connection().zadd(key, {member: 1})
    StartedJobRegistry("default", connection()).cleanup()
    assert fetch(job).is_failed


# Ending


def test_a_settled_job_is_finished_with_its_words_as_result(ledger):
    job = started(ledger, keep=500)
    ledger.settle([Settled(job.id, "Task complete: Email sent to moss@example.com", keep=500)])

    known = fetch(job)
    assert known.get_status() == JobStatus.FINISHED
    assert known.started_at <= known.ended_at
    assert known.return_value() == "Task complete: Email sent to moss@example.com"
    result = Result.fetch_latest(known)
    assert result.type == Result.Type.SUCCESSFUL
    assert result.return_value == "Task complete: Email sent to moss@example.com"
    assert registry(FinishedJobRegistry) == [job.id]
    assert registry(StartedJobRegistry) == []
    assert known.get_executions() == []
    assert 490 < connection().ttl(RQJob.key_for(job.id)) <= 500
    line = statistics()
    assert (line["started_jobs"], line["finished_jobs"], line["failed_jobs"]) == (0, 1, 0)

    [worker] = RQWorker.all(connection())
    assert worker.get_state() == WorkerStatus.IDLE
    assert (worker.successful_job_count, worker.failed_job_count) == (1, 0)
    assert worker.get_current_executions() == []


def test_a_failed_job_says_why(ledger):
    job = started(ledger, queue="high")
    ledger.settle([Settled(job.id, "Failed: the message can't be built", failed=True)])
    known = fetch(job)
    assert known.get_status() == JobStatus.FAILED
    assert Result.fetch_latest(known).type == Result.Type.FAILED
    assert Result.fetch_latest(known).exc_string == "Failed: the message can't be built"
    assert registry(FailedJobRegistry, "high") == [job.id]
    assert connection().ttl(RQJob.key_for(job.id)) > FAILURE_TTL - 10
    [worker] = RQWorker.all(connection())
    assert (worker.successful_job_count, worker.failed_job_count) == (0, 1)


def test_results_that_have_expired_leave_the_list(ledger):
    job = started(ledger)
    ledger.settle([Settled(job.id, "Sent", keep=1)])
    connection().zadd(FinishedJobRegistry("default", connection()).key, {job.id: 1})
    ledger.beat()
    assert connection().zcard(FinishedJobRegistry("default", connection()).key) == 0


def test_a_finished_job_leaves_nothing_but_its_result(ledger):
    """A million mails must not fill Redis: what is left expires."""
    before = set(connection().keys("rq:*"))
    job = started(ledger)
    ledger.settle([Settled(job.id, "Sent")])
    lasting = {key for key in set(connection().keys("rq:*")) - before if connection().ttl(key) == -1}
    assert lasting <= {b"rq:queues", b"rq:finished:default"}


def test_a_message_that_the_poll_found_has_no_job_to_settle(ledger):
    ledger.settle([Settled(uuid4().hex, "Sent")])
    assert registry(FinishedJobRegistry) == []
    assert statistics()["finished_jobs"] == 0


def test_a_job_may_be_settled_once(ledger):
    job = started(ledger)
    ledger.settle([Settled(job.id, "Sent"), Settled(job.id, "Sent again")])
    assert fetch(job).return_value() == "Sent"


def test_a_job_that_was_deleted_before_its_start_stays_deleted(ledger):
    rung(times=2)
    deleted, other = ledger.pop(100, timeout=0)
    fetch(deleted).delete()
    ledger.start([deleted, other])
    assert not exists(deleted)
    assert registry(StartedJobRegistry) == [other.id]
    ledger.settle([Settled(deleted.id, "Sent")])
    assert not exists(deleted)


def test_a_job_that_was_deleted_while_it_ran_stays_deleted(ledger):
    """Whoever deletes a job on the dashboard doesn't meet half of it again: RQ can't even read that."""
    job = started(ledger)
    fetch(job).delete()
    ledger.beat()
    ledger.settle([Settled(job.id, "Sent")])
    assert not exists(job)
    assert registry(StartedJobRegistry) == registry(FinishedJobRegistry) == []


def test_a_job_that_is_not_ours_leaves_the_books(ledger):
    job = started(ledger)
    assert ledger.forget(job.id) == job
    assert ledger.forget(job.id) is None
    assert registry(StartedJobRegistry) == []
    assert fetch(job).get_executions() == []
    [worker] = RQWorker.all(connection())
    assert worker.get_current_executions() == []
    ledger.settle([Settled(job.id, "Sent")])
    assert not fetch(job).is_finished


# Waiting for Redis


def test_what_is_missing_is_said_once(settings, caplog):
    """The worker waits at its start; here Redis is there already."""
    caplog.set_level(logging.INFO)
    doorbell.wait_for_redis()
    assert "Redis" not in caplog.text
