"""Rows → the contract's JSON."""

from emails.models import EmailRequest, SandboxMessage
from emails.states import State

# Resend's `last_event` for each state of ours; `state` beside it says more.
LAST_EVENT = {
    State.SCHEDULED: "scheduled",
    State.QUEUED: "queued",
    State.CLAIMED: "queued",
    State.TRANSMITTING: "queued",
    State.DEFERRED: "delivery_delayed",
    State.UNKNOWN: "delivery_delayed",
    State.SENT: "sent",
    State.DELIVERED: "delivered",
    State.BOUNCED: "bounced",
    State.COMPLAINED: "complained",
    State.FAILED: "failed",
    State.SUPPRESSED: "suppressed",
    State.CANCELED: "canceled",
}


def email_as_json(email: EmailRequest, with_bodies: bool = True) -> dict:
    content = email.content
    body = {
        "object": "email",
        "id": str(email.pk),
        "to": email.to,
        "from": email.sender,
        "created_at": email.created_at.isoformat(),
        "subject": email.subject,
        "cc": content.cc,
        "bcc": content.bcc,
        "reply_to": content.reply_to,
        "last_event": LAST_EVENT[State(email.state)],
        "scheduled_at": None,
        "message_id": email.message_id,
        "tags": [],
        "state": email.state,
    }
    if with_bodies:
        body |= {"html": content.html, "text": content.text}
        body["recipients"] = [
            {"address": recipient.address, "state": recipient.state, "reply": recipient.reply or None}
            for recipient in email.recipients.all()
        ]
    return body


def sandbox_message_as_json(message: SandboxMessage) -> dict:
    return {
        "id": str(message.pk),
        "envelope_from": message.envelope_from,
        "envelope_to": message.envelope_to,
        "subject": message.subject,
        "received_at": message.received_at.isoformat(),
    }
