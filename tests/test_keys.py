"""API keys: made once, shown once, kept as a hash, limited if wanted, and refused when revoked or expired."""

import io
import logging
from datetime import timedelta

import pytest
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.db import InterfaceError, OperationalError, connection
from django.utils import timezone

from emails.models import ApiKey, EmailRequest
from tests.test_api import FULL, ids, refuse

pytestmark = pytest.mark.django_db


def make(*arguments: str) -> str:
    output = io.StringIO()
    call_command("apikey", "create", *arguments, stdout=output)
    return output.getvalue()


def use(client, key: str, **extra):
    return client.post("/emails", FULL, "application/json", HTTP_AUTHORIZATION=f"Bearer {key}", **extra)


@pytest.mark.django_db(transaction=True)
def test_the_command_prints_only_the_key(start, client):
    """For `KEY=$(manage.py apikey create shop)`."""
    process = start("apikey", "create", "shop")
    assert process.popen.wait(30) == 0
    key = process.text()
    assert key.startswith(ApiKey.PREFIX)
    assert key.count("\n") == 1
    assert use(client, key.strip()).status_code == 200


def test_only_a_hash_of_the_key_is_kept(client):
    key = make("shop").strip()
    kept = ApiKey.objects.get()
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM emails_apikey")
        row = cursor.fetchone()
    assert key not in str(row)
    assert kept.start == key[:8]
    assert len(key) - len(kept.start) > 20  # what is shown of it doesn't help to guess the rest
    assert str(kept) == "shop"


def test_two_keys_of_one_name_are_two_keys():
    assert make("shop") != make("shop")


@pytest.mark.parametrize("name", ["", "   ", "x" * 101, "a\nb", "a\0b"])
def test_a_name_that_cannot_be_kept(name):
    with pytest.raises(CommandError, match="1 to 100 characters"):
        make(name)
    assert not ApiKey.objects.exists()


@pytest.mark.parametrize("problem", [OperationalError, InterfaceError])
def test_without_a_database_the_command_says_what_to_do(problem):
    def away(execute, sql, params, many, context):
        raise problem("no such table: emails_apikey")

    with connection.execute_wrapper(away), pytest.raises(CommandError, match="make run"):
        make("shop")


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Bearer    ", "Basic c2hvcDpzaG9w", "{key}", "Token {key}", "Bearer{key}"],
)
def test_a_missing_key(client, header):
    header = header.format(key=make("shop").strip())
    extra = {"HTTP_AUTHORIZATION": header} if header else {}
    answer = client.post("/emails", FULL, "application/json", **extra)
    assert "Authorization: Bearer YOUR_KEY" in refuse(answer, 401, "missing_api_key")
    assert answer["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "key", ["x", "ms_", "ms_" + "x" * 32, "\xff\xfe", "a b", "x" * 100_000, "' OR 1=1 --", "\0", "null"]
)
def test_a_key_that_nobody_made(client, key):
    make("shop")
    assert key not in refuse(use(client, key), 403, "invalid_api_key").replace("expired", "")


def test_the_hash_is_no_key(client):
    make("shop")
    refuse(use(client, ApiKey.objects.get().digest), 403, "invalid_api_key")


def test_a_revoked_key_is_refused_and_another_still_works(client):
    revoked, other = make("old").strip(), make("new").strip()
    ApiKey.objects.get(name="old").revoke()
    refuse(use(client, revoked), 403, "invalid_api_key")
    assert use(client, other).status_code == 200


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "Bearer "])
def test_the_schemes_case_and_a_second_space_do_not_matter(client, scheme):
    key = make("shop").strip()
    answer = client.post("/emails", FULL, "application/json", HTTP_AUTHORIZATION=f"{scheme} {key} ")
    assert answer.status_code == 200


def test_the_key_appears_in_no_log_and_in_no_answer(client, caplog):
    """Neither when all goes well, nor when the request is refused, nor when we break."""
    key = make("shop").strip()
    caplog.set_level(logging.DEBUG)

    def broken(execute, sql, params, many, context):
        if "emails_emailrequest" in sql:
            raise RuntimeError("broken")
        return execute(sql, params, many, context)

    answers = [use(client, key), client.post("/emails", {}, "application/json", HTTP_AUTHORIZATION=f"Bearer {key}")]
    answers.append(client.get(f"/emails/{answers[0].json()['id']}", HTTP_AUTHORIZATION=f"Bearer {key}"))
    with connection.execute_wrapper(broken):
        answers.append(use(client, key))
    assert [answer.status_code for answer in answers] == [200, 422, 200, 500]
    for answer in answers:
        assert key not in answer.content.decode()
        assert key not in str(answer.headers)
    assert "broken" in caplog.text
    assert key not in caplog.text


