"""Examples for the API's description, by operation. Tests send those that can be sent."""

ID = "0193a1e2-7d4c-7b3a-9a53-6f1f6f2f9c1d"
EMAIL = {
    "from": "Shop <shop@example.com>",
    "to": ["moss@example.com"],
    "subject": "Your order",
    "html": "<p>Thank you!</p>",
    "text": "Thank you!",
}

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
    ("sendEmail", "answer"): {"accepted": {"id": ID}},
    ("sendBatch", "body"): {"two emails": [EMAIL, {**EMAIL, "to": "jen@example.com"}]},
    ("sendBatch", "answer"): {
        "strict": {"data": [{"id": ID}]},
        "permissive": {
            "data": [{"id": ID}],
            "errors": [{"index": 1, "message": "The `to` field is missing: give at least one recipient."}],
        },
    },
    ("rescheduleEmail", "body"): {"by a phrase": {"scheduled_at": "tomorrow at 9am"}},
    ("makeApiKey", "body"): {
        "for a shop": {"name": "shop", "permission": "sending_access", "domains": ["example.com"]}
    },
    ("renameApiKey", "body"): {"another name": {"name": "till"}},
    ("addSuppression", "body"): {"an address": {"email": "moss@example.com"}},
    ("addSuppressions", "body"): {"two addresses": {"emails": ["moss@example.com", "jen@example.com"]}},
    ("removeSuppressions", "body"): {"by address": {"emails": ["moss@example.com"]}, "by id": {"ids": [ID]}},
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
