"""The shapes of the API's bodies, as JSON Schema: what the description names, by the limits that the code has."""

from typing import Any

from emails.api.errors import NAMES
from emails.api.serializers import LAST_EVENT
from emails.drafts import MAX_ATTACHMENTS, MAX_HEADER, MAX_HEADERS, MAX_RECIPIENTS, MAX_SUBJECT, MAX_TAGS
from emails.models import ApiKey, Event, Priority, Recipient, Suppression
from emails.states import State

TEXT = {"type": "string"}
BINARY = {"type": "string", "contentMediaType": "application/octet-stream"}
ID = {"type": "string", "format": "uuid"}
MOMENT = {"type": "string", "format": "date-time"}


def ref(name: str | dict) -> dict:
    return name if isinstance(name, dict) else {"$ref": f"#/components/schemas/{name}"}


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None, **more: Any) -> dict:
    properties = {**required, **(optional or {})}
    shape = {"type": "object", "properties": properties, "additionalProperties": False, **more}
    return {**shape, "required": list(required)} if required else shape


def _nullable(schema: dict) -> dict:
    if isinstance(schema.get("type"), str):
        enum = {"enum": [*schema["enum"], None]} if "enum" in schema else {}
        return {**schema, "type": [schema["type"], "null"], **enum}
    return {"anyOf": [schema, {"type": "null"}]}


def _list_of(name: str | dict, **more: Any) -> dict:
    return {"type": "array", "items": ref(name), **more}


def _page_of(name: str) -> dict:
    return _object({"object": {"const": "list"}, "has_more": {"type": "boolean"}, "data": _list_of(name)})


def _addresses(description: str, *nothing: dict) -> dict:
    shape = {"anyOf": [ref("Address"), _list_of("Address", maxItems=MAX_RECIPIENTS), *nothing]}
    return {**shape, "description": description} if description else shape


PRIORITY = {"type": "string", "enum": Priority.labels}
LOOKED_AT = {
    "object": {"const": "email"},
    "id": ID,
    "from": TEXT,
    "to": _list_of(TEXT),
    "cc": _list_of(TEXT),
    "bcc": _list_of(TEXT),
    "reply_to": _list_of(TEXT),
    "subject": TEXT,
    "created_at": MOMENT,
    "scheduled_at": _nullable(MOMENT),
    "last_event": {"type": "string", "enum": sorted(set(LAST_EVENT.values())), "description": "In Resend's words."},
    "state": {"type": "string", "enum": sorted(State.values), "description": "In ours, which say more."},
    "priority": PRIORITY,
    "message_id": {"type": "string", "description": "The Message-ID header, with its <>."},
    "tags": _list_of("Tag"),
}
WITH_BODIES = {
    **LOOKED_AT,
    "html": _nullable(TEXT),
    "text": _nullable(TEXT),
    "recipients": _list_of("Recipient"),
    "explanation": {
        "type": "string",
        "description": "Why it waits and what happens next, or how it ended: one or two sentences for a person.",
    },
}
ATTACHMENT = {
    "id": ID,
    "filename": TEXT,
    "size": {"type": "integer"},
    "content_type": TEXT,
    "content_disposition": {"type": "string", "enum": ["attachment", "inline"]},
    "content_id": _nullable(TEXT),
    "download_url": {"type": "string", "format": "uri"},
    "expires_at": MOMENT,
}
SUPPRESSION = {
    "id": ID,
    "email": TEXT,
    "origin": {"type": "string", "enum": Suppression.Origin.values},
    "created_at": MOMENT,
    "source_id": {"type": "null"},
}
LOG = {
    "id": ID,
    "created_at": MOMENT,
    "endpoint": {"type": "string", "description": "The path."},
    "method": TEXT,
    "response_status": {"type": "integer"},
    "user_agent": TEXT,
    "request_id": {"type": "string", "description": "The answer's `request-id`."},
    "key": _nullable({"type": "string", "description": "The API key's name."}),
    "milliseconds": {"type": "integer"},
}
SUPPRESSED = {"object": {"const": "suppression"}, "id": ID}
KEY_OPTIONS = {
    "permission": {"type": "string", "enum": ApiKey.Permission.values, "default": "full_access"},
    "domains": _list_of(TEXT, description="From-domains that it may use; none means any."),
    "expires_at": MOMENT,
    "priority": {**PRIORITY, "description": "For single emails that say nothing."},
    "time_zone": {"type": "string", "description": "In which a bare `tomorrow at 9am` is read.", "default": "UTC"},
    "rate_limit": {"type": "integer", "minimum": 1, "maximum": 2**31 - 1, "description": "Requests a second."},
    "daily_quota": {"type": "integer", "minimum": 1, "maximum": 2**31 - 1, "description": "Emails a day (UTC)."},
}
BYTES = _list_of({"type": "integer", "minimum": 0, "maximum": 255})

