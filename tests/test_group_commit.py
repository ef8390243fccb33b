"""Messages that wait at the same moment are stored together, and none of them pays for another."""

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import pytest
from django.db import IntegrityError, OperationalError, connection, transaction

from emails import accepting, doorbell
from emails.drafts import Draft
from emails.models import EmailRequest, Priority
from tests.environment import wait_until

pytestmark = [pytest.mark.stores, pytest.mark.django_db(transaction=True)]


def draft(subject: str) -> Draft:
    return Draft.clean({"from": "shop@example.com", "to": "moss@example.com", "subject": subject, "text": "Hello"})


def submit(*drafts: Draft) -> list[EmailRequest]:
    return accepting.submit(drafts, origin="a test", priority=Priority.DEFAULT)


def subjects() -> set[str]:
    return set(EmailRequest.objects.values_list("subject", flat=True))


@contextmanager
def nobody_can_store() -> Iterator[None]:
    with transaction.atomic():  # which locks all of SQLite
        if connection.vendor == "postgresql":
            connection.cursor().execute("LOCK TABLE emails_emailrequest IN EXCLUSIVE MODE")
        yield


def at_once(*drafts: Draft) -> list[Future]:
    """Each is submitted by a thread of its own. The first gets stuck, and the others wait behind it together."""

    def call(one: Draft) -> list[EmailRequest]:
        try:
            return submit(one)
        finally:
            connection.close()

    with ThreadPoolExecutor(len(drafts)) as threads, nobody_can_store():
        calls = [threads.submit(call, drafts[0])]
        wait_until(lambda: accepting.line.members, "the first does not lead")
        calls += [threads.submit(call, one) for one in drafts[1:]]
        wait_until(lambda: len(accepting.line.members) == len(drafts), "they do not stand in line")
    assert not accepting.line.members
    return calls


def test_each_gets_its_own_answer():
    calls = at_once(*(draft(str(number)) for number in range(8)))
    assert [email.subject for call in calls for email in call.result()] == [str(number) for number in range(8)]
    stored = EmailRequest.objects.in_bulk([email.pk for call in calls for email in call.result()])
    assert len(stored) == 8
    assert set(doorbell.queue("default").job_ids) == {str(pk) for pk in stored}


def test_one_that_cannot_be_stored_fails_alone(caplog):
    bad = replace(draft("bad"), subject=None)
    *good, failed = at_once(draft("1"), draft("2"), draft("3"), draft("4"), bad)
    assert subjects() == {"1", "2", "3", "4"}
    assert all(call.exception() is None for call in good)
    assert isinstance(failed.exception(), IntegrityError)
    assert "IntegrityError while storing a group of" in caplog.text


@pytest.mark.skipif(connection.vendor != "sqlite", reason="PostgreSQL locks no whole database")
def test_while_the_database_is_locked_all_in_line_wait_no_longer_than_the_first(caplog):
    def call(one: Draft) -> list[EmailRequest]:
        connection.ensure_connection()
        connection.connection.execute("PRAGMA busy_timeout = 500")
        waiting.wait()
        try:
            return submit(one)
        finally:
            connection.close()

    waiting = threading.Barrier(12)
    with ThreadPoolExecutor(12) as threads, nobody_can_store():
        calls = [threads.submit(call, draft(str(number))) for number in range(12)]
        errors = [call.exception(30) for call in calls]
    assert {type(error) for error in errors} == {OperationalError}
    assert "try alone" not in caplog.text and not accepting.line.members
    assert submit(draft("later")) and subjects() == {"later"}


class Deadly(Draft):
    """A draft at which a thread ends."""

    @property
    def recipients(self):
        sys.exit()


def test_when_a_thread_ends_in_the_middle_nobody_waits_for_it():
    deadly = Deadly(**vars(draft("deadly")))
    calls = at_once(draft("1"), deadly, draft("3"), draft("4"))
    assert isinstance(calls[1].exception(), SystemExit)
    assert {call.result()[0].subject for call in calls if not call.exception()} <= subjects()
    assert submit(draft("later")) and "later" in subjects()


def test_in_a_transaction_the_messages_are_its_own():
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        submit(draft("taken back"))
        raise ZeroDivisionError
    assert not subjects()
    assert not doorbell.queue("default").job_ids


def test_a_group_whose_commit_came_through_without_an_answer_is_not_stored_twice():
    emails = [EmailRequest.from_draft(draft("once"), Priority.DEFAULT)]
    EmailRequest.objects.store(emails)
    accepting._store_alone(emails)
    assert EmailRequest.objects.count() == 1
    with pytest.raises(IntegrityError):
        accepting._store_alone([EmailRequest.from_draft(replace(draft("bad"), subject=None), Priority.DEFAULT)])
