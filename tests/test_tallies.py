"""The kept counts are the real ones, whatever happens to messages and whoever counts at the same time."""

import importlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import count
from threading import Barrier

import pytest
from django.apps import apps
from django.db import connection
from django.db.models import Count, QuerySet, Sum
from django.utils import timezone
from hypothesis import HealthCheck, settings
from hypothesis.stateful import invariant, run_state_machine_as_test

from emails import states, tallies
from emails.models import EmailRequest, Event, Settlement, Worker
from emails.smtp import Outcome
from emails.tallies import GATHERED, OUTCOMES, TIMES, Tally
from tests.environment import ON_POSTGRESQL
from tests.test_store import Lives, said, settle, transmit

pytestmark = [pytest.mark.stores, pytest.mark.django_db]
emails = EmailRequest.objects


@pytest.fixture
def moss():
    return Worker.objects.create(name="moss", host="here", pid=1)


def kept(priority: int = 1) -> dict[str, int]:
    return {name: number for name, number in tallies.totals().get(priority, Counter()).items() if number}


def real() -> dict[str, int]:
    """The same, by counting all messages and lines of timelines."""
    found = Counter(accepted=emails.count(), attempts=emails.aggregate(n=Sum("attempts", default=0))["n"])
    found.update(dict(emails.filter(state__in=OUTCOMES).values_list("state").annotate(Count("pk"))))
    setbacks = Event.objects.filter(kind__in=tallies.SETBACKS).order_by().values_list("kind")
    found.update(dict(setbacks.annotate(Count("pk"))))
    return {name: number for name, number in found.items() if number}


class CountedLives(Lives):
    def __init__(self):
        super().__init__()
        Tally.objects.all().delete()

    @invariant()
    def the_kept_counts_are_the_real_ones(self):
        assert {name: n for name, n in kept().items() if name not in (*TIMES, "milliseconds")} == real()
        assert tallies.in_queues().get(1, 0) == unfinished().count()


