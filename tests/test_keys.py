"""API keys: made once, shown once, kept as a hash, and refused when revoked."""

import io
import logging

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection

from emails.models import ApiKey
from tests.test_api import FULL, refuse

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


def test_without_a_database_the_command_says_what_to_do():
    def away(execute, sql, params, many, context):
        raise OperationalError("no such table: emails_apikey")

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
