"""The API's description in OpenAPI 3.1: what its views are decorated with, and the shapes that they name.

drf-spectacular finds the views and puts the document together; `complete` adds what holds for all of them.
"""

import json
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiRequest, OpenApiResponse, extend_schema

from emails.api.errors import NAMES
from emails.api.examples import EXAMPLES
from emails.api.shapes import SHAPES, TEXT, ref
from emails.models import Suppression
from emails.states import State

ABOUT = """Mailsite's API speaks the wire format of Resend: its official clients, and Anymail's Resend backend, work
unmodified. Every answer is JSON, every error has one shape, and every answer has a `request-id`."""

TAGS = {
    "emails": "Emails: sending, looking, changing one's mind",
    "api-keys": "API keys",
    "suppressions": "Addresses that are not sent to",
    "logs": "The requests that the API had",
    "sandbox": "What the sandbox has received, for your tests",
    "downloads": "Attachments by their link",
}


# What views are decorated with


def described(
    id: str,
    summary: str,
    answer: str | dict,
    *,
    body: str | None = None,
    status: Sequence[int] = (200,),
    parameters: Sequence[OpenApiParameter] = (),
    errors: Sequence[int] = (),
    media_type: str = "application/json",
) -> Callable:
    """Describes a method of a view: the names of its shapes, its parameters, its own errors besides the usual ones."""
    response = OpenApiResponse(ref(answer), description="Done.", examples=_examples(id, "answer"))
    responses = {(code, media_type): response for code in status}
    request = {"application/json": OpenApiRequest(ref(body), examples=_examples(id, "body"))} if body else None
    return extend_schema(
        operation_id=id,
        summary=summary,
        request=request,
        responses=responses,
        parameters=list(parameters),
        extensions={"x-errors": list(errors)},
    )


def _examples(id: str, part: str) -> list[OpenApiExample]:
    return [OpenApiExample(name, value=value) for name, value in EXAMPLES.get((id, part), {}).items()]


def one_of(*names: str) -> dict:
    return {"oneOf": [ref(name) for name in names]}


def query(name: str, description: str, schema: dict, **more: Any) -> OpenApiParameter:
    return OpenApiParameter(name, schema, OpenApiParameter.QUERY, description=description, **more)


def header(name: str, description: str, schema: dict) -> OpenApiParameter:
    return OpenApiParameter(name, schema, OpenApiParameter.HEADER, description=description)


def in_path(name: str, description: str, schema: dict | None = None) -> OpenApiParameter:
    return OpenApiParameter(
        name, schema or {"type": "string", "format": "uuid"}, OpenApiParameter.PATH, description=description
    )


EMAIL_ID = in_path("id", "The email's id.")
LIMIT = query("limit", "How many items.", {"type": "integer", "minimum": 1, "maximum": 100, "default": 20})
AFTER = query("after", "The id of the item after which to go on.", {"type": "string", "format": "uuid"})
BEFORE = query("before", "The id of the item before which to end; not with `after`.", AFTER.type)
PAGE = (LIMIT, AFTER, BEFORE)
WHOLE = query("limit", LIMIT.description, {**LIMIT.type, "default": 100})
WHOLE_PAGE = (WHOLE, AFTER, BEFORE)
EVENTS_PAGE = (
    WHOLE,
    query("after", AFTER.description, {"type": "integer"}),
    query("before", BEFORE.description, {"type": "integer"}),
)
DRY_RUN = query(
    "dry_run",
    "`true` stores nothing: the answer is what would be sent, to whom, and what a mail expert would say.",
    {"type": "string", "enum": ["true", "false"]},
)
IDEMPOTENCY_KEY = header(
    "Idempotency-Key",
    "Within 24 hours the same key and the same body are stored once; the answer is that of the first request.",
    {"type": "string", "minLength": 1, "maxLength": 256},
)
VALIDATION = header(
    "x-batch-validation",
    "`strict`: one bad email refuses all. `permissive`: the good ones are accepted, the others named in `errors`.",
    {"type": "string", "enum": ["strict", "permissive"], "default": "strict"},
)
FILTERS = (
    query("to", "Emails to this address, or to a domain: `@example.com`.", {"type": "string"}),
    query("state", "Emails in this state.", {"type": "string", "enum": sorted(State.values)}),
    query("tag", "Emails with a tag of this name, or of this `name:value`.", {"type": "string"}),
    query("created_after", "Emails accepted after this moment, in ISO 8601.", {"type": "string"}),
)
ORIGIN = query("origin", "Why they are on the list.", {"type": "string", "enum": Suppression.Origin.values})
ENVELOPE_TO = query("to", "An envelope recipient.", {"type": "string"})


