"""Rows → the contract's JSON."""

import mimetypes
from datetime import timedelta

from django.conf import settings
from django.core import signing
from django.urls import reverse
from django.utils import timezone

from emails.models import ApiKey, Attachment, EmailRequest, Event, Priority, SandboxMessage, Suppression
from emails.states import State

DOWNLOAD_SALT = "emails.download"
DOWNLOAD_LIFETIME = 3600  # seconds

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
        "scheduled_at": email.scheduled_at.isoformat() if email.scheduled_at else None,
        "message_id": email.message_id,
        "tags": [{"name": name, "value": value} for name, value in content.tags],
        "state": email.state,
        "priority": email.queue,
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


def event_as_json(event: Event) -> dict:
    return {"id": event.pk, "created_at": event.at.isoformat(), "kind": event.kind, "detail": event.detail}


def attachment_as_json(attachment: Attachment) -> dict:
    token = signing.dumps(str(attachment.pk), salt=DOWNLOAD_SALT)
    return {
        "id": str(attachment.pk),
        "filename": attachment.filename,
        "size": attachment.size,
        "content_type": attachment.content_type
        or mimetypes.guess_type(attachment.filename)[0]
        or "application/octet-stream",
        "content_disposition": "inline" if attachment.content_id else "attachment",
        "content_id": attachment.content_id or None,
        "download_url": settings.PUBLIC_URL + reverse("api-download", args=[token]),
        "expires_at": (timezone.now() + timedelta(seconds=DOWNLOAD_LIFETIME)).isoformat(),
    }


def key_as_json(key: ApiKey) -> dict:
    return {
        "id": str(key.pk),
        "name": key.name,
        "created_at": key.created_at.isoformat(),
        "last_used_at": key.last_used_at.isoformat() if key.last_used_at else None,
        "permission": key.permission,
        "domains": key.domains,
        "priority": Priority(key.priority).label,
        "time_zone": key.time_zone,
        "rate_limit": key.rate_limit,
        "daily_quota": key.daily_quota,
        "expires_at": key.expires_at.isoformat() if key.expires_at else None,
    }


def suppression_as_json(row: Suppression) -> dict:
    return {
        "id": str(row.pk),
        "email": row.mailbox,
        "origin": row.origin,
        "created_at": row.created_at.isoformat(),
        "source_id": None,
    }