# What a key may


def key(client, **fields):
    """The client with a new key of these fields."""
    client.defaults["HTTP_AUTHORIZATION"] = f"Bearer {ApiKey.create('shop', **fields)[1]}"
    return client


def test_a_key_for_sending_only_sends_and_does_nothing_else(client):
    sender = key(client, permission="sending_access")
    id = sender.post("/emails", FULL, "application/json").json()["id"]
    assert sender.post("/emails/batch", [FULL], "application/json").status_code == 200
    assert sender.post("/emails?dry_run=true", FULL, "application/json").status_code == 200
    for call, path in (
        (sender.get, "/emails"),
        (sender.head, "/emails"),
        (sender.get, f"/emails/{id}"),
        (sender.get, f"/emails/{id}/events"),
        (sender.patch, f"/emails/{id}"),
        (sender.post, f"/emails/{id}/cancel"),
        (sender.get, "/api-keys"),
        (sender.post, "/api-keys"),
        (sender.delete, "/api-keys/x"),
        (sender.get, "/suppressions"),
        (sender.post, "/suppressions/batch/add"),
        (sender.get, "/sandbox/messages"),
    ):
        answer = call(path)
        assert answer.status_code == 401, path
        if call != sender.head:
            refuse(answer, 401, "restricted_api_key")
    refuse(sender.delete("/emails"), 405, "method_not_allowed")
    refuse(sender.get("/webhooks"), 404, "not_found")


@pytest.mark.parametrize("sender", ["shop@example.com", "Shop <shop@EXAMPLE.com>", "a@xn--bcher-kva.example"])
def test_a_key_limited_to_domains_sends_from_these(client, sender):
    limited = key(client, domains=["Example.COM", " bücher.example "])
    assert ApiKey.objects.get().domains == ["example.com", "xn--bcher-kva.example"]
    assert limited.post("/emails", {**FULL, "from": sender}, "application/json").status_code == 200


@pytest.mark.parametrize("sender", ["shop@mail.example.com", "shop@example.org", "shop@example.com.evil.example"])
def test_a_key_limited_to_domains_sends_from_no_other(client, sender):
    limited = key(client, domains=["example.com"])
    for path, body in (("/emails", {**FULL, "from": sender}), ("/emails/batch", [FULL, {**FULL, "from": sender}])):
        message = refuse(limited.post(path, body, "application/json"), 422, "invalid_from_address")
        assert "may send from example.com only" in message
    assert not EmailRequest.objects.exists()


def test_a_key_ends_with_its_time(client):
    timed = key(client, expires_at=timezone.now() + timedelta(hours=1))
    assert timed.get("/emails").status_code == 200
    ended = ApiKey.objects.get()
    ended.expires_at = timezone.now()
    ended.save()
    assert "expired" in refuse(timed.get("/emails"), 403, "invalid_api_key")


def test_a_keys_own_priority_is_for_singles_that_say_nothing(client):
    urgent = key(client, priority=0)
    for path, body, queue in (
        ("/emails", FULL, "high"),
        ("/emails", {**FULL, "priority": "low"}, "low"),
        ("/emails/batch", [FULL], "low"),
    ):
        urgent.post(path, body, "application/json")
        assert EmailRequest.objects.order_by("-pk").first().queue == queue


def test_a_bare_phrase_is_in_the_keys_time_zone(client):
    far = key(client, time_zone="Pacific/Kiritimati")
    far.post("/emails", {**FULL, "scheduled_at": "tomorrow at 9am"}, "application/json")
    assert EmailRequest.objects.get().scheduled_at.hour == 19  # of the day before, in UTC


def test_what_another_process_changes_of_a_key_is_seen_within_a_second(client, monkeypatch):
    used, now = key(client), timezone.now()
    monkeypatch.setattr(timezone, "now", lambda: now)
    assert used.get("/emails").status_code == 200
    ApiKey.objects.update(revoked_at=now)  # as another process: this one's copy is as it was
    assert used.get("/emails").status_code == 200
    monkeypatch.setattr(timezone, "now", lambda: now + timedelta(seconds=1))
    refuse(used.get("/emails"), 403, "invalid_api_key")


