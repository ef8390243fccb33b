"""`make demo`: a week of mail in all states, whose counts are right, and none where real mail is or might go out."""

from collections import Counter
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.db.models import Count
from django.utils import timezone

from emails import demo, tallies, why
from emails.models import ApiKey, EmailRequest, Event, RequestLog, SandboxMessage, Suppression
from emails.smtp import Relay
from emails.states import FINISHED, HELD, State
from emails.tallies import OUTCOMES, SETBACKS

pytestmark = [pytest.mark.stores, pytest.mark.django_db]
emails = EmailRequest.objects


def test_it_fills_every_page_with_a_week_of_mail(settings, capsys):
    settings.REQUEST_LOG_DAYS = 7
    call_command("demo")
    assert f"{emails.count():,} messages of a week" in capsys.readouterr().out
    assert set(emails.values_list("state", flat=True)) == set(State) - HELD  # those are in a living worker's hands
    first, last = (emails.order_by(order).first().created_at for order in ("pk", "-pk"))
    assert timedelta(days=6) < last - first < timedelta(days=7)
    assert last <= timezone.now()
    for model in (ApiKey, Suppression, RequestLog, SandboxMessage):
        assert model.objects.count() >= 5, model


def test_its_messages_say_why_they_wait_and_how_they_ended():
    demo.fill(timezone.now())
    for state in set(State) - HELD:
        assert why.explain(emails.filter(state=state).first())
    sentences = " ".join(why.explain(email) for email in emails.filter(state=State.DEFERRED))
    assert "Greylisted" in sentences and "Mailbox is full" in sentences
    assert Event.objects.filter(detail__contains="Connection refused").exists()


def test_the_kept_counts_are_right_after_it():
    demo.fill(timezone.now())
    kept = sum(tallies.totals().values(), Counter())
    real = Counter(accepted=emails.count(), attempts=sum(emails.values_list("attempts", flat=True)))
    for state, count in emails.order_by().values_list("state").annotate(Count("pk")):
        if state in FINISHED:
            real[state if state in OUTCOMES else State.SENT] += count
    for kind in SETBACKS:
        real[kind] = Event.objects.filter(kind=kind).count()
    assert {name: kept[name] for name in real} == real
    assert sum(tallies.in_queues().values()) == emails.exclude(state__in=FINISHED).count()
    newest = max(tallies.per_minute(0, ["accepted"]))
    assert newest <= tallies.minute()


def test_it_refuses_where_there_is_mail_and_a_second_time(submit):
    submit()
    for _ in range(2):
        with pytest.raises(CommandError, match="There is mail here already"):
            call_command("demo")
        assert emails.count() == 1


def test_it_refuses_where_mail_goes_to_a_relay(settings):
    settings.RELAY = Relay.from_url("smtp://mail.example.com")
    with pytest.raises(CommandError, match=r"Mail goes to the relay mail\.example\.com:25"):
        call_command("demo")
    assert not emails.exists()
