"""`manage.py run` and `manage.py services` as a person meets them: real processes, stopped by real signals."""

import fcntl
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import redis
from django.conf import settings

from tests.running import free_port

MANAGE = str(settings.BASE_DIR / "manage.py")
UP = "Ctrl-C stops it."
EVERYTHING = ["web", "worker", "sandbox", "valkey"]


def until(fact: Callable[[], object], what: str, limit: float = 60) -> None:
    end = time.monotonic() + limit
    while not fact():
        assert time.monotonic() < end, f"not within {limit} seconds: {what}"
        time.sleep(0.05)


def health(port: int) -> int:
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health/live", timeout=5) as answer:
        return answer.status
    return 0


class Copy:
    """A copy of Mailsite, with a data folder and a port of its own, and what its terminal shows."""

    def __init__(self, folder: Path, *command: str, port: int | None = None, **environment: str):
        self.folder = folder
        self.port = port or free_port()
        inherited = {name: value for name, value in os.environ.items() if name not in OURS}
        self.process = subprocess.Popen(
            command,
            env={**inherited, "MAILSITE_DATA": str(folder), "PORT": str(self.port), **environment},
            cwd=settings.BASE_DIR,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        with self.process.stdout as output:
            self.lines.extend(iter(output.readline, ""))

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def up(self) -> "Copy":
        until(lambda: UP in self.output or self.process.poll() is not None, "the copy is up")
        assert UP in self.output, self.output
        return self

    def tell(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ended(self) -> int:
        """Its exit status, once it and every line of it are there."""
        code = self.process.wait(60)
        self.reader.join(60)
        assert "Traceback" not in self.output, self.output
        return code

    def parts(self) -> dict[int, str]:
        """The processes that belong to this copy: by their environment, and Valkey by where it works."""
        mark = f"MAILSITE_DATA={self.folder}\0".encode()
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if mark in (process / "environ").read_bytes() or (process / "cwd").readlink().parent == self.folder:
                    found[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found

    def part(self, word: str) -> int:
        """The first process whose command has this word."""
        return min(pid for pid, command in self.parts().items() if word in command)

    def leaves_nothing(self) -> None:
        until(lambda: not self.parts(), f"no process is left, but there are {self.parts()}")


OURS = ("MAILSITE_DATA", "PORT", "HOST", "PUBLIC_URL", "SECRET_KEY", "DATABASE_URL", "REDIS_URL", "EMAIL_URL")
# Empty means unset, and an `.env` beside manage.py does not fill it in.
UNSET = dict.fromkeys(OURS[2:], "")


@pytest.fixture
def copy(tmp_path):
    """Starts copies, and ends what a failed test left of them."""
    copies = []

    def start(*command: str, folder: Path = tmp_path, port: int | None = None, **environment: str) -> Copy:
        started = Copy(folder, *command, port=port, **(UNSET | environment))
        copies.append(started)
        return started

    yield start
    for started in copies:
        for pid in [started.process.pid, *started.parts()]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        started.process.wait()
        started.reader.join(60)


@pytest.fixture
def manage(copy):
    return lambda *words, **options: copy(sys.executable, MANAGE, *words, **options)


def stopped(output: str) -> list[str]:
    return re.findall(r"^Stopping (\w+)\.$", output, re.MULTILINE)


def client(folder: Path) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(folder / "valkey" / "valkey.sock"))


def test_everything_starts_and_stops_in_order(manage, tmp_path):
    running = manage("run").up()

    assert health(running.port) == 200
    assert f"http://localhost:{running.port}" in running.output
    assert "nothing leaves this machine" in running.output
    assert str(tmp_path) in running.output
    assert re.search(r"^sandbox \| ", running.output, re.MULTILINE)
    assert "\x1b[" not in running.output  # colours are for terminals
    running.tell(signal.SIGINT)
    assert running.ended() == 0
    assert stopped(running.output) == EVERYTHING
    running.leaves_nothing()


def test_the_queue_outlives_a_restart_and_a_kill_of_the_supervisor(manage, tmp_path):
    running = manage("run").up()
    with client(tmp_path) as valkey:
        valkey.set("kept", "yes")
    running.tell(signal.SIGTERM)
    assert running.ended() == 0

    running = manage("run").up()
    with client(tmp_path) as valkey:
        assert valkey.get("kept") == b"yes"
    running.tell(signal.SIGKILL)
    running.process.wait()
    running.leaves_nothing()

    (tmp_path / "valkey" / "valkey.sock").touch()  # a stale socket, as a killed Valkey leaves it
    running = manage("run").up()
    running.tell(signal.SIGHUP)
    assert running.ended() == 0
    running.leaves_nothing()


@pytest.mark.parametrize(
    ("name", "word", "reason"),
    [
        ("valkey", "valkey-server", "killed by SIGKILL"),
        ("sandbox", "manage.py sandbox", "killed by SIGKILL"),
        ("worker", "manage.py rqworker", "killed by SIGKILL"),
        ("web", "granian", "killed by SIGKILL"),
    ],
)
def test_when_one_part_dies_all_stop_and_the_last_line_says_which_and_why(manage, name, word, reason):
    running = manage("run").up()
    os.kill(running.part(word), signal.SIGKILL)

    assert running.ended() == 1
    assert running.lines[-1] == f"{name} ended by itself ({reason}), so everything was stopped.\n"
    running.leaves_nothing()


def test_the_web_servers_own_worker_counts_as_the_web(manage):
    running = manage("run").up()
    os.kill(max(pid for pid, command in running.parts().items() if "granian" in command), signal.SIGKILL)

    assert running.ended() == 1
    assert running.lines[-1] == "web ended by itself (exit code 1), so everything was stopped.\n"
    running.leaves_nothing()


def test_make_passes_a_signal_on(copy):
    running = copy("make", "run").up()
    running.tell(signal.SIGTERM)
    running.ended()
    assert stopped(running.output) == EVERYTHING
    running.leaves_nothing()


def test_a_closed_terminal_stops_it_under_make_too(tmp_path):
    """Make is told that its terminal is gone, and keeps it to itself."""
    folder, port = tmp_path / "data", free_port()
    environment = os.environ | UNSET | {"MAILSITE_DATA": str(folder), "PORT": str(port)}
    terminal, end = pty.openpty()
    make = subprocess.Popen(
        ["make", "run"],
        cwd=settings.BASE_DIR,
        env=environment,
        stdin=end,
        stdout=end,
        stderr=end,
        start_new_session=True,
    )
    os.close(end)
    shown = b""
    while UP.encode() not in shown:
        assert make.poll() is None, shown.decode()
        shown += os.read(terminal, 4096)
    os.close(terminal)
    make.wait(60)
    assert b"\x1b[33msandbox | \x1b[0m" in shown
    with open(folder / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert health(port) == 0


def test_two_copies_side_by_side_but_not_on_one_folder(manage, tmp_path):
    first = manage("run", folder=tmp_path / "one").up()
    second = manage("run", folder=tmp_path / "two").up()
    assert health(first.port) == health(second.port) == 200

    for command in ("run", "services"):
        third = manage(command, folder=tmp_path / "one")
        assert third.ended() == 1
        assert f"running on the data folder {tmp_path / 'one'} already" in third.output
        assert len(third.lines) == 1
    assert health(first.port) == 200


def test_a_port_in_use(manage):
    with socket.create_server(("127.0.0.1", 0)) as server:
        refused = manage("run", port=server.getsockname()[1])
        assert refused.ended() == 1
        assert refused.lines == [
            f"Port {refused.port} is in use: stop what uses it, or choose another (PORT=8001 make run).\n"
        ]


@pytest.mark.parametrize("key", ["", "k" * 50])
def test_a_data_folder_that_cannot_be_made(manage, tmp_path, key):
    (tmp_path / "file").touch()
    refused = manage("run", folder=tmp_path / "file" / "data", SECRET_KEY=key)
    assert refused.ended() == 1
    assert f"The data folder {tmp_path / 'file' / 'data'} can't be used (Not a directory)" in refused.output
    assert len(refused.lines) == 1


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"HOST": "203.0.113.1", "PUBLIC_URL": "http://x.example", "SECRET_KEY": "k" * 50}, "Mailsite can't listen on"),
        ({"REDIS_URL": "unix:///nowhere/redis.sock"}, "The Redis that REDIS_URL names does not answer"),
        ({"DATABASE_URL": "sqlite:////nowhere/database"}, "The database can't be used"),
        ({"EMAIL_URL": "carrier-pigeon://home"}, "EMAIL_URL is"),
    ],
)
def test_a_setting_that_cannot_work_is_told_in_a_sentence(manage, environment, sentence):
    refused = manage("run", **environment)
    assert refused.ended() == 1
    assert refused.output.startswith(sentence)
    assert len(refused.lines) == 1
    refused.leaves_nothing()