def test_use_is_noted_at_most_once_a_minute(client, django_assert_num_queries):
    used = key(client)
    assert ApiKey.objects.get().last_used_at is None
    used.get("/emails")
    first = ApiKey.objects.get().last_used_at
    assert timezone.now() - first < timedelta(minutes=1)
    kept = ApiKey.objects.get()
    kept.save()
    with django_assert_num_queries(2):  # no write
        used.get("/emails")
    assert ApiKey.objects.get().last_used_at == first
    kept.last_used_at -= timedelta(seconds=61)
    kept.save()
    used.get("/emails")
    assert ApiKey.objects.get().last_used_at > first


# Over the API


def test_keys_are_made_listed_renamed_and_revoked(api, client):
    answer = api.post("/api-keys", {"name": "shop", "permission": "sending_access"})
    assert answer.status_code == 201
    assert answer.json().keys() == {"id", "token"}
    id, token = answer.json()["id"], answer.json()["token"]
    listed = api.get("/api-keys").json()
    assert [row["name"] for row in listed["data"]] == ["shop", "tests"]
    assert token not in str(listed)
    assert listed["data"][0] == {
        "id": id,
        "name": "shop",
        "created_at": ApiKey.objects.get(pk=id).created_at.isoformat(),
        "last_used_at": None,
        "permission": "sending_access",
        "domains": [],
        "priority": "default",
        "time_zone": "UTC",
        "rate_limit": None,
        "daily_quota": None,
        "expires_at": None,
    }
    assert api.patch(f"/api-keys/{id}", {"name": " till "}, "application/json").json() == {
        "object": "api_key",
        "id": id,
    }
    assert ApiKey.objects.get(pk=id).name == "till"
    assert api.delete(f"/api-keys/{id}", {}, "application/json").json() == {
        "object": "api_key",
        "id": id,
        "deleted": True,
    }
    refuse(api.post("/emails", FULL, HTTP_AUTHORIZATION=f"Bearer {token}"), 403, "invalid_api_key")
    refuse(api.delete(f"/api-keys/{id}"), 404, "not_found")
    refuse(api.patch(f"/api-keys/{id}", {"name": "x"}, "application/json"), 404, "not_found")
    assert len(ids(api.get("/api-keys?limit=1"))) == 1


def test_a_key_with_everything(api):
    fields = {
        "name": "shop",
        "permission": "full_access",
        "domains": ["example.com"],
        "expires_at": (timezone.now() + timedelta(days=1)).isoformat(),
        "priority": "high",
        "time_zone": "Europe/Berlin",
        "rate_limit": 10,
        "daily_quota": 1000,
    }
    assert api.post("/api-keys", fields).status_code == 201
    made = api.get("/api-keys?limit=1").json()["data"][0]
    assert {name: made[name] for name in fields} == fields


@pytest.mark.parametrize(
    ("fields", "name", "shown"),
    [
        ({"name": None}, "missing_required_field", "`name`"),
        ({"name": ""}, "missing_required_field", "`name`"),
        ({"name": "  "}, "validation_error", "1 to 100 characters"),
        ({"name": "x" * 101}, "validation_error", "1 to 100 characters"),
        ({"name": "a\nb"}, "validation_error", "control character"),
        ({"name": "a\0b"}, "validation_error", "control character"),
        ({"name": ["shop"]}, "validation_error", "`name`"),
        ({"name": 5}, "validation_error", "a string"),
        ({"permission": "admin"}, "invalid_access", "`permission`"),
        ({"permission": 5}, "validation_error", "`permission`"),
        ({"domain_id": "x"}, "validation_error", "`domains`"),
        ({"domains": "example.com"}, "validation_error", "a list"),
        ({"domains": [""]}, "validation_error", "`domains`"),
        ({"domains": [5]}, "validation_error", "`domains`"),
        ({"domains": ["a@example.com"]}, "validation_error", "`domains`"),
        ({"domains": ["exa mple.com"]}, "validation_error", "`domains`"),
        ({"expires_at": "tomorrow"}, "validation_error", "ISO 8601"),
        ({"expires_at": 5}, "validation_error", "`expires_at`"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "validation_error", "past"),
        ({"expires_at": "0001-01-01T00:00:00+14:00"}, "validation_error", "`expires_at`"),
        ({"expires_at": "9999-12-31T23:59:59-14:00"}, "validation_error", "`expires_at`"),
        ({"priority": "urgent"}, "validation_error", "`priority`"),
        ({"priority": 0}, "validation_error", "`priority`"),
        ({"time_zone": "Middle/Earth"}, "validation_error", "`time_zone`"),
        ({"time_zone": "../../etc/passwd"}, "validation_error", "`time_zone`"),
        ({"time_zone": "\0"}, "validation_error", "`time_zone`"),
        ({"rate_limit": 0}, "validation_error", "`rate_limit`"),
        ({"rate_limit": -1}, "validation_error", "`rate_limit`"),
        ({"rate_limit": 1.5}, "validation_error", "`rate_limit`"),
        ({"rate_limit": True}, "validation_error", "`rate_limit`"),
        ({"daily_quota": 10**18}, "validation_error", "`daily_quota`"),
        ({"daily_quota": "5"}, "validation_error", "a whole number"),
        ({"token": "ms_mine"}, "validation_error", "`token` is not supported"),
        ({"id": "01234567-89ab-7def-8123-456789abcdef"}, "validation_error", "`id` is not supported"),
    ],
)
def test_what_makes_no_key(api, fields, name, shown):
    assert shown in refuse(api.post("/api-keys", {"name": "shop", **fields}), 422, name)
    assert ApiKey.objects.count() == 1