SHAPES: dict[str, dict] = {
    "Error": _object(
        {
            "statusCode": {"type": "integer", "description": "The HTTP status."},
            "name": {"type": "string", "enum": sorted(NAMES)},
            "message": {"type": "string", "description": "What is wrong and what would be right, for a person."},
        }
    ),
    "Address": {"type": "string", "description": "`a@b` or `Name <a@b>`", "minLength": 1, "maxLength": 1000},
    "Tag": _object({name: {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,256}$"} for name in ("name", "value")}),
    "NewAttachment": _object(
        {
            "filename": {"type": "string", "minLength": 1, "maxLength": 1000},
            "content": {
                "anyOf": [
                    {"type": "string", "contentEncoding": "base64"},
                    BYTES,
                    {
                        "type": "object",
                        "properties": {"type": {"const": "Buffer"}, "data": BYTES},
                        "required": ["type", "data"],
                    },
                ],
                "description": "Base64, a list of byte values, or Node's Buffer as JSON.",
            },
        },
        {
            **{name: _nullable({"type": "string", "maxLength": 255}) for name in ("content_type", "contentType")},
            **{
                name: _nullable({"type": "string", "maxLength": 255, "description": "Makes it inline (`cid:`)."})
                for name in ("content_id", "contentId", "inline_content_id")
            },
            "path": {"type": "null", "description": "Not supported: this server fetches no URLs."},
        },
    ),
    "NewEmail": _object(
        {
            "from": ref("Address"),
            "to": _addresses("At most 50 with `cc` and `bcc`."),
            "subject": {"type": "string", "maxLength": MAX_SUBJECT},
        },
        {
            **{name: _addresses("", {"type": "null"}, {"const": ""}) for name in ("cc", "bcc", "reply_to")},
            "html": _nullable({"type": "string", "description": "One of `html` and `text` is needed."}),
            "text": _nullable(TEXT),
            "headers": _nullable(
                {
                    "type": "object",
                    "additionalProperties": {"type": "string", "maxLength": MAX_HEADER},
                    "maxProperties": MAX_HEADERS,
                }
            ),
            "attachments": _nullable(_list_of("NewAttachment", maxItems=MAX_ATTACHMENTS)),
            "tags": _nullable(_list_of("Tag", maxItems=MAX_TAGS)),
            "scheduled_at": _nullable(
                {"type": "string", "description": "ISO 8601, `in 2 hours` or `tomorrow at 9am`; at most 30 days ahead."}
            ),
            "priority": _nullable({**PRIORITY, "description": "Which queue; a batch's is `low`."}),
            "on_unknown": _nullable(
                {
                    "type": "string",
                    "enum": ["resend", "hold"],
                    "description": "What to do when nobody knows whether the relay has it.",
                }
            ),
            "topic_id": _nullable({"type": "string", "description": "Taken, without effect."}),
        },
    ),
    "NewBatch": _list_of("NewEmail", minItems=1, maxItems=100),
    "NewTime": _object({"scheduled_at": {"type": "string", "minLength": 1}}, {"id": {}}),
    "Accepted": _object({"id": ID}),
    "AcceptedBatch": _object(
        {"data": _list_of("Accepted")},
        {
            "errors": _list_of(
                _object({"index": {"type": "integer", "minimum": 0}, "message": TEXT}),
                description="In permissive mode: which emails were refused, counted from 0, and why.",
            )
        },
    ),
    "DryRun": _object(
        {
            "object": {"const": "dry_run"},
            "raw": {"type": "string", "description": "The final message, byte for byte."},
            "recipients": _list_of(TEXT),
            "suppressed": _list_of(
                TEXT, description="Recipients on the suppression list, or not on ONLY_TO: left out."
            ),
            "warnings": _list_of(TEXT),
        }
    ),
    "Changed": _object({"object": {"const": "email"}, "id": ID}),
    "Recipient": _object(
        {
            "address": TEXT,
            "state": {"type": "string", "enum": Recipient.State.values},
            "reply": _nullable({"type": "string", "description": "The relay's last word."}),
        }
    ),
    "ListedEmail": _object(LOOKED_AT),
    "EmailPage": _page_of("ListedEmail"),
    "Email": _object(WITH_BODIES),
    "Event": _object(
        {
            "id": {"type": "integer"},
            "created_at": MOMENT,
            "kind": {"type": "string", "enum": Event.Kind.values},
            "detail": TEXT,
        }
    ),
    "EventPage": _page_of("Event"),
    "ListedAttachment": _object(ATTACHMENT),
    "AttachmentPage": _page_of("ListedAttachment"),
    "Attachment": _object({"object": {"const": "attachment"}, **ATTACHMENT}),
    "NewKey": _object(
        {"name": {"type": "string", "minLength": 1, "maxLength": 100}},
        {name: _nullable(schema) for name, schema in KEY_OPTIONS.items()} | {"domain_id": {"type": "null"}},
    ),
    "NewName": _object({"name": {"type": "string", "minLength": 1, "maxLength": 100}}, {"id": {}}),
    "MadeKey": _object({"id": ID, "token": {"type": "string", "description": "The key itself: shown only now."}}),
    "Key": _object(
        {
            "id": ID,
            "name": TEXT,
            "created_at": MOMENT,
            "last_used_at": _nullable(MOMENT),
            **KEY_OPTIONS,
            **{name: _nullable(KEY_OPTIONS[name]) for name in ("expires_at", "rate_limit", "daily_quota")},
        }
    ),
    "KeyPage": _page_of("Key"),
    "RenamedKey": _object({"object": {"const": "api_key"}, "id": ID}),
    "RevokedKey": _object({"object": {"const": "api_key"}, "id": ID, "deleted": {"const": True}}),
    "NewSuppression": {**_object({"email": ref("Address")}), "additionalProperties": True},
    "Suppressed": _object(SUPPRESSED),
    "Suppression": _object({"object": {"const": "suppression"}, **SUPPRESSION}),
    "ListedSuppression": _object(SUPPRESSION),
    "SuppressionPage": _page_of("ListedSuppression"),
    "Released": _object({**SUPPRESSED, "deleted": {"const": True}}),
    "NewSuppressions": {
        **_object({"emails": _list_of("Address", minItems=1, maxItems=100)}),
        "additionalProperties": True,
    },
    "SuppressionsToRelease": {
        "anyOf": [
            {
                "type": "object",
                "properties": {name: {"type": "array", "items": TEXT, "minItems": 1, "maxItems": 100}},
                "required": [name],
            }
            for name in ("emails", "ids")
        ]
    },
    "SuppressedBatch": _object({"data": _list_of("Suppressed")}),
    "ReleasedBatch": _object({"data": _list_of("Released")}),
    "ListedLog": _object(LOG),
    "LogPage": _page_of("ListedLog"),
    "Log": _object(
        {"object": {"const": "log"}, **LOG, "request_body": {"type": "null"}, "response_body": {"type": "null"}}
    ),
    "SandboxMessage": _object(
        {
            "id": ID,
            "envelope_from": TEXT,
            "envelope_to": _list_of(TEXT),
            "subject": TEXT,
            "received_at": MOMENT,
        }
    ),
    "SandboxPage": _page_of("SandboxMessage"),
}