def test_services_serve_what_is_started_by_hand(manage, tmp_path):
    # So long that Valkey's socket does not fit, and with characters that need quoting.
    folder = tmp_path / f'it\'s a "folder" {"x" * 100}'
    running = manage("services", folder=folder).up()
    names = " ".join(running.parts().values())
    assert "valkey-server" in names
    assert "manage.py sandbox" in names
    assert "rqworker" not in names

    assert manage("rqworker", "--burst", folder=folder).ended() == 0
    web = manage("runserver", "--noreload", folder=folder)
    until(lambda: health(web.port) == 200, "runserver answers at PORT")
    web.tell(signal.SIGTERM)
    web.process.wait(60)

    path = running.parts()[running.part("valkey-server")].split("unixsocket:")[1].strip()
    assert Path(path).parent.stat().st_mode & 0o777 == 0o700
    running.tell(signal.SIGTERM)
    assert running.ended() == 0
    assert stopped(running.output) == ["sandbox", "valkey"]
    shutil.rmtree(Path(path).parent)


def test_services_leave_out_what_the_environment_names(manage, tmp_path):
    other = manage("services", folder=tmp_path / "other").up()
    url = f"unix://{tmp_path / 'other' / 'valkey' / 'valkey.sock'}"
    running = manage("services", folder=tmp_path / "mine", REDIS_URL=url).up()
    running.tell(signal.SIGTERM)
    assert running.ended() == 0
    assert stopped(running.output) == ["sandbox"]

    none = manage("services", folder=tmp_path / "mine", REDIS_URL=url, EMAIL_URL="smtp://relay.example:25")
    assert none.ended() == 1
    assert none.lines == ["Nothing to start: REDIS_URL and EMAIL_URL name servers of your own.\n"]
    assert other.process.poll() is None


