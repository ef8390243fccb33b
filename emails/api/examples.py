"""Examples for the API's description, by operation. Tests send those that can be sent."""

ID = "0193a1e2-7d4c-7b3a-9a53-6f1f6f2f9c1d"
EMAIL = {
    "from": "Shop <shop@example.com>",
    "to": ["moss@example.com"],
    "subject": "Your order",
    "html": "<p>Thank you!</p>",
    "text": "Thank you!",
}

LISTED = {
    "object": "email",
    "id": ID,
    "to": ["moss@example.com"],
    "from": "Shop <shop@example.com>",
    "created_at": "2026-12-24T18:00:00.123456+00:00",
    "subject": "Your order",
    "cc": [],
    "bcc": [],
    "reply_to": ["help@example.com"],
    "last_event": "sent",
    "scheduled_at": None,
    "message_id": "<0193a1e27d4c7b3a9a536f1f6f2f9c1d@example.com>",
    "tags": [{"name": "kind", "value": "receipt"}],
    "state": "sent",
    "priority": "default",
}
ATTACHMENT = {
    "id": "0193a1e2-7d4d-7c11-8c0a-2b1f6f2f9c1d",
    "filename": "invoice.txt",
    "size": 13,
    "content_type": "text/plain",
    "content_disposition": "attachment",
    "content_id": None,
    "download_url": "https://mail.example.com/downloads/IjAxOTNhMWUy…",
    "expires_at": "2026-12-24T19:00:00.123456+00:00",
}
KEY = {
    "id": ID,
    "name": "shop",
    "created_at": "2026-12-24T18:00:00.123456+00:00",
    "last_used_at": None,
    "permission": "sending_access",
    "domains": ["example.com"],
    "priority": "default",
    "time_zone": "Europe/Berlin",
    "rate_limit": 10,
    "daily_quota": None,
    "expires_at": None,
}
LOG = {
    "id": ID,
    "created_at": "2026-12-24T18:00:00.123456+00:00",
    "endpoint": "/emails",
    "method": "POST",
    "response_status": 200,
    "user_agent": "resend-python:2.52.0",
    "request_id": "0193a1e2-7d4b-7a01-9a53-6f1f6f2f9c1d",
    "key": "shop",
    "milliseconds": 12,
}
SUPPRESSION = {
    "id": ID,
    "email": "moss@example.com",
    "origin": "manual",
    "created_at": "2026-12-24T18:00:00.123456+00:00",
    "source_id": None,
}


def page(*items: dict) -> dict:
    return {"object": "list", "has_more": False, "data": list(items)}


