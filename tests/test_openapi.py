"""The API's description is whole and true: Schemathesis tries all of it against a running Mailsite."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from django.contrib.staticfiles import finders
from drf_spectacular.drainage import GENERATOR_STATS
from drf_spectacular.validation import validate_schema
from jsonschema import Draft202012Validator

from emails.api.description import document
from emails.api.errors import NAMES
from emails.api.examples import EXAMPLES, ID
from emails.api.urls import urlpatterns
from emails.api.view import ApiView, Unknown
from tests.conftest import missing
from tests.running import Copy
from tests.test_api import FULL, refuse

METHODS = ("get", "post", "put", "patch", "delete")


@pytest.fixture(scope="module")
def description() -> dict:
    return json.loads(document())


def operations(description: dict) -> dict[str, dict]:
    return {
        operation["operationId"]: {**operation, "path": path, "method": method}
        for path, found in description["paths"].items()
        for method, operation in found.items()
    }


def validator(description: dict, schema: dict) -> Draft202012Validator:
    return Draft202012Validator({**schema, "components": description["components"]})


# The document


def test_it_is_openapi_of_today_and_valid(description):
    assert description["openapi"].startswith("3.1.")
    validate_schema(description)
    assert not GENERATOR_STATS  # nothing that drf-spectacular had to guess


def test_each_method_of_each_view_is_described(description):
    described = {(path, method) for path, found in description["paths"].items() for method in found}
    real = set()
    for pattern in urlpatterns:
        view = getattr(pattern.callback, "cls", None)
        if not view or view is Unknown or view.schema is None:
            continue
        assert issubclass(view, ApiView)
        path = "/" + re.sub(r"<\w+:(\w+)>", r"{\1}", str(pattern.pattern))
        real |= {(path, method) for method in METHODS if hasattr(view, method)}
    assert described == real


def test_each_operation_says_what_it_does_and_how_it_fails(description):
    for name, operation in operations(description).items():
        assert operation["summary"] and operation["description"], name
        assert operation["tags"][0] in [tag["name"] for tag in description["tags"]]
        if name != "downloadAttachment":
            assert operation["security"] == [{"key": []}]
            assert {"401", "403", "429", "500", "503"} <= operation["responses"].keys(), name
        for parameter in operation.get("parameters", []):
            assert parameter["description"], (name, parameter["name"])
        for code, response in operation["responses"].items():
            response = description["components"]["responses"][code] if "$ref" in response else response
            assert "request-id" in response["headers"], name


def test_the_errors_names_are_the_codes(description):
    assert description["components"]["schemas"]["Error"]["properties"]["name"]["enum"] == sorted(NAMES)
    for name, codes in NAMES.items():
        for code in set(codes) - {405}:  # which a described method never is
            examples = description["components"]["responses"][str(code)]["content"]["application/json"]["examples"]
            assert examples[name]["value"] == {
                "statusCode": code,
                "name": name,
                "message": EXAMPLES["errors", "answer"][name],
            }


def test_examples_have_the_shapes_that_they_stand_beside(description):
    for name, operation in operations(description).items():
        media = {"body": operation.get("requestBody"), "answer": answers(operation)[min(answers(operation))]}
        for part, described in media.items():
            if not described or "application/json" not in described["content"]:
                continue
            content = described["content"]["application/json"]
            assert len(content["examples"]) == len(EXAMPLES[name, part]), (name, part)
            for example in content["examples"].values():
                validator(description, content["schema"]).validate(example["value"])


def answers(operation: dict) -> dict[str, dict]:
    return {code: response for code, response in operation["responses"].items() if code.startswith("2")}


@pytest.mark.django_db
def test_the_examples_of_bodies_can_be_sent(api, description):
    id = api.post("/emails", FULL).json()["id"]
    key = api.post("/api-keys", {"name": "x"}).json()["id"]
    for name, operation in operations(description).items():
        for title, body in EXAMPLES.get((name, "body"), {}).items():
            path = operation["path"].format(id=key if "ApiKey" in name else id)
            body = json.loads(json.dumps(body).replace(ID, id))
            answer = getattr(api, operation["method"])(path, json.dumps(body), content_type="application/json")
            assert answer.status_code in (200, 201), (name, title, answer.content)
            schema = operation["responses"][str(answer.status_code)]["content"]["application/json"]["schema"]
            validator(description, schema).validate(answer.json())


# Where it is served


def test_it_is_public(client):
    answer = client.get("/openapi.json", HTTP_ACCEPT="text/html")
    assert answer.status_code == 200
    assert answer["Content-Type"] == "application/json"
    assert answer.json()["info"]["title"] == "Mailsite"
    assert client.head("/openapi.json").status_code == 200
    refuse(client.post("/openapi.json"), 405, "method_not_allowed")
    refuse(client.get("/openapi.json/x"), 404, "not_found")


def test_its_page_loads_nothing_from_elsewhere(client):
    answer = client.get("/docs")
    assert answer.status_code == 200
    page = answer.content.decode()
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(loaded) >= 4
    for url in loaded:
        assert url.startswith("/static/") or url == "/openapi.json"
        assert url == "/openapi.json" or finders.find(url.removeprefix("/static/")), url
    assert "<script>" not in page and "style=" not in page  # what our CSP would not allow
    assert answer["Content-Security-Policy"] == client.get("/login")["Content-Security-Policy"]


def test_its_page_shows_the_operations(mailsite, request):
    """In a real browser, under the policy that all our pages have."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not chromium:
        missing(request.config, "NOT TESTED IN A BROWSER: there is no Chromium (on Debian: apt install chromium).")
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", "--dump-dom"]
    shown = subprocess.run([*command, f"{mailsite.url}/docs"], capture_output=True, text=True, timeout=60).stdout
    assert "/emails/{id}/cancel" in re.sub(r"<[^>]+>|\u200b", "", shown)
    assert shown.count('class="opblock ') == 24


# And it is true

CONFIG = """
[[operations]]
include-name = "POST /emails/batch"
# In permissive mode a bad email is no error of the request: it stands in the answer's `errors`.
checks.negative_data_rejection.enabled = false
"""
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,negative_data_rejection,unsupported_method,allow_header_conformance,ignored_auth"
)


def test_schemathesis_finds_no_answer_that_is_not_described(tmp_path):
    """Its seed is fixed, so that it says the same to everybody: another one may find more.

    It has a Mailsite of its own, since it suppresses addresses that other tests write to.
    """
    mailsite = Copy(tmp_path)
    mailsite.start()
    try:
        try_all(mailsite, tmp_path)
    finally:
        mailsite.stop()


def try_all(mailsite: Copy, tmp_path: Path) -> None:
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    key = mailsite.manage("apikey", "create", "schemathesis")
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", config]
    command += ["run", f"{mailsite.url}/openapi.json", "--header", f"Authorization: Bearer {key}", "--seed", "1"]
    command += ["--max-examples", "10", "--workers", "2", "--checks", CHECKS, "--continue-on-failure", "--no-color"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "24 selected" in done.stdout
    assert int(re.search(r"(\d+) generated", done.stdout)[1]) > 500
    assert "Traceback" not in mailsite.said
