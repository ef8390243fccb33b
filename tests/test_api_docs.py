"""docs/api.md: whoever copies an example from it sees it work, and its lists are those of the code."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from emails import drafts, schedule
from emails.addresses import MAX_ADDRESS, MAX_NAME
from emails.api import emails, keys, paths
from emails.api.serializers import LAST_EVENT
from emails.states import State
from mailsite import settings as mailsite_settings
from tests.clients import drivers
from tests.conftest import ROOT, missing

TEXT = (ROOT / "docs" / "api.md").read_text()
SHELL, PYTHON, NODE, JSON = (
    re.findall(rf"```{kind}\n(.*?)```", TEXT, re.DOTALL) for kind in ("sh", "python", "js", "json")
)
CURL = [block for block in SHELL if block.startswith("curl")]


@pytest.fixture(scope="module")
def known(mailsite) -> dict[str, str]:
    """What a reader has at hand: a key, and ids from earlier answers."""
    post = mailsite.api.post
    email = {"from": "shop@example.com", "to": "moss@example.com", "subject": "Hello", "text": "Hello"}
    id = post("/emails", json={**email, "attachments": [{"filename": "a.txt", "content": "YQ=="}]}).json()["id"]
    to = "docs@example.com"
    post("/emails", json={**email, "to": to})
    mailsite.arrived(to)
    return {
        "KEY": mailsite.key,
        "ID": id,
        "KEY_ID": post("/api-keys", json={"name": "docs"}).json()["id"],
        "MAIL": mailsite.api.get("/sandbox/messages", params={"to": to}).json()["data"][0]["id"],
    }


def run(mailsite, known: dict[str, str], command: list, folder: Path = ROOT) -> str:
    environment = {**mailsite.environment, **known}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def here(mailsite, text: str) -> str:
    """Only the port is another: ours may be taken."""
    return text.replace("http://localhost:8000", mailsite.url)


@pytest.mark.parametrize("block", SHELL, ids=lambda block: " ".join(block.split()[:3]))
def test_commands(mailsite, known, request, block):
    if not shutil.which("curl"):
        missing(request.config, "NOT TESTED: the API's examples with curl, for want of it.")
    later = {
        "from": "shop@example.com",
        "to": "moss@example.com",
        "subject": "x",
        "text": "x",
        "scheduled_at": "in 1 hour",
    }
    known = {**known, "SCHEDULED": mailsite.api.post("/emails", json=later).json()["id"]}
    printed = run(mailsite, known, ["sh", "-ec", here(mailsite, block).replace("curl ", "curl -sS ", 1)])
    if block in CURL and "$MAIL" not in block:
        answer = json.loads(printed)
        assert "statusCode" not in answer, answer


def test_every_route_has_a_command():
    for route in ("/emails", "/emails/batch", "/emails/$ID", "/api-keys", "/suppressions", "/sandbox/messages"):
        assert any(re.search(rf"localhost:8000{re.escape(route)}[\s\"?]", block) for block in CURL), route


def test_python(mailsite, known):
    with_the_client, without = PYTHON[:2]
    assert run(mailsite, known, [sys.executable, "-c", here(mailsite, with_the_client)]).strip() in LAST_EVENT.values()
    assert re.fullmatch(r"[0-9a-f-]{36}", run(mailsite, known, [sys.executable, "-c", here(mailsite, without)]).strip())


def test_django(mailsite, known, tmp_path):
    settings, anywhere = PYTHON[2:]
    assert settings.startswith("# settings.py\n")
    (tmp_path / "reader_settings.py").write_text(here(mailsite, settings) + "\nINSTALLED_APPS = ['anymail']\n")
    program = f"import os, django\nos.environ['DJANGO_SETTINGS_MODULE'] = 'reader_settings'\ndjango.setup()\n{anywhere}"
    printed = run(mailsite, {**known, "PYTHONPATH": str(tmp_path)}, [sys.executable, "-c", program], tmp_path)
    assert re.fullmatch(r"[0-9a-f-]{36}", printed.strip())


def test_node(mailsite, known, tmp_path, request):
    if why_not := drivers.why_not_node():
        missing(request.config, f"NOT TESTED: the API's example for Node. {why_not}")
    os.symlink(ROOT / "tests" / "clients" / "node_modules", tmp_path / "node_modules")
    [program] = NODE
    (tmp_path / "example.mjs").write_text(here(mailsite, program))
    printed = run(mailsite, known, ["node", "example.mjs"], tmp_path)
    assert re.fullmatch(r"[0-9a-f-]{36}", printed.strip())


def test_the_error_is_a_real_one(mailsite):
    answer = mailsite.api.post("/emails", json={"from": "a@example.com", "to": "b@example.com", "text": "x"})
    assert [answer.json()] == [json.loads(block) for block in JSON]


def rows(first_cell: str) -> list[list[str]]:
    """The table whose first column is headed so."""
    found = re.search(rf"^\| {re.escape(first_cell)} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in found[1].splitlines()]


def named(cells: list[str]) -> list[str]:
    return [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]


def test_the_fields_are_those_of_the_code():
    fields, options = (named([row[0] for row in table]) for table in tables_of_fields())
    assert sorted(fields) == sorted(drafts.FIELDS)
    assert sorted(["name", *options]) == sorted(keys.FIELDS)


def tables_of_fields() -> list[list[list[str]]]:
    found = re.findall(r"^\| Field \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
    return [[[cell.strip() for cell in row.strip("|").split(" | ")] for row in table.splitlines()] for table in found]


def test_the_states_are_those_of_the_code():
    table = rows("`state`")
    assert sorted(named([row[0] for row in table])) == sorted(State.values)
    for states, event, _ in table:
        for state in named([states]):
            assert LAST_EVENT[State(state)] == (state if event == "the same" else event.strip("`"))


def test_the_limits_are_those_of_the_code():
    limits = {what: limit for what, limit in rows("What")}
    numbers = {
        what: [int(n.replace(",", "")) for n in re.findall(r"[\d,]*\d", limit)] for what, limit in limits.items()
    }
    assert numbers["Recipients of an email (`to`, `cc` and `bcc` together)"] == [drafts.MAX_RECIPIENTS]
    assert numbers["Emails in a batch"] == [emails.MAX_BATCH]
    assert numbers["A message, with its attachments in base64"][1] == drafts.MAX_BYTES
    assert numbers["A request's body"][1] == mailsite_settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    assert numbers["Attachments"] == [drafts.MAX_ATTACHMENTS]
    assert numbers["`subject`"] == [drafts.MAX_SUBJECT]
    assert numbers["An address"] == [MAX_ADDRESS, MAX_NAME]
    assert numbers["`headers`"] == [drafts.MAX_HEADERS, drafts.MAX_HEADER]
    assert numbers["`tags`"] == [drafts.MAX_TAGS]
    assert numbers["`scheduled_at`"] == [schedule.AHEAD.days]


def test_headers_that_are_ours_are_all_named():
    [line] = [line for line in TEXT.splitlines() if line.startswith("| `headers` | An object")]
    listed = {name.lower() for name in re.findall(r"`([A-Z][\w-]+)`", line)} - {"content-…"}
    assert listed == drafts._OUR_HEADERS


def test_what_is_not_there_is_named():
    last = TEXT.rpartition("## What is not there")[2].lower()
    assert all(name in last for name in paths.LATER)
    assert any(name in last for name in paths.NEVER)