EXAMPLES: dict[tuple[str, str], dict] = {
    ("sendEmail", "body"): {
        "text and HTML": EMAIL,
        "an attachment, later": {
            **EMAIL,
            "reply_to": "help@example.com",
            "attachments": [{"filename": "invoice.txt", "content": "VG90YWw6IDQyLjAwCg=="}],
            "headers": {"X-Order": "4711"},
            "tags": [{"name": "kind", "value": "receipt"}],
            "scheduled_at": "in 2 hours",
            "priority": "high",
        },
    },
    ("sendEmail", "answer"): {
        "accepted": {"id": ID},
        "a dry run": {
            "object": "dry_run",
            "raw": "From: Shop <shop@example.com>\r\nTo: moss@example.com\r\nSubject: Your order\r\n…",
            "recipients": ["moss@example.com"],
            "suppressed": [],
            "warnings": ["There is no text part: some readers and many spam filters expect one beside the HTML."],
        },
    },
    ("listEmails", "answer"): {"one email": page(LISTED)},
    ("sendBatch", "body"): {"two emails": [EMAIL, {**EMAIL, "to": "jen@example.com"}]},
    ("sendBatch", "answer"): {
        "strict": {"data": [{"id": ID}]},
        "permissive": {
            "data": [{"id": ID}],
            "errors": [{"index": 1, "message": "The `to` field is missing: give at least one recipient."}],
        },
    },
    ("getEmail", "answer"): {
        "sent": {
            **LISTED,
            "html": "<p>Thank you!</p>",
            "text": "Thank you!",
            "recipients": [{"address": "moss@example.com", "state": "accepted", "reply": "250 2.0.0 Ok: queued"}],
            "explanation": "Sent at 18:00 UTC on 24 December: 250 2.0.0 Ok: queued.",
        }
    },
    ("rescheduleEmail", "body"): {"by a phrase": {"scheduled_at": "tomorrow at 9am"}},
    ("rescheduleEmail", "answer"): {"moved": {"object": "email", "id": ID}},
    ("cancelEmail", "answer"): {"taken back": {"object": "email", "id": ID}},
    ("listEvents", "answer"): {
        "two lines": page(
            {
                "id": 1,
                "created_at": "2026-12-24T18:00:00.123456+00:00",
                "kind": "accepted",
                "detail": "API, key shop; queue default",
            },
            {
                "id": 2,
                "created_at": "2026-12-24T18:00:00.234567+00:00",
                "kind": "sent",
                "detail": "250 2.0.0 Ok: queued",
            },
        )
    },
    ("listAttachments", "answer"): {"one file": page(ATTACHMENT)},
    ("getAttachment", "answer"): {"a file": {"object": "attachment", **ATTACHMENT}},
    ("makeApiKey", "body"): {
        "for a shop": {"name": "shop", "permission": "sending_access", "domains": ["example.com"]}
    },
    ("makeApiKey", "answer"): {"made": {"id": ID, "token": "ms_…"}},
    ("listApiKeys", "answer"): {"one key": page(KEY)},
    ("renameApiKey", "body"): {"another name": {"name": "till"}},
    ("renameApiKey", "answer"): {"renamed": {"object": "api_key", "id": ID}},
    ("revokeApiKey", "answer"): {"revoked": {"object": "api_key", "id": ID, "deleted": True}},
    ("listLogs", "answer"): {"one request": page(LOG)},
    ("getLog", "answer"): {"a request": {"object": "log", **LOG, "request_body": None, "response_body": None}},
    ("addSuppression", "body"): {"an address": {"email": "moss@example.com"}},
    ("addSuppression", "answer"): {"on the list": {"object": "suppression", "id": ID}},
    ("listSuppressions", "answer"): {"one address": page(SUPPRESSION)},
    ("getSuppression", "answer"): {"an entry": {"object": "suppression", **SUPPRESSION}},
    ("removeSuppression", "answer"): {"off the list": {"object": "suppression", "id": ID, "deleted": True}},
    ("addSuppressions", "body"): {"two addresses": {"emails": ["moss@example.com", "jen@example.com"]}},
    ("addSuppressions", "answer"): {"on the list": {"data": [{"object": "suppression", "id": ID}]}},
    ("removeSuppressions", "body"): {"by address": {"emails": ["moss@example.com"]}, "by id": {"ids": [ID]}},
    ("removeSuppressions", "answer"): {
        "off the list": {"data": [{"object": "suppression", "id": ID, "deleted": True}]}
    },
    ("listSandbox", "answer"): {
        "one mail": page(
            {
                "id": ID,
                "envelope_from": "shop@example.com",
                "envelope_to": ["moss@example.com"],
                "subject": "Your order",
                "received_at": "2026-12-24T18:00:01.123456+00:00",
            }
        )
    },
    ("errors", "answer"): {
        "validation_error": "The `to` field: 'moss' is not a valid email address: it must have an @-sign.",
        "missing_required_field": "The `subject` field is missing.",
        "invalid_parameter": "`limit` must be a whole number from 1 to 100.",
        "invalid_attachment": "The `attachments` field, item 0 (counted from 0): `content` is not valid base64.",
        "invalid_from_address": "The `from` field: 'shop' is not a valid email address: it must have an @-sign.",
        "invalid_access": "The `permission` field must be `full_access` or `sending_access`.",
        "missing_api_key": "The API key is missing: send the header `Authorization: Bearer YOUR_KEY`.",
        "restricted_api_key": "This API key may only send emails.",
        "invalid_api_key": "The API key is unknown, revoked or expired.",
        "not_found": f"There is no email {ID}.",
        "method_not_allowed": "PUT is not allowed at /emails.",
        "invalid_idempotency_key": "The header `Idempotency-Key` must have 1 to 256 printable characters.",
        "invalid_idempotent_request": "This `Idempotency-Key` was used within the last 24 hours for another body.",
        "concurrent_idempotent_requests": "The first request with this `Idempotency-Key` is still being stored: "
        "try again.",
        "rate_limit_exceeded": "Too many requests: this key may make 10 a second. Try again in 1 s.",
        "daily_quota_exceeded": "This key's quota of 1000 emails a day does not suffice for 1 more.",
        "application_error": "Something went wrong here. It has been logged.",
    },
}
