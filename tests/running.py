"""A copy of Mailsite of its own, as `manage.py run` starts it: data folder, port and all processes."""

import os
import signal
import socket
import subprocess
import sys
from email import message_from_bytes, policy
from email.message import EmailMessage
from functools import cached_property
from pathlib import Path

import httpx

from tests.environment import wait_until

ROOT = Path(__file__).parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


class Copy:
    def __init__(self, folder: Path):
        self.port = free_port()
        self.url = f"http://localhost:{self.port}"
        self.output = folder / "output"
        unset = dict.fromkeys(("DATABASE_URL", "REDIS_URL", "EMAIL_URL", "PUBLIC_URL", "HOST", "REQUEST_LOG_DAYS"), "")
        ours = {"MAILSITE_DATA": str(folder / "data"), "PORT": str(self.port), "PLAYGROUND_DELAY": "1"}
        self.environment = {**os.environ, **unset, **ours}

    def start(self) -> None:
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "run"], cwd=ROOT, env=self.environment, stdin=subprocess.DEVNULL,
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        wait_until(lambda: "To log in" in self.said or self.process.poll() is not None, "it did not start", 60)
        assert self.process.poll() is None, self.said

    @property
    def said(self) -> str:
        return self.output.read_text(errors="replace")

    def manage(self, *words: str) -> str:
        """What a command of manage.py prints."""
        command = [sys.executable, "manage.py", *words]
        return subprocess.check_output(command, cwd=ROOT, env=self.environment, text=True).strip()

    @cached_property
    def key(self) -> str:
        return self.manage("apikey", "create", "tests")

    @cached_property
    def api(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {self.key}"})

    def arrived(self, address: str, count: int = 1) -> list[EmailMessage]:
        """The mails that the sandbox has got for an address, once there are `count` of them; the oldest first."""
        found = []

        def all_there() -> bool:
            found[:] = self.api.get("/sandbox/messages", params={"to": address}).json()["data"]
            return len(found) >= count

        wait_until(all_there, f"{address} did not get {count} mails")
        raw = [self.api.get(f"/sandbox/messages/{mail['id']}.eml").content for mail in reversed(found)]
        return [message_from_bytes(mail, policy=policy.default) for mail in raw]

    def stop(self) -> None:
        if "api" in vars(self):
            self.api.close()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
