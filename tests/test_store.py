"""What the database promises about a message's life: see emails/states.py."""

import threading
from datetime import timedelta

import pytest
from django.db import connection
from django.db.models import F
from django.utils import timezone
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from emails import states
from emails.drafts import Draft
from emails.models import ApiKey, EmailRequest, Event, Hold, Once, OnceConflict, Recipient, Settlement, Worker
from emails.smtp import Outcome, Reply, Result, Verdict
from emails.states import State

pytestmark = [pytest.mark.stores, pytest.mark.django_db]
emails = EmailRequest.objects


@pytest.fixture
def workers():
    return [Worker.objects.create(name=name, host="here", pid=1) for name in ("moss", "roy")]


def said(email: EmailRequest, code: int, text: str = "ok", **by_address: int) -> Outcome:
    """What the relay said to each recipient."""
    return Outcome(
        {
            recipient.address: Result(Reply(code_, "").verdict, Reply(code_, text))
            for recipient in email.recipients.all()
            if recipient.is_waiting
            for code_ in [by_address.get(recipient.address.partition("@")[0], code)]
        }
    )


def transmit(ids, worker) -> list[EmailRequest]:
    claimed = emails.claim(ids, worker)
    emails.record(worker, upcoming=claimed)
    return claimed


def settle(email: EmailRequest, outcome: Outcome, worker: Worker) -> EmailRequest:
    emails.record(worker, [Settlement(email, outcome)])
    return emails.get(pk=email.pk)


def die(worker: Worker) -> None:
    Worker.objects.filter(pk=worker.pk).update(heartbeat_at=timezone.now() - timedelta(hours=1))


def kinds(email: EmailRequest) -> list[str]:
    return [event.kind for event in Event.objects.filter(email=email)]


# Claims


def test_a_message_is_claimed_by_one_worker_only(submit, workers):
    email = submit()
    assert [claimed.pk for claimed in emails.claim([email.pk], workers[0])] == [email.pk]
    assert emails.claim([email.pk], workers[1]) == []
    assert emails.claim([email.pk], workers[0]) == []


def test_a_message_that_is_not_due_is_not_claimed(submit, workers):
    email = submit()
    emails.filter(pk=email.pk).update(due_at=timezone.now() + timedelta(minutes=1))
    assert emails.claim([email.pk], workers[0]) == []
    assert emails.overdue(10) == []