ERRORS = {
    400: "The body is no JSON, or a header or the request as a whole can't be understood.",
    401: "The key is missing, or may not do this.",
    403: "The key is unknown, revoked or expired.",
    404: "There is no such thing.",
    409: "The `Idempotency-Key` was used for another body, or its first request is still being stored.",
    411: "The body came in chunks, without its length.",
    413: "The body is too large.",
    415: "The body is not declared as `application/json`.",
    422: "A field or a parameter is missing or wrong: the message names it.",
    429: "The key's requests a second, or its emails a day, are spent.",
    500: "A defect of ours. It has been logged.",
    503: "The database can't be reached: nothing was stored; try again.",
}
ALWAYS = (401, 403, 429, 500, 503)
WITH_BODY = (400, 411, 413, 415, 422)
WITH_QUERY = (400, 422)

# Where an answer leads: operation, status, and the operations that take something out of it.
_ITS_ID = {"id": "$response.body#/id"}
_FIRST = {"id": "$response.body#/data/0/id"}
LINKS: dict[str, dict[str, dict[str, dict]]] = {
    "sendEmail": {
        "200": dict.fromkeys(("getEmail", "rescheduleEmail", "cancelEmail", "listEvents", "listAttachments"), _ITS_ID)
    },
    "sendBatch": {"200": {"getEmail": _FIRST}},
    "listAttachments": {
        "200": {"getAttachment": {"id": "$request.path.id", "attachment_id": "$response.body#/data/0/id"}}
    },
    "makeApiKey": {"201": dict.fromkeys(("renameApiKey", "revokeApiKey"), _ITS_ID)},
    "addSuppression": {"201": dict.fromkeys(("getSuppression", "removeSuppression"), _ITS_ID)},
    "listSandbox": {"200": {"getSandboxMessage": _FIRST}},
}

RATE = ("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset")
HEADERS = {
    "request-id": {"description": "In our log too; the caller's own, if sent.", "schema": TEXT, "required": True},
    "idempotent-replayed": {"description": "`true`: an earlier request's answer.", "schema": TEXT},
    "ratelimit-limit": {"description": "Requests a second, where the key has a limit.", "schema": TEXT},
    "ratelimit-remaining": {"description": "How many of them are left.", "schema": TEXT},
    "ratelimit-reset": {"description": "In how many seconds all are there again.", "schema": TEXT},
    "retry-after": {"description": "Seconds to wait before trying again.", "schema": TEXT},
}


# The document


class BearerKeyScheme(OpenApiAuthenticationExtension):
    target_class = "emails.api.auth.BearerKey"
    name = "key"

    def get_security_definition(self, auto_schema: AutoSchema) -> dict:
        return {"type": "http", "scheme": "bearer", "description": "An API key: `Authorization: Bearer ms_…`."}


class Description(AutoSchema):
    def get_tags(self) -> list[str]:
        return [self.path.split("/")[1]]

    def get_auth(self) -> list[dict]:
        return [{"key": []}] if self.view.authentication_classes else []


def complete(result: dict, **context: Any) -> dict:
    """drf-spectacular's last step: the shapes, and what holds for every operation."""
    components = result["components"]
    components["schemas"] = SHAPES
    components["headers"] = HEADERS
    components["responses"] = {str(code): _error(code) for code in ERRORS}
    for path, operations in result["paths"].items():
        for operation in operations.values():
            _complete(operation, path)
    result["info"]["description"] = ABOUT
    result["tags"] = [{"name": name, "description": about} for name, about in TAGS.items()]
    return result


def _complete(operation: dict, path: str) -> None:
    names = {(parameter["in"], parameter["name"]) for parameter in operation.get("parameters", [])}
    codes = set(ALWAYS) if "security" in operation else {500, 503}
    codes |= set(WITH_BODY) if "requestBody" in operation else set()
    codes |= set(WITH_QUERY) if any(place == "query" for place, _ in names) else set()
    codes |= {404} if "{" in path else set()
    codes |= set(operation.pop("x-errors", ()))
    for code, links in LINKS.get(operation["operationId"], {}).items():
        operation["responses"][code]["links"] = {
            to: {"operationId": to, "parameters": parameters} for to, parameters in links.items()
        }
    headers = ["request-id", *(RATE if "security" in operation else ())]
    headers += ["idempotent-replayed"] if ("header", "Idempotency-Key") in names else []
    for response in operation["responses"].values():
        response["headers"] = _named(headers)
    errors = {str(code): {"$ref": f"#/components/responses/{code}"} for code in codes}
    operation["responses"] = dict(sorted((operation["responses"] | errors).items()))


def _named(headers: Sequence[str]) -> dict:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in headers}


def _error(code: int) -> dict:
    examples = {
        name: {"value": {"statusCode": code, "name": name, "message": EXAMPLES["errors", "answer"][name]}}
        for name, codes in NAMES.items()
        if code in codes
    }
    return {
        "description": ERRORS[code],
        "content": {"application/json": {"schema": ref("Error"), "examples": examples}},
        "headers": _named(["request-id", *RATE, *(["retry-after"] if code in (429, 503) else [])]),
    }


@cache
def document() -> bytes:
    return json.dumps(SchemaGenerator().get_schema(request=None, public=True), indent=1).encode()
