"""README and docs are held to what the program does: their commands run, their lists are whole."""

import ast
import dataclasses
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.management import get_commands

from emails.smtp import Timeouts
from tests.conftest import ROOT
from tests.environment import IN_CI, wait_until

README = (ROOT / "README.md").read_text()
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
SHELL = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


class Reader:
    """Someone who copies the README's commands into a terminal. Only the port is another: ours may be taken."""

    def __init__(self, folder: Path):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.environment = {**os.environ, "MAILSITE_DATA": str(folder / "data"), "PORT": str(self.port)}
        self.output = folder / "output"
        with self.output.open("wb") as output:
            self.server = subprocess.Popen(
                ["sh", "-c", f"exec {SHELL[0]}"],
                cwd=ROOT,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def wait(self) -> None:
        wait_until(lambda: "Ctrl-C stops it." in self.said() or self.server.poll() is not None, "it did not start", 120)
        assert self.server.poll() is None, self.said()

    def said(self) -> str:
        return self.output.read_text()

    def enter(self, *commands: str) -> str:
        """What a shell prints that is given these, one after the other."""
        script = "\n".join(commands).replace("localhost:8000", f"localhost:{self.port}")
        done = subprocess.run(["sh", "-ec", script], cwd=ROOT, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr + self.said()
        return done.stdout

    def stop(self) -> None:
        self.server.send_signal(signal.SIGTERM)
        self.server.wait(60)


@pytest.fixture
def reader(tmp_path) -> Iterator[Reader]:
    reader = Reader(tmp_path)
    try:
        reader.wait()
        yield reader
    finally:
        reader.stop()


def test_the_readmes_commands_work_as_printed(reader):
    if not shutil.which("curl"):
        pytest.fail("curl is missing") if IN_CI else pytest.skip("NOT TESTED: the README's curl, for want of it")
    assert SHELL[0] == "make run\n"
    make_key, send, look = SHELL[2:5]
    [program] = PYTHON

    reader.environment["KEY"] = reader.enter(make_key, 'printf %s "$KEY"')
    assert json.loads(reader.enter(send)).keys() == {"id"}
    wait_until(lambda: json.loads(reader.enter(look))["data"], "the mail did not reach the sandbox")
    [arrived] = json.loads(reader.enter(look))["data"]
    assert (arrived["subject"], arrived["envelope_to"]) == ("Your order", ["moss@example.com"])

    id = reader.enter(f"{shlex.quote(sys.executable)} -c {shlex.quote(program)}").strip()
    assert re.fullmatch("[0-9a-f-]{36}", id)
    look = look.replace("moss@", "jen@")
    wait_until(lambda: json.loads(reader.enter(look))["data"], "the mail did not reach the sandbox")

    with urllib.request.urlopen(f"http://localhost:{reader.port}/send-email/moss@example.com") as answer:
        assert json.load(answer).keys() == {"message", "job_id"}


def test_the_python_example_has_five_lines():
    [program] = PYTHON
    assert len([line for line in program.splitlines() if line]) == 5


def test_the_commands_in_readme_and_docs_exist():
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in DOCUMENTS:
        text = document.read_text()
        for command in re.findall(r"manage\.py ([a-z][\w-]*)", text):
            assert command in get_commands(), (document.name, command)
        for target in re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE):
            assert target in targets, (document.name, target)


def test_links_between_documents_lead_somewhere():
    for document in DOCUMENTS:
        for target in re.findall(r"\]\((?!https?:)([^)#]+\.md)", document.read_text()):
            assert (document.parent / target).exists(), (document.name, target)


# Configuration

ROWS = re.findall(
    r"^\| `([A-Z_]+)` \| (.*?) \| (.+) \| `[^`]+`.* \|$", (ROOT / "docs" / "configuration.md").read_text(), re.MULTILINE
)


def variables_read() -> dict[str, object]:
    """The variables that settings.py reads, each with its default where that is written out."""
    found: dict[str, object] = {}
    for node in ast.walk(ast.parse((ROOT / "mailsite" / "settings.py").read_text())):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if not isinstance(node.func.value, ast.Name) or node.func.value.id != "env" or not node.func.attr.islower():
            continue
        name, *rest = node.args
        if isinstance(name, ast.Constant):
            found.setdefault(name.value, None)
            if rest and isinstance(rest[0], ast.Constant | ast.List):
                found[name.value] = ast.literal_eval(rest[0])
        elif isinstance(name, ast.JoinedStr):  # one for each stage of the dialogue with the relay
            for stage in dataclasses.fields(Timeouts):
                found[ast.unparse(name)[2:-1].replace("{stage.upper()}", stage.name.upper())] = stage.default
    return found


def test_every_variable_is_documented_and_no_other():
    names = [name for name, _, _ in ROWS]
    assert sorted(names) == sorted(variables_read())


def test_the_documented_defaults_are_the_real_ones():
    documented = {name: default for name, default, _ in ROWS}
    for name, default in variables_read().items():
        if default in (None, ""):
            continue
        if isinstance(default, bool):
            assert documented[name] == ("on" if default else "off"), name
        else:
            text = ",".join(map(str, default)) if isinstance(default, list) else f"{default}"
            assert documented[name] == f"`{text.removesuffix('.0')}`", name


def test_the_containers_pass_on_variables_that_exist():
    compose = (ROOT / "docker-compose.yml").read_text()
    passed = re.findall(r"^    ([A-Z_]+):$", compose, re.MULTILINE)
    assert passed
    assert set(passed) <= set(variables_read())