@pytest.mark.parametrize("limits", [{"domains": ["example.com"]}, {"expires_at": timezone.now() + timedelta(days=1)}])
def test_a_limited_key_makes_no_other(client, limits):
    """It could make one that may more, or for longer."""
    limited = key(client, **limits)
    message = refuse(limited.post("/api-keys", {"name": "x"}, "application/json"), 401, "restricted_api_key")
    assert "can't make others" in message
    assert limited.get("/api-keys").status_code == 200


# On the command line


def run(*arguments: str) -> str:
    output = io.StringIO()
    call_command("apikey", *arguments, stdout=output)
    return output.getvalue()


def test_the_command_makes_a_key_with_everything(client):
    soon = (timezone.now() + timedelta(days=1)).isoformat()
    words = ["--sending-only", "--domain", "example.com", "--domain", "example.org", "--expires", soon]
    words += ["--priority", "high", "--time-zone", "Europe/Berlin", "--rate-limit", "5", "--daily-quota", "100"]
    assert use(client, run("create", "shop", *words).strip()).status_code == 200
    made = ApiKey.objects.get()
    assert (made.permission, made.domains) == ("sending_access", ["example.com", "example.org"])
    assert (made.priority, made.time_zone, made.rate_limit, made.daily_quota) == (0, "Europe/Berlin", 5, 100)
    assert made.expires_at.isoformat() == soon


@pytest.mark.parametrize(
    "words",
    [
        ("--domain", "a@b"),
        ("--time-zone", "x"),
        ("--rate-limit", "0"),
        ("--expires", "2020-01-01"),
        ("--expires", "soon"),
        ("--priority", "x"),
    ],
)
def test_the_command_refuses_what_the_model_refuses(words):
    with pytest.raises(CommandError):
        run("create", "shop", *words)
    assert not ApiKey.objects.exists()


def test_the_command_lists_and_revokes(client):
    token, other = make("shop").strip(), make("other").strip()
    run("create", "mailer", "--sending-only", "--domain", "example.com", "--expires", "2999-01-01")
    listed = run("list").splitlines()
    assert "mailer: sending only from example.com, never used, expires 2999-01-01" in listed[0]
    assert f"{token[:8]}…  shop: full access, never used" in listed[2]
    assert token not in "".join(listed)
    assert run("revoke", token[:8]) == "Revoked shop.\n"
    refuse(use(client, token), 403, "invalid_api_key")
    assert use(client, other).status_code == 200
    assert "revoked" in run("list").splitlines()[2] and "last used" in run("list").splitlines()[1]
    with pytest.raises(CommandError, match="apikey list"):
        run("revoke", token[:8])
    run("revoke", str(ApiKey.objects.get(name="other").pk))
    refuse(use(client, other), 403, "invalid_api_key")


# In the database


@pytest.mark.parametrize("fields", [{"name": "a\nb"}, {"domains": ["a@b"]}, {"time_zone": "x"}, {"rate_limit": 0}])
def test_the_admins_form_asks_the_same(fields):
    changed = ApiKey.create("shop")[0]
    for name, value in fields.items():
        setattr(changed, name, value)
    with pytest.raises(ValidationError):
        changed.full_clean()
