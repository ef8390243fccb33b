"""Each answer has a `request-id`, and each request of the API one line in the log, with the same id and no secret."""

import logging
import re
from uuid import UUID

import pytest
from django.db import connection
from django.views.debug import ExceptionReporter

from emails.models import ApiKey
from tests.test_api import FULL, refuse

pytestmark = pytest.mark.django_db

LINE = re.compile(r"([A-Z]+) (\S+) (\d{3}) in (\d+) ms, key (.+), from 127\.0\.0\.1, request (\S+)")


def lines(caplog) -> list[re.Match]:
    said = [record.getMessage() for record in caplog.records if record.name == "emails.api.middleware"]
    found = [LINE.fullmatch(line) for line in said]
    assert all(found), said
    return found


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("get", "/emails", 200),
        ("post", "/emails", 422),
        ("put", "/emails", 405),
        ("get", "/emails/x", 404),
        ("get", "/webhooks", 404),
        ("get", "/emails/%0A%1b[31m", 404),
        ("get", "/downloads/x", 404),
    ],
)
def test_each_request_has_an_id_and_one_line(api, caplog, method, path, status):
    caplog.set_level(logging.INFO)
    answer = getattr(api, method)(path)
    assert answer.status_code == status
    assert UUID(answer["request-id"]).version == 7
    [line] = lines(caplog)
    assert (line[1], line[3], line[6]) == (method.upper(), str(status), answer["request-id"])
    assert line[5] == ("-" if path in ("/webhooks", "/downloads/x") else "tests")
    assert not [record for record in caplog.records if record.name == "django.request"]  # which would be a second one
    assert line[0].isprintable()


def test_who_has_no_key_is_in_the_log_too(client, caplog):
    caplog.set_level(logging.INFO)
    for extra in ({}, {"HTTP_AUTHORIZATION": "Bearer x"}):
        assert client.get("/emails", **extra)["request-id"]
    assert [(line[3], line[5]) for line in lines(caplog)] == [("401", "-"), ("403", "-")]


@pytest.mark.parametrize("path", ["/nowhere", "/health/live", "/login"])
def test_other_answers_have_an_id_and_no_line(client, caplog, path):
    caplog.set_level(logging.INFO)
    assert client.get(path)["request-id"]
    assert not lines(caplog)


def test_what_changes_something_on_a_page_has_a_line(client, caplog):
    caplog.set_level(logging.INFO)
    client.post("/login", {"username": "moss", "password": "a secret"})
    client.post("/login/a-token")
    assert [(line[1], line[2], line[3]) for line in lines(caplog)] == [
        ("POST", "/login", "200"),
        ("POST", "/login/…", "405"),
    ]


def test_a_host_name_that_is_not_ours(api):
    assert api.get("/emails", HTTP_HOST="evil.example")["request-id"]


@pytest.mark.parametrize("name", ["request-id", "X-Request-ID"])
def test_the_callers_id_is_kept_if_it_is_sane(api, name):
    for given in ("order-4711", "01a2124a-0f29-72bb-8feb-9b2b442e4f9d", "a" * 128):
        assert api.get("/emails", headers={name: given})["request-id"] == given
    for given in ("", "short", "a" * 129, "line\nbreak", "two words", "é" * 10, '"quoted"', "\x1b[31mred"):
        assert UUID(api.get("/emails", headers={name: given})["request-id"]).version == 7


def test_the_line_of_an_endless_path_ends(api, caplog):
    caplog.set_level(logging.INFO)
    api.get("/emails/" + "x" * 5000)
    assert len(lines(caplog)[0][0]) < 400


# Secrets


def test_no_secret_appears_anywhere(client, caplog, settings):
    """Neither a key nor a body nor a link's signature: not in a log, an answer, or Django's pages for developers."""
    settings.DEBUG = True
    caplog.set_level(logging.DEBUG)
    token = ApiKey.create("shop")[1]
    client.defaults["HTTP_AUTHORIZATION"] = f"Bearer {token}"
    client.raise_request_exception = False

    def broken(execute, sql, params, many, context):
        if "emails_emailrequest" in sql or '"emails_attachment"' in sql:
            raise RuntimeError("broken")
        return execute(sql, params, many, context)

    def post(path, body):
        return client.post(path, body, "application/json")

    secret = "the body's secret"
    email = {**FULL, "text": secret, "attachments": [{"filename": "a.txt", "content": "YQ=="}]}
    id = post("/emails", email).json()["id"]
    path = client.get(f"/emails/{id}/attachments").json()["data"][0]["download_url"].partition("8000")[2]
    answers = [client.get(path), post("/emails", {**email, "to": "nobody"}), post("/emails", "{" + secret)]
    made = post("/api-keys", {"name": "another"})
    answers.append(client.delete(f"/api-keys/{made.json()['id']}"))
    with connection.execute_wrapper(broken):
        answers += [post("/emails", email), client.get("/emails"), client.get(path)]
    assert [answer.status_code for answer in answers] == [200, 422, 400, 200, 500, 500, 500]
    assert "RuntimeError: broken" in caplog.text
    for text in (caplog.text, *(f"{answer.headers}{answer.content}" for answer in answers)):
        for hidden in (token, made.json()["token"], secret, path.removeprefix("/downloads/")):
            assert hidden not in text


def test_django_does_not_show_a_key_when_its_look_up_breaks(client, rf):
    """The page for developers shows the variables of each frame; those that hold the key are left out."""
    token = ApiKey.create("shop")[1]

    def broken(execute, sql, params, many, context):
        raise RuntimeError("broken")

    request = rf.get("/emails", HTTP_AUTHORIZATION=f"Bearer {token}")
    for call in (lambda: ApiKey.find(token), lambda: ApiKey.create("another")):
        try:
            with connection.execute_wrapper(broken):
                call()
        except RuntimeError as error:
            reporter = ExceptionReporter(request, type(error), error, error.__traceback__)
            frames = [frame for frame in reporter.get_traceback_frames() if frame["function"] in ("find", "create")]
            assert frames
            assert token not in str([frame["vars"] for frame in frames])
            assert token not in str(reporter.filter.get_safe_request_meta(request))


def test_a_key_revoked_while_its_request_is_on_the_way(client):
    """What was authenticated goes through; the next request doesn't."""
    key, token = ApiKey.create("shop")
    extra = {"HTTP_AUTHORIZATION": f"Bearer {token}"}

    def revoking(execute, sql, params, many, context):
        if sql.startswith("INSERT") and "emails_emailrequest" in sql:
            ApiKey.objects.get(pk=key.pk).revoke()
        return execute(sql, params, many, context)

    with connection.execute_wrapper(revoking):
        assert client.post("/emails", FULL, "application/json", **extra).status_code == 200
    refuse(client.post("/emails", FULL, "application/json", **extra), 403, "invalid_api_key")