@pytest.mark.django_db(transaction=True)
def test_two_processes_that_claim_the_same_ten_thousand_rows_never_share_one(workers):
    draft = Draft.clean({"from": "a@example.com", "to": "b@example.com", "subject": "x", "text": "x"})
    ids = [email.pk for _ in range(20) for email in emails.submit([draft] * 500, origin="a test")]
    got: dict[str, list] = {worker.name: [] for worker in workers}

    def take(worker: Worker) -> None:
        for start in range(0, len(ids), 250):
            got[worker.name] += [email.pk for email in emails.claim(ids[start : start + 250], worker)]
        connection.close()

    threads = [threading.Thread(target=take, args=[worker]) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    moss, roy = (set(pks) for pks in got.values())
    assert not moss & roy
    assert len(got["moss"]) == len(moss) and len(got["roy"]) == len(roy)
    for pk in moss | roy:
        assert pk in ids
    # What both skipped because the other was just looking at it, the poll brings back.
    rest = emails.claim(set(ids) - moss - roy, workers[0])
    assert len(moss | roy) + len(rest) == 10_000


def test_the_poll_finds_what_nobody_came_for_the_most_urgent_first(submit):
    low, default, high = submit(priority=2), submit(priority=1), submit(priority=0)
    assert emails.overdue(10) == []  # their doorbells have just been rung
    emails.update(due_at=timezone.now() - timedelta(seconds=6))
    assert emails.overdue(10) == [high.pk, default.pk, low.pk]
    assert emails.overdue(1) == [high.pk]


def test_the_poll_reads_waiting_messages_only_however_many_were_sent():
    draft = Draft.clean({"from": "a@example.com", "to": "b@example.com", "subject": "x", "text": "x"})
    emails.submit([draft] * 3000, origin="a test")
    emails.update(state=State.SENT, due_at=None, finished_at=timezone.now())
    emails.submit([draft], origin="a test")
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    query = emails.all()._due(Hold.in_force()).order_by("priority", "due_at").values("pk")[:10]
    assert "email_waiting" in query.explain()


# Outcomes


def test_every_recipient_has_an_outcome_of_its_own(submit, workers):
    email = submit(to=["a@example.com", "b@example.com", "c@example.com"])
    [email] = transmit([email.pk], workers[0])
    after = settle(email, said(email, 250, b=450, c=550), workers[0])
    assert after.state == State.DEFERRED and after.due_at > timezone.now()
    assert {r.address[0]: r.state for r in after.recipients.all()} == {"a": "accepted", "b": "deferred", "c": "bounced"}
    emails.update(due_at=timezone.now())
    [email] = transmit([email.pk], workers[0])
    assert [r.address for r in email.recipients.all() if r.is_waiting] == ["b@example.com"]
    assert settle(email, said(email, 250), workers[0]).state == State.SENT


def test_a_message_refused_by_all_is_bounced_with_the_relays_words(submit, workers):
    [email] = transmit([submit().pk], workers[0])
    after = settle(email, said(email, 550, "5.1.1 no such user"), workers[0])
    assert after.state == State.BOUNCED and after.due_at is None and after.finished_at
    assert Event.objects.filter(email=email).last().detail == "550 5.1.1 no such user"


def test_attempts_follow_the_schedule_until_the_message_is_too_old(submit, workers, settings):
    settings.RETRY_SCHEDULE = [timedelta(minutes=1), timedelta(minutes=5)]
    id = submit().pk
    for step in (60, 300, 300):
        [email] = transmit([id], workers[0])
        after = settle(email, said(email, 451, "4.7.1 greylisted"), workers[0])
        wait = (after.due_at - timezone.now()).total_seconds()
        assert step * 0.79 < wait < step * 1.21
        emails.update(due_at=timezone.now())
    emails.update(created_at=timezone.now() - settings.RETRY_MAX_AGE)
    [email] = transmit([id], workers[0])
    after = settle(email, said(email, 451, "4.7.1 greylisted"), workers[0])
    assert after.state == State.FAILED
    assert "given up after 4 attempts: 451 4.7.1 greylisted" in Event.objects.filter(email=id).last().detail
    assert after.recipients.get().state == Recipient.State.FAILED


def test_the_same_message_id_and_date_throughout(submit, workers):
    [email] = transmit([submit().pk], workers[0])
    first = emails.get(pk=email.pk)
    settle(email, said(email, 451), workers[0])
    emails.update(due_at=timezone.now())
    [email] = transmit([email.pk], workers[1])
    assert (email.date, email.message_id) == (first.date, first.message_id)
    assert f"Message-ID: {first.message_id}".encode() in email.raw()


def test_more_recipients_than_the_relay_takes_at_once_follow_at_once(submit, workers):
    [email] = transmit([submit(to=["a@example.com", "b@example.com"]).pk], workers[0])
    outcome = said(email, 250, b=452)
    outcome.more = True
    after = settle(email, outcome, workers[0])
    assert after.state == State.QUEUED and after.due_at <= timezone.now()


# The relay's troubles


def test_trouble_with_the_relay_costs_no_attempt_and_no_place(submit, workers):
    first, second = submit(), submit()
    [email] = transmit([first.pk], workers[0])
    after = settle(email, Outcome(trouble="connection refused (connecting)", hold=True), workers[0])
    assert (after.state, after.attempts, after.due_at) == (State.QUEUED, 0, after.created_at)
    assert Hold.in_force().relay.reason == "connection refused (connecting)"
    assert emails.claim([first.pk, second.pk], workers[1]) == []  # all mail is held
    Hold.end_trouble()
    emails.update(due_at=F("due_at") - timedelta(minutes=1))
    assert emails.overdue(2) == [first.pk, second.pk]


def test_what_a_worker_breaks_off_for_a_reason_of_its_own_is_due_again_at_once(submit, workers):
    [email] = transmit([submit(to=["moss@example.com", "jen@example.com"]).pk], workers[0])
    refused = {"jen@example.com": Result(Verdict.BOUNCED, Reply(550, "5.1.1 no such user"))}
    after = settle(email, Outcome(refused, withdrawn="this worker had been silent"), workers[0])
    assert (after.state, after.attempts, after.due_at) == (State.QUEUED, 0, after.created_at)
    assert [str(event) for event in after.events.all()][-1] == "Given back to the queue this worker had been silent"
    assert [to.state for to in after.recipients.order_by("pk")] == ["waiting", "bounced"]
    assert not Hold.objects.exists()


def test_one_worker_at_a_time_probes_and_ever_more_seldom(workers):
    Hold.note_trouble("refused")
    assert not Hold.win_probe()  # not yet
    Hold.objects.update(probe_at=timezone.now())
    assert Hold.win_probe() and not Hold.win_probe()
    waits = []
    for _ in range(6):
        Hold.note_trouble("refused")
        waits.append(round((Hold.objects.get().probe_at - timezone.now()).total_seconds()))
    assert waits == sorted(waits) and waits[-1] <= 15


def test_trouble_once_the_relay_let_us_in_is_also_that_messages(submit, workers):
    [email] = transmit([submit().pk], workers[0])
    outcome = Outcome(
        {"moss@example.com": Result(Verdict.DEFERRED, Reply(0, "closed at DATA"))}, trouble="closed at DATA", hold=True
    )
    after = settle(email, outcome, workers[0])
    assert after.state == State.DEFERRED and after.attempts == 1 and after.due_at > timezone.now()
    assert Hold.in_force().trouble


# Uncertainty


@pytest.mark.parametrize("policy", ["resend", "hold"])
def test_a_link_lost_after_the_dot_is_unknown_and_the_policy_decides(submit, workers, policy):
    [email] = transmit([submit(on_unknown=policy).pk], workers[0])
    after = settle(email, Outcome(unknown="closed (after the final dot)"), workers[0])
    assert after.state == State.UNKNOWN
    assert (after.due_at is None) == (policy == "hold")


def test_a_dead_workers_messages_go_on_and_only_the_marked_ones_are_uncertain(submit, workers):
    claimed, marked, held = submit(), submit(), submit(on_unknown="hold")
    emails.claim([claimed.pk], workers[0])
    transmit([marked.pk, held.pk], workers[0])
    emails.free_dead()
    assert not emails.filter(due_at__isnull=False).exists()  # it is alive
    die(workers[0])
    emails.free_dead()
    assert emails.get(pk=claimed.pk).state == State.QUEUED
    assert emails.get(pk=marked.pk).state == State.UNKNOWN
    assert {email.pk for email in emails.claim([claimed.pk, marked.pk, held.pk], workers[1])} == {claimed.pk, marked.pk}
    assert emails.filter(pk=held.pk).send_now(by="admin") == 1
    assert [email.pk for email in emails.claim([held.pk], workers[1])] == [held.pk]


def test_a_late_outcome_settles_a_message_that_nobody_has_taken_over(submit, workers):
    [email] = transmit([submit().pk], workers[0])
    die(workers[0])
    emails.free_dead()
    assert settle(email, said(email, 250), workers[0]).state == State.SENT


def test_a_late_outcome_is_not_taken_for_one_that_is_recorded_already(submit, workers):
    [email] = transmit([submit(to=["a@example.com", "b@example.com"]).pk], workers[0])
    die(workers[0])
    emails.free_dead()
    emails.filter(pk=email.pk).send_now(by="admin")  # queued, as the late outcome will have it
    outcome = said(email, 250, b=452)
    outcome.more = True
    settle(email, outcome, workers[0])
    reached = {recipient.address: recipient.state for recipient in Recipient.objects.filter(email=email.pk)}
    assert reached == {"a@example.com": "accepted", "b@example.com": "deferred"}


def test_a_worker_learns_from_the_database_that_its_heartbeat_came_late(workers):
    assert workers[0].beat()
    die(workers[0])
    assert not workers[0].beat()
    assert workers[0].beat()


def test_a_worker_that_was_forgotten_while_it_slept_is_enrolled_again(submit, workers):
    Worker.objects.filter(pk=workers[0].pk).delete()
    assert not workers[0].beat()
    assert emails.claim([submit().pk], workers[0])


def test_after_trouble_the_relay_is_on_trial_until_a_first_success(submit, workers):
    email = submit()
    Hold.note_trouble("refused")
    first_wait = Hold.objects.get().failures
    Hold.try_again()
    assert not Hold.in_force().relay and Hold.in_force().is_on_trial
    assert emails.claim([email.pk], workers[0])
    Hold.note_trouble("421 at MAIL FROM")
    assert Hold.in_force().relay and Hold.objects.get().failures == first_wait + 1
    Hold.end_trouble()
    assert not Hold.objects.exists()


def test_a_late_outcome_of_a_message_taken_over_is_only_noted(submit, workers):
    [email] = transmit([submit().pk], workers[0])
    die(workers[0])
    emails.free_dead()
    transmit([email.pk], workers[1])
    after = settle(email, said(email, 250), workers[0])
    assert after.state == State.TRANSMITTING and after.worker == workers[1]
    assert kinds(email)[-1] == "late"


def test_a_claim_lost_and_won_again_by_the_same_worker_goes_out_once(submit, workers):
    [old] = emails.claim([submit().pk], workers[0])
    die(workers[0])
    emails.free_dead()
    workers[0].beat()
    [new] = emails.claim([old.pk], workers[0])
    assert emails.record(workers[0], upcoming=[old])[1] == set()
    assert emails.record(workers[0], upcoming=[new])[1] == {new.pk}


def test_an_outcome_recorded_twice_counts_once(submit, workers):
    [email] = transmit([submit().pk], workers[0])
    settlement = Settlement(email, said(email, 250))
    assert [emails.record(workers[0], [settlement])[0] for _ in range(2)] == [{email.pk}] * 2
    assert kinds(email) == ["accepted", "claimed", "sent"]


def test_a_decision_made_after_an_outcome_outlives_the_outcome_s_second_try(submit, workers):
    """The commit came through, its answer was lost, and a person was quicker than the second try."""
    [email] = transmit([submit().pk], workers[0])
    settlement = Settlement(email, said(email, 451))
    emails.record(workers[0], [settlement])
    later = timezone.now() + timedelta(days=7)
    emails.filter(pk=email.pk).reschedule(later, by="moss")
    emails.record(workers[0], [settlement])
    after = emails.get(pk=email.pk)
    assert (after.state, after.due_at) == (State.SCHEDULED, later)


def test_a_message_that_kills_its_workers_is_given_up_with_the_reason(submit, workers):
    id = submit().pk
    for _ in range(3):
        transmit([id], workers[0])
        die(workers[0])
        emails.free_dead()
        workers[0].beat()
    email = emails.get(pk=id)
    assert email.state == State.FAILED and email.recipients.get().state == "failed"
    assert "3 workers died" in Event.objects.filter(email=id).last().detail


def test_a_stopped_worker_gives_back_what_it_had_not_begun(submit, workers):
    claimed = emails.claim([submit().pk], workers[0])
    emails.release(claimed, workers[0], "the worker is stopping")
    after = emails.get()
    assert (after.state, after.worker, after.due_at) == (State.QUEUED, None, after.created_at)


# Decisions


def test_cancel_wins_or_loses_cleanly_against_a_claim(submit, workers):
    early, late = submit(), submit()
    assert emails.filter(pk=early.pk).cancel(by="the shop") == 1
    assert emails.claim([early.pk], workers[0]) == []
    emails.claim([late.pk], workers[0])
    assert emails.filter(pk=late.pk).cancel(by="the shop") == 0
    assert emails.get(pk=late.pk).state == State.CLAIMED
    assert emails.get(pk=early.pk).recipients.get().state == "canceled"


def test_people_decide_about_uncertain_messages(submit, workers):
    lost = [submit(on_unknown="hold") for _ in range(3)]
    for email in transmit([email.pk for email in lost], workers[0]):
        settle(email, Outcome(unknown="closed"), workers[0])
    assert emails.filter(pk=lost[0].pk).confirm(by="admin") == 1
    assert emails.filter(pk=lost[1].pk).give_up(by="admin") == 1
    assert emails.filter(pk=lost[2].pk).send_now(by="admin") == 1
    assert [emails.get(pk=email.pk).state for email in lost] == ["sent", "failed", "queued"]
    assert "admin" in Event.objects.filter(email=lost[1]).last().detail


def test_confirming_speaks_for_those_only_whose_transmission_is_in_doubt(submit, workers):
    [email] = transmit([submit(to=["a@example.com", "b@example.com"], on_unknown="hold").pk], workers[0])
    outcome = Outcome({"b@example.com": Result(Verdict.DEFERRED, Reply(450, "not now"))}, unknown="closed")
    settle(email, outcome, workers[0])
    emails.filter(pk=email.pk).confirm(by="admin")
    reached = {recipient.address: recipient.state for recipient in Recipient.objects.filter(email=email.pk)}
    assert reached == {"a@example.com": "accepted", "b@example.com": "failed"}


def test_a_message_that_is_uncertain_until_it_is_too_old_is_held_for_a_person(submit, workers, settings):
    [email] = transmit([submit(on_unknown="resend").pk], workers[0])
    email.created_at -= settings.RETRY_MAX_AGE
    after = settle(email, Outcome(unknown="closed"), workers[0])
    assert after.state == State.UNKNOWN and after.due_at is None


def test_a_paused_queue_or_relay_holds_its_mail_in_order(submit, workers):
    default, high = submit(), submit(priority=0)
    Hold.objects.create(target="default", reason="end of quarter freeze", by="admin")
    assert [email.pk for email in emails.claim([default.pk, high.pk], workers[0])] == [high.pk]
    Hold.objects.create(target="relay", reason="moving house", by="admin")
    Hold.objects.filter(target="default").delete()
    assert emails.claim([default.pk], workers[0]) == []
    Hold.objects.all().delete()
    assert [email.pk for email in emails.claim([default.pk], workers[0])] == [default.pk]


# Idempotency


def once(key: ApiKey, name="order-1", digest="a") -> Once:
    return Once(key, name, digest)


def test_the_same_key_and_body_store_one_message(submit):
    key = ApiKey.create("shop")[0]
    draft = Draft.clean({"from": "a@example.com", "to": "b@example.com", "subject": "x", "text": "x"})
    [first] = emails.submit([draft], origin="a test", once=once(key))
    [again] = emails.submit([draft], origin="a test", once=once(key))
    assert again.pk == first.pk and emails.count() == 1
    with pytest.raises(OnceConflict):
        emails.submit([draft], origin="a test", once=once(key, digest="b"))
    [other] = emails.submit([draft], origin="a test", once=once(ApiKey.create("other")[0]))
    assert other.pk != first.pk
    key.idempotencykey_set.update(created_at=timezone.now() - timedelta(hours=25))
    assert emails.submit([draft], origin="a test", once=once(key))[0].pk != first.pk


@pytest.mark.django_db(transaction=True)
def test_of_many_callers_with_one_key_at_once_all_get_the_first_ones_answer():
    key = ApiKey.create("shop")[0]
    draft = Draft.clean({"from": "a@example.com", "to": "b@example.com", "subject": "x", "text": "x"})
    answers, start = [], threading.Barrier(12)

    def call() -> None:
        start.wait()
        answers.append(emails.submit([draft], origin="a test", once=once(key))[0].pk)
        connection.close()

    threads = [threading.Thread(target=call) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 12 and len(set(answers)) == 1
    assert emails.count() == 1


# Random lives


class Lives(RuleBasedStateMachine):
    """Random interleavings of everything that may happen, held against a small model.

    The model knows for each message whether a transmission is allowed: before the first one, and after an
    outcome that calls for another. No message is lost, no state changes but by a named transition, and no
    two workers hold one message.
    """

    ids = Bundle("ids")
    claims = Bundle("claims")
    marks = Bundle("marks")

    def __init__(self):
        super().__init__()
        for model in (Event, Recipient):
            model.objects.all().delete()
        EmailRequest.objects.all().delete()
        Hold.objects.all().delete()
        Worker.objects.all().delete()
        self.workers = [Worker.objects.create(name=f"w{n}", host="here", pid=n) for n in range(3)]
        self.seen: dict = {}
        self.in_flight: set = set()  # transmitted, with no outcome yet that allows another transmission

    def changed(self) -> None:
        """Every change of state since the last look goes along a named transition."""
        ways = {
            (source, target) for way in states.TRANSITIONS.values() for source in way.sources for target in way.targets
        }
        now = dict(emails.values_list("pk", "state"))
        assert set(now) >= set(self.seen), "a message is lost"
        for pk, state in now.items():
            before = self.seen.get(pk, state)
            assert before == state or (State(before), State(state)) in ways, f"{before} → {state} has no name"
        self.seen = now

    @rule(target=ids, policy=st.sampled_from(["resend", "hold"]), two=st.booleans())
    def submit(self, policy, two):
        to = ["a@example.com", "b@example.com"] if two else ["a@example.com"]
        fields = {"from": "s@example.com", "to": to, "subject": "x", "text": "x", "on_unknown": policy}
        [email] = emails.submit([Draft.clean(fields)], origin="a test")
        self.changed()
        return email.pk

    @rule(target=claims, id=ids, worker=st.integers(0, 2))
    def claim(self, id, worker):
        due_at = emails.get(pk=id).due_at
        waits = due_at is not None and due_at <= timezone.now()
        claimed = emails.claim([id], self.workers[worker])
        assert bool(claimed) == (waits and not Hold.in_force().relay)
        self.changed()
        return multiple(*[(email, worker) for email in claimed])

    @rule(target=marks, claim=consumes(claims))
    def mark(self, claim):
        email, worker = claim
        row = emails.get(pk=email.pk)
        _, held = emails.record(self.workers[worker], upcoming=[email])
        assert bool(held) == (row.worker == self.workers[worker] and row.claims == email.claims)
        if held:
            assert email.pk not in self.in_flight, "transmitted again without an outcome that allows it"
            self.in_flight.add(email.pk)
        self.changed()
        return multiple(*[claim for _ in held])

    @rule(mark=consumes(marks), codes=st.lists(st.sampled_from([250, 451, 550]), min_size=2, max_size=2))
    def record(self, mark, codes):
        email, worker = mark
        self.conclude(mark, said(email, codes[0], b=codes[1]))

    @rule(mark=consumes(marks), kind=st.sampled_from(["trouble", "unknown", "broken"]))
    def record_without_an_answer(self, mark, kind):
        self.conclude(mark, Outcome(**{kind: "closed"}, hold=kind == "trouble"))

    def conclude(self, mark, outcome):
        email, worker = mark
        before = emails.get(pk=email.pk)
        emails.record(self.workers[worker], [Settlement(email, outcome)])
        after = emails.get(pk=email.pk)
        if before.claims != email.claims:
            assert after.state == before.state, "a claim that was taken over has been overwritten"
        elif before.state not in states.FINISHED:
            self.in_flight.discard(email.pk)
        self.changed()

    @rule(worker=st.integers(0, 2))
    def crash(self, worker):
        die(self.workers[worker])
        marked = set(emails.filter(worker=self.workers[worker], state="transmitting").values_list("pk", flat=True))
        emails.free_dead()
        self.workers[worker].beat()
        self.in_flight -= marked  # uncertain, and known to be
        assert not emails.filter(worker=self.workers[worker]).exists()
        self.changed()

    @rule(claim=consumes(claims))
    def release(self, claim):
        email, worker = claim
        emails.release([email], self.workers[worker], "stopping")
        self.changed()

    @rule()
    def time_passes(self):
        emails.filter(due_at__isnull=False).update(due_at=timezone.now() - timedelta(seconds=10))
        waiting = set(emails.filter(due_at__isnull=False).values_list("pk", flat=True))
        assert set(emails.overdue(1000)) == (set() if Hold.in_force().relay else waiting)

    @rule()
    def the_relay_recovers(self):
        Hold.end_trouble()

    @rule(id=ids, decision=st.sampled_from(["cancel", "give_up", "send_now", "confirm"]))
    def decide(self, id, decision):
        before = emails.get(pk=id).state
        done = getattr(emails.filter(pk=id), decision)(by="admin")
        after = emails.get(pk=id)
        assert done or after.state == before
        if done:
            self.in_flight.discard(id)
        self.changed()

    @invariant()
    def the_columns_agree_with_the_state(self):
        for email in emails.all():
            assert (email.worker_id is not None) == (email.state in states.HELD)
            if email.state in states.FINISHED:
                assert email.due_at is None and email.finished_at


def test_random_lives_lose_nothing_and_send_nothing_twice():
    run_state_machine_as_test(
        Lives,
        settings=settings(
            max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