def test_random_lives_are_counted_as_they_are():
    run_state_machine_as_test(
        CountedLives,
        settings=settings(
            max_examples=30, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_each_queue_is_counted_by_itself(submit, moss):
    low, high = submit(priority=2), submit(priority=0)
    [claimed] = transmit([high.pk], moss)
    settle(claimed, said(claimed, 250), moss)
    assert tallies.in_queues() == {0: 0, 2: 1}
    emails.filter(pk=low.pk).cancel(by="jen")
    assert tallies.in_queues() == {0: 0, 2: 0}
    assert (kept(0)["sent"], kept(2)["canceled"]) == (1, 1)


def test_one_that_is_sent_again_is_accepted_again(submit):
    email = submit()
    emails.filter(pk=email.pk).cancel(by="jen")
    emails.filter(pk=email.pk).send_again(by="jen")
    assert kept() == {"accepted": 2, "canceled": 1}


def test_an_outcome_that_is_recorded_again_counts_once(submit, moss):
    [claimed] = transmit([submit().pk], moss)
    settlement = Settlement(claimed, said(claimed, 250))
    assert emails.record(moss, [settlement])[0] == emails.record(moss, [settlement])[0] == {claimed.pk}
    assert (kept()["sent"], kept()["attempts"]) == (1, 1)


def test_the_relays_trouble_counts_as_no_attempt(submit, moss):
    [claimed] = transmit([submit().pk], moss)
    settle(claimed, Outcome(trouble="Connection refused (connecting)"), moss)
    assert kept() == {"accepted": 1, "deferred": 1}


@pytest.mark.parametrize(
    ("waited", "bucket"), [(0.4, "within_1"), (3, "within_5"), (120, "within_300"), (20_000, "later")]
)
def test_the_time_from_accepted_to_sent(submit, moss, waited, bucket):
    email = submit()
    emails.filter(pk=email.pk).update(created_at=timezone.now() - timedelta(seconds=waited))
    [claimed] = transmit([email.pk], moss)
    settle(claimed, said(claimed, 250), moss)
    assert {name: kept().get(name, 0) for name in TIMES if name in kept()} == {bucket: 1}
    assert waited <= kept()["milliseconds"] / 1000 < waited + 0.5


def test_a_scheduled_mails_time_begins_when_it_is_to_go(submit, moss):
    email = submit(scheduled_at="in 1 hour")
    emails.filter(pk=email.pk).update(
        created_at=timezone.now() - timedelta(hours=1), due_at=timezone.now(), scheduled_at=timezone.now()
    )
    [claimed] = transmit([email.pk], moss)
    settle(claimed, said(claimed, 250), moss)
    assert kept()["within_1"] == 1


def test_what_is_rolled_back_is_not_counted(submit):
    with pytest.raises(ZeroDivisionError), tallies.transaction.atomic():
        submit()
        1 / 0  # noqa: B018
    assert not kept()


def test_old_rows_are_gathered_and_their_sums_stay(submit):
    now = tallies.minute()
    for minute in range(now - 4000, now, 7):
        for shard in (1, 2, 3):
            Tally.objects.create(minute=minute, priority=minute % 3, shard=shard, accepted=1, sent=minute % 5)
    before, last_hour = tallies.totals(), tallies.per_minute(now - 60, ["sent"])
    tallies.gather(now)
    tallies.gather(now)
    assert tallies.totals() == before
    assert tallies.per_minute(now - 60, ["sent"]) == last_hour
    ages = list(Tally.objects.exclude(minute__gte=now - tallies.WRITTEN).values_list("minute", "shard"))
    assert all(shard == GATHERED for _, shard in ages)
    assert all(minute % 10 == 0 for minute, _ in ages if minute < now - tallies.BY_MINUTE)
    assert sum(minute == 0 for minute, _ in ages) == 3  # a row for each queue
    tallies.gather(now + 4000)
    assert Tally.objects.count() == 3
    assert tallies.totals() == before


def test_a_version_that_does_not_count_is_made_up_for(submit, moss):
    [claimed] = transmit([submit().pk], moss)
    settle(claimed, said(claimed, 250), moss)
    waiting = submit(priority=2)
    Tally.objects.all().delete()
    fill = importlib.import_module("emails.migrations.0005_tallies").fill
    fill(apps, None)
    assert kept(1) == {"accepted": 1, "sent": 1, "attempts": 1}
    assert tallies.in_queues() == {1: 0, 2: 1}
    assert tallies.per_minute(tallies.minute() - 2, ["sent"]).popitem()[1] == {"sent": 1}
    assert emails.filter(pk=waiting.pk).give_up(by="jen") == 1
    assert tallies.in_queues() == {1: 0, 2: 0}


@pytest.mark.skipif(not ON_POSTGRESQL, reason="SQLite has one writer at a time")
@pytest.mark.django_db(transaction=True)
def test_two_that_count_at_once_do_not_wait_for_each_other(submit):
    submit()
    with ThreadPoolExecutor(1) as others, tallies.transaction.atomic():
        submit()
        others.submit(in_thread, submit).result(10)
    assert kept() == {"accepted": 3}


def in_thread[T](act: Callable[[], T]) -> T:
    try:
        return act()
    finally:
        connection.close()


def unfinished() -> QuerySet:
    return emails.exclude(state__in=states.FINISHED)


@pytest.mark.django_db(transaction=True)
def test_counts_that_have_gone_astray_are_set_right(submit):
    submit(), submit(priority=2)
    Tally.objects.filter(priority=1).delete()
    assert tallies.correct(unfinished()) == 1
    assert tallies.correct(unfinished()) == 0
    assert tallies.in_queues() == {1: 1, 2: 1}


@pytest.mark.django_db(transaction=True)
def test_what_was_accepted_never_falls(submit):
    """Prometheus takes a counter that falls for one that began anew, and adds the whole to the rate."""
    email = submit()
    submit(priority=2)
    emails.filter(pk=email.pk).delete()
    assert tallies.correct(unfinished()) == 1
    assert (tallies.in_queues(), kept()["accepted"]) == ({1: 0, 2: 1}, 1)


@pytest.mark.django_db(transaction=True)
def test_counts_that_are_right_are_looked_at_without_a_lock(submit):
    """While they are, with a million messages for most of a second, mail is accepted."""
    submit()
    with ThreadPoolExecutor(1) as workers, tallies.transaction.atomic():
        submit()  # who writes has SQLite's lock; on PostgreSQL, workers have one among themselves
        if ON_POSTGRESQL:
            connection.cursor().execute("SELECT pg_advisory_xact_lock(%s)", [tallies.CORRECTING])
        workers.submit(in_thread, lambda: tallies.correct(unfinished())).result(10)


@pytest.mark.django_db(transaction=True)
def test_workers_that_start_together_make_up_for_it_once(submit):
    for _ in range(3):
        submit()
    Tally.objects.all().delete()
    both_have_looked = Barrier(2, timeout=20)

    def correct() -> int:
        statements = count()

        def watched(execute, *statement):
            if next(statements) == 1:  # the first has looked
                both_have_looked.wait()
            return execute(*statement)

        with connection.execute_wrapper(watched):
            return tallies.correct(unfinished())

    with ThreadPoolExecutor(2) as workers:
        corrected = [workers.submit(in_thread, correct) for _ in range(2)]
    assert sorted(worker.result() for worker in corrected) == [0, 3]
    assert tallies.in_queues() == {1: 3}
