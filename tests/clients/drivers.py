"""Resend's own clients for Python and Node, unmodified, behind one face, so that one test holds for both.

A call is named as in Python, such as `api_keys.create`, and takes what Python's client takes; for Node it is
spelled in Node's way.
"""

import asyncio
import base64
import fcntl
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import resend
from resend.exceptions import ResendError

FOLDER = Path(__file__).parent


class Refused(Exception):
    """An error as the client tells it; `error` is the client's own."""

    def __init__(self, error: Any, status: int, name: str, message: str, headers: dict[str, str]):
        super().__init__(f"{status} {name}: {message}")
        self.error, self.status, self.name, self.message, self.headers = error, status, name, message, headers


class Python:
    """PyPI's client. `headers` are those of the last answer."""

    def __init__(self, url: str, key: str):
        self.url, self.key = url, key
        self.headers: dict[str, str] = {}

    def __call__(self, call: str, *words: Any, **options: Any) -> dict:
        resend.api_url, resend.api_key = self.url, self.key
        *names, method = call.split(".")
        resource: Any = resend
        for name in names:
            resource = getattr(resource, name.title().replace("_", ""))
        try:
            answer = self.perform(resource, method, _each(list, [*words, options] if options else words))
        except ResendError as error:
            raise Refused(error, int(error.code), error.error_type, error.message, error.headers) from error
        self.headers = answer.pop("http_headers")
        return dict(answer)

    def perform(self, resource: Any, method: str, words: Any) -> dict:
        return getattr(resource, method)(*words)


class AsyncPython(Python):
    """The same, by its asynchronous calls."""

    def perform(self, resource: Any, method: str, words: Any) -> dict:
        return asyncio.run(getattr(resource, f"{method}_async")(*words))


class Node:
    """npm's client, in a process of Node that takes the calls."""

    def __init__(self, url: str, key: str):
        self.key = key
        self.headers: dict[str, str] = {}
        self.process = subprocess.Popen(
            ["node", "bridge.mjs"], cwd=FOLDER, env={**os.environ, "RESEND_BASE_URL": url},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __call__(self, call: str, *words: Any, **options: Any) -> dict:
        spelled = _for_node(call, *words)
        if options:
            spelled.append({_camel(name): value for name, value in options.items()})
        line = {"key": self.key, "call": _camel(call), "words": _each(as_buffer, spelled)}
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        self.headers = answer["headers"]
        if error := answer["error"]:
            raise Refused(error, error["statusCode"], error["name"], error["message"], self.headers)
        return answer["data"]

    def close(self) -> None:
        with self.process:
            self.process.stdin.close()


def as_buffer(content: bytes, kind: str = "Buffer") -> dict:
    """Bytes for Node: a Buffer, a Uint8Array or an ArrayBuffer."""
    return {"$bytes": base64.b64encode(content).decode(), "$as": kind}


def _for_node(call: str, *words: Any) -> list:
    match call, words:
        case (("emails.send" | "emails.update"), (email,)):
            return [_node_email(email)]
        case "batch.send", (emails,):
            return [[_node_email(email) for email in emails]]
        case "emails.attachments.list", (id, *page):
            return [{"emailId": id, **(page[0] if page else {})}]
        case "emails.attachments.get", (id, attachment):
            return [{"emailId": id, "id": attachment}]
        case "api_keys.update", ({"id": id, **fields},):
            return [id, fields]
    return list(words)


def _node_email(email: dict) -> dict:
    spelled = {_camel(name): value for name, value in email.items()}
    if "attachments" in email:
        spelled["attachments"] = [{_camel(k): v for k, v in part.items()} for part in email["attachments"]]
    return spelled


def _camel(name: str) -> str:
    return re.sub(r"_(\w)", lambda match: match[1].upper(), name)


def _each(turn: Any, value: Any) -> Any:
    """`value` with all bytes in it turned into what the client takes for them."""
    match value:
        case bytes():
            return turn(value)
        case dict():
            return {name: _each(turn, item) for name, item in value.items()}
        case list() | tuple():
            return [_each(turn, item) for item in value]
    return value


def why_not_node() -> str:
    """Why the client for Node can't be tested here, if it can't. Installs it, once for each package-lock.json."""
    if not (shutil.which("node") and shutil.which("npm")):
        return "Node or npm is missing (on Debian: apt install nodejs npm)."
    version = subprocess.check_output(["node", "--version"], text=True)
    if int(version.removeprefix("v").split(".")[0]) < 20:
        return f"Resend's client needs Node 20, and this is {version.strip()}."
    with (FOLDER / "package-lock.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of several test processes one installs
        wanted, installed = lock.read(), FOLDER / "node_modules" / "installed"
        if installed.exists() and installed.read_text() == wanted:
            return ""
        npm = subprocess.run(["npm", "ci"], cwd=FOLDER, capture_output=True, text=True)
        if npm.returncode:
            return f"npm ci failed in {FOLDER.name}: {npm.stderr.strip()}"
        installed.write_text(wanted)
    return ""