STUBBORN = """
import sys
import django
django.setup()
from mailsite.supervisor import Process, Supervisor

deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
with Supervisor() as supervisor:
    supervisor.start(Process("worker", [sys.executable, "-c", deaf], lambda _: True))
    supervisor.watch()
"""


def test_a_second_signal_kills_what_will_not_stop(copy):
    running = copy(sys.executable, "-c", STUBBORN, DJANGO_SETTINGS_MODULE="mailsite.settings")
    until(lambda: "worker  | deaf\n" in running.output, "the part runs")
    running.tell(signal.SIGTERM)
    running.tell(signal.SIGTERM)  # make sends one signal twice when its whole group got it
    until(lambda: stopped(running.output), "it stops")

    time.sleep(1.5)  # what tells a second signal from an echo is a second between them
    assert running.process.poll() is None
    running.tell(signal.SIGTERM)
    assert running.ended() == 0
    running.leaves_nothing()


def test_the_lock_is_valkeys_too(manage, tmp_path):
    """After a killed supervisor nobody starts a second Valkey on the files of one that still ends."""
    running = manage("services").up()
    valkey = running.part("valkey-server")
    os.kill(valkey, signal.SIGSTOP)
    running.tell(signal.SIGKILL)
    running.process.wait()
    with open(tmp_path / "lock") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.kill(valkey, signal.SIGCONT)
    running.leaves_nothing()


def test_a_python_without_the_requirements_says_how(copy):
    refused = copy(sys._base_executable, "-I", "-S", MANAGE, "check")
    assert refused.ended() == 1
    assert "run `make run` once, then `.venv/bin/python manage.py" in refused.output
    assert len(refused.lines) == 1
