"""Errors: each name that docs/api.md lists can be provoked, and the code knows no other."""

import ast
import json
import re
import threading
from collections.abc import Callable
from uuid import uuid4

import pytest
from django.db import OperationalError, connection, transaction
from django.utils import timezone

from emails.api.errors import NAMES
from emails.models import ApiKey, EmailRequest, IdempotencyKey
from tests.conftest import ROOT
from tests.environment import ON_POSTGRESQL
from tests.test_api import FULL, refuse

TABLE = re.findall(
    r"^\| `(\w+)` \| ([\d, ]+) \| (.+) \|$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE
)  # name, statuses, cause


def test_the_documented_errors_are_those_of_the_code():
    assert {name: tuple(map(int, codes.split(", "))) for name, codes, _ in TABLE} == NAMES
    assert len(TABLE) == len(NAMES)


def test_the_code_knows_no_other_name():
    """Whatever looks like one of Resend's names, in the files that make errors, is in the list."""
    resends = set(NAMES) | {
        "invalid_scope", "invalid_region", "monthly_quota_exceeded", "security_error", "internal_server_error",
        "missing_required_fields", "invalid_permission", "invalid_request", "bad_request",
    }  # fmt: skip
    found = set()
    for path in [*(ROOT / "emails" / "api").glob("*.py"), *(ROOT / "emails").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and node.value in resends:
                found.add(node.value)
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "ApiError":
                status, name = node.args[0], node.args[1]
                if isinstance(name, ast.Constant):
                    assert name.value in NAMES, (path.name, name.value)
                    if isinstance(status, ast.Constant):
                        assert status.value in NAMES[name.value], (path.name, name.value, status.value)
    assert found == set(NAMES)


# Each of them, over HTTP


def failing(error: Exception) -> Callable:
    def run(execute, sql, params, many, context):
        if "emails_emailrequest" in sql:
            raise error
        return execute(sql, params, many, context)

    return run


def with_a_failure(api, error: Exception):
    with connection.execute_wrapper(failing(error)):
        return api.get("/emails")


def limited(api, **limits):
    ApiKey.objects.update(**limits)
    api.post("/emails", FULL)
    return api.post("/emails", FULL)


def keyless(api, header: str | None):
    del api.defaults["HTTP_AUTHORIZATION"]
    return api.get("/emails", **({"HTTP_AUTHORIZATION": header} if header else {}))


def restricted(api):
    ApiKey.objects.update(permission="sending_access")
    return api.get("/emails")


def used_twice(api):
    api.post("/emails", FULL, headers={"Idempotency-Key": "a"})
    return api.post("/emails", {**FULL, "subject": "Another"}, headers={"Idempotency-Key": "a"})


def too_large(api, settings):
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000
    return api.post("/emails", {**FULL, "text": "x" * 1000})


WAYS: dict[tuple[str, int], Callable] = {
    ("validation_error", 400): lambda api, _: api.post("/emails", "{", content_type="application/json"),
    ("validation_error", 411): lambda api, _: api.post("/emails", FULL, HTTP_TRANSFER_ENCODING="chunked"),
    ("validation_error", 413): too_large,
    ("validation_error", 415): lambda api, _: api.post("/emails", "x", content_type="text/plain"),
    ("validation_error", 422): lambda api, _: api.post("/emails", {**FULL, "to": "moss"}),
    ("missing_required_field", 422): lambda api, _: api.post("/emails", {}),
    ("invalid_parameter", 422): lambda api, _: api.get("/emails?limit=0"),
    ("invalid_attachment", 422): lambda api, _: api.post("/emails", {**FULL, "attachments": [{}]}),
    ("invalid_from_address", 422): lambda api, _: api.post("/emails", {**FULL, "from": "shop"}),
    ("invalid_access", 422): lambda api, _: api.post("/api-keys", {"name": "x", "permission": "admin"}),
    ("missing_api_key", 401): lambda api, _: keyless(api, None),
    ("restricted_api_key", 401): lambda api, _: restricted(api),
    ("invalid_api_key", 403): lambda api, _: keyless(api, "Bearer ms_unknown"),
    ("not_found", 404): lambda api, _: api.get("/emails/x"),
    ("method_not_allowed", 405): lambda api, _: api.put("/emails"),
    ("invalid_idempotency_key", 400): lambda api, _: api.post("/emails", FULL, headers={"Idempotency-Key": ""}),
    ("invalid_idempotent_request", 409): lambda api, _: used_twice(api),
    ("rate_limit_exceeded", 429): lambda api, _: limited(api, rate_limit=1),
    ("daily_quota_exceeded", 429): lambda api, _: limited(api, daily_quota=1),
    ("application_error", 500): lambda api, _: with_a_failure(api, RuntimeError("broken")),
    ("application_error", 503): lambda api, _: with_a_failure(api, OperationalError("away")),
}


def test_there_is_a_way_to_each():
    listed = {(name, code) for name, codes in NAMES.items() for code in codes}
    assert listed == WAYS.keys() | {("concurrent_idempotent_requests", 409)}  # which has a test of its own


@pytest.mark.django_db
@pytest.mark.parametrize(("name", "status"), WAYS)
def test_each_can_be_provoked(api, settings, name, status):
    message = refuse(WAYS[name, status](api, settings), status, name)
    assert message.endswith(".") and len(message) > 15  # a sentence


@pytest.mark.stores
@pytest.mark.django_db(transaction=True)
def test_a_first_request_that_takes_too_long(api):
    """While the first use of a key is being stored, others wait, and are told so after some seconds.

    SQLite has one writer at a time: there a first request that is not done holds up every other.
    """
    if not ON_POSTGRESQL:
        pytest.skip("on PostgreSQL only")
    key, started, answered = ApiKey.objects.get(), threading.Event(), threading.Event()

    def first() -> None:
        with transaction.atomic():
            IdempotencyKey.objects.create(
                api_key=key, key="a", digest="x", emails=[str(uuid4())], created_at=timezone.now()
            )
            started.set()
            answered.wait(60)
        connection.close()

    slow = threading.Thread(target=first)
    slow.start()
    try:
        assert started.wait(30)
        answer = api.post("/emails", FULL, headers={"Idempotency-Key": "a"})
    finally:
        answered.set()
        slow.join()
    assert "try again" in refuse(answer, 409, "concurrent_idempotent_requests")
    assert not EmailRequest.objects.exists()


@pytest.mark.django_db
def test_every_error_is_short_whatever_was_sent(api):
    long = "x" * 50_000
    for answer in (
        api.get(f"/emails/{long}"),
        api.get(f"/webhooks/{long}"),
        api.put(f"/emails/{long}"),
        api.delete(f"/suppressions/{long}"),
        api.post("/emails", {**FULL, "to": long}),
        api.post("/emails", {**FULL, long: 1}),
        api.post("/emails", {**FULL, "headers": {long: "x"}}),
        api.post("/emails", {**FULL, "tags": [{"name": long, "value": long}]}),
        api.post("/emails", {**FULL, "scheduled_at": long}),
        api.post("/emails", {**FULL, "priority": long}),
        api.post("/api-keys", {"name": "x", "time_zone": long}),
        api.post("/api-keys", {"name": "x", "domains": [long]}),
        api.get(f"/emails?state={long}"),
        api.get(f"/emails?to={long}"),
    ):
        assert 400 <= answer.status_code < 500
        assert len(json.loads(answer.content)["message"]) < 400
