"""What `manage.py rqworker` promises."""


import pytest

from emails.models import EmailRequest
from tests.environment import wait_until

pytestmark = [pytest.mark.stores, pytest.mark.django_db(transaction=True)]


def state(email) -> str:
    return EmailRequest.objects.get(pk=email.pk).state


def test_a_mail_that_is_accepted_arrives_and_says_so(worker, relay, submit):
    email = submit(to=["Moss <moss@example.com>", "jen@example.com"], bcc="douglas@example.com")
    wait_until(lambda: state(email) == "sent", "the mail was not sent")
    [received] = relay.received
    assert received.sender == "shop@example.com"
    assert sorted(received.recipients) == ["douglas@example.com", "jen@example.com", "moss@example.com"]
    assert b"douglas" not in received.data
    kinds = [event.kind for event in email.events.all()]
    assert kinds == ["accepted", "claimed", "sent"]
    assert "250 2.0.0 taken" in email.events.last().detail
    assert all(recipient.state == "accepted" for recipient in email.recipients.all())
