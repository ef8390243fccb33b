"""The processes of a benchmark: Mailsite by its real commands, its stores, the sink, the peers. All end with it."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from chaos import postgresql
from chaos.environment import cleared
from chaos.ports import free_port
from mailsite.env import socket_path

ROOT = Path(__file__).parent.parent
PEERS = ROOT / "bench" / ".venv"
PATIENCE = 60  # seconds that anything may take without getting on


class Broken(Exception):
    """Something can't be measured, told in a sentence."""


class World(ExitStack):
    """A folder, and the processes that are started in it: both are gone when it is left."""

    def __enter__(self) -> Self:
        self.folder = Path(self.enter_context(TemporaryDirectory(prefix="mailsite-bench-", ignore_cleanup_errors=True)))
        return super().__enter__()

    def start(self, command: list, ready: Callable[["Process"], bool] = lambda process: True, **options) -> "Process":
        process = Process(command, self.folder / f"{len(list(self.folder.glob('*.log')))}.log", **options)
        self.callback(process.stop)
        wait_until(lambda: process.check() or ready(process), f"{process.name} did not get ready")
        return process

    def sink(self) -> "Sink":
        return Sink(self)

    def mailsite(self, database: str, relay: int) -> "Mailsite":
        return Mailsite(self, database, relay)


class Process:
    """A command in the background; what it says is kept in a file."""

    def __init__(self, command: list, log: Path, as_user: str | None = None, **environment: str):
        self.name = " ".join(Path(word).name for word in map(str, command[:4]))
        self.log = log
        self.options = {"cwd": ROOT, "env": {**os.environ, **cleared(), **environment}}
        self.options |= postgresql.identity(as_user)
        with log.open("wb") as output:
            self.popen = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, **self.options
            )

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def check(self) -> None:
        if self.popen.poll() is not None:
            raise Broken(f"{self.name} ended by itself (exit code {self.popen.returncode}):\n{self.output[-3000:]}")

    def stop(self) -> None:
        """In good order, then with all its children."""
        if self.popen.poll() is None:
            self.popen.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.popen.wait(PATIENCE)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()


class Sink:
    """Postfix's smtp-sink, which throws mail away and counts it. Keeps when which count was seen."""

    def __init__(self, world: World):
        if not (found := shutil.which("smtp-sink", path=f"{os.environ['PATH']}:/usr/sbin")):
            raise Broken("smtp-sink was not found: it comes with Postfix (on Debian and Ubuntu: apt install postfix).")
        self.port = free_port()
        self.counts = [(time.time(), 0)]
        user = ["-u", "nobody"] if os.getuid() == 0 else []
        self.popen = subprocess.Popen([found, "-c", *user, f"127.0.0.1:{self.port}", "1024"], stdout=subprocess.PIPE)
        threading.Thread(target=self._read, daemon=True).start()
        world.callback(self.popen.wait)
        world.callback(self.popen.terminate)
        wait_until(lambda: answers(self.port), "smtp-sink did not get ready")

    def _read(self) -> None:
        """It writes `mesg=3` and the like after each mail; looking every few milliseconds takes nothing from others."""
        assert self.popen.stdout
        text = b""
        while some := os.read(self.popen.stdout.fileno(), 1 << 16):
            whole, _, text = (text + some).rpartition(b"\r")
            if whole:
                self.counts.append((time.time(), int(whole.rpartition(b"mesg=")[2])))
            time.sleep(0.005)

    @property
    def count(self) -> int:
        return self.counts[-1][1]

    def wait(self, count: int, sender: Process) -> None:
        """Until it has got `count` mails in all."""
        began = time.time()
        while self.count < count:
            sender.check()
            if time.time() - max(self.counts[-1][0], began) > PATIENCE:
                raise Broken(f"{sender.name} stopped sending, {count - self.count} mails are missing:\n{sender.output}")
            time.sleep(0.01)

    def rate(self, since: int) -> float:
        """Mails a second after the first `since`, from the first of them to the last."""
        seen = [(moment, count) for moment, count in self.counts if count > since]
        (began, first), (ended, last) = seen[0], next(pair for pair in seen if pair[1] == self.count)
        return (last - first) / (ended - began)


class Mailsite:
    """A copy of Mailsite with a database and a Valkey of its own, and whatever else of it is started."""

    def __init__(self, world: World, database: str, relay: int):
        self.world = world
        self.data = world.folder / f"{database}-{relay}"
        self.environment = {"MAILSITE_DATA": str(self.data), "EMAIL_URL": f"smtp://127.0.0.1:{relay}"}
        if database == "postgresql":
            self.environment["DATABASE_URL"] = start_postgresql(world)
        self.start(["services"], lambda services: "Ctrl-C stops it." in services.output)

    def start(self, words: list[str], ready: Callable[[Process], bool]) -> Process:
        return self.world.start([sys.executable, "manage.py", *words], ready, **self.environment)

    def worker(self) -> Process:
        return self.start(["rqworker"], lambda worker: True)

    def web(self) -> str:
        """One web process, as `manage.py run` starts it. Returns its URL."""
        port = free_port()
        command = [sys.executable, "-m", "bench.inside", "web", str(port)]
        self.world.start(command, lambda web: answers(port), **self.environment)
        return f"http://127.0.0.1:{port}"

    def manage(self, *words: str) -> str:
        return output([sys.executable, "manage.py", *words], **self.environment).strip()

    def inside(self, *words: str) -> dict:
        """What `bench/inside.py` does in this copy."""
        return json.loads(output([sys.executable, "-m", "bench.inside", *words], **self.environment))

    def redis(self, database: int = 0) -> str:
        """The URL of its Valkey. Peers use the same server, and a database of their own there."""
        return f"unix://{socket_path(self.data / 'valkey')}?db={database}"


def start_postgresql(world: World) -> str:
    """A throw-away cluster as it comes, so that a commit is on disk. Returns its URL."""
    if not (programs := postgresql.find()):
        raise Broken("PostgreSQL was not found (on Debian and Ubuntu: apt install postgresql).")
    folder = Path(world.enter_context(TemporaryDirectory(prefix="mailsite-bench-pg-", ignore_cleanup_errors=True)))
    postgresql.create(programs, folder)
    world.start(
        postgresql.server(programs, folder),
        lambda server: "ready to accept connections" in server.output,
        as_user=postgresql.USER,
    )
    return postgresql.url(folder)


def output(command: list, **environment: str) -> str:
    """What a command prints."""
    environment = {**os.environ, **cleared(), **environment}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True)
    if done.returncode:
        raise Broken(f"{' '.join(map(str, command))} failed:\n{done.stderr.decode()[-3000:]}")
    return done.stdout.decode()


def prepare_peers() -> None:
    """Makes `bench/.venv` with the locked requirements, unless it has them."""
    lock, stamp = ROOT / "bench" / "requirements.txt", PEERS / "prepared"
    if stamp.exists() and stamp.read_text() == lock.read_text():
        return
    print("Installing the peers in bench/.venv (this needs the network, and happens once).", file=sys.stderr)
    output([sys.executable, "-m", "venv", "--clear", PEERS])
    pip = [PEERS / "bin" / "python", "-m", "pip", "install", "--disable-pip-version-check", "--require-hashes"]
    output([*pip, "-r", lock])
    stamp.write_text(lock.read_text())


def answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def wait_until(fact: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not fact():
        if time.monotonic() > deadline:
            raise Broken(otherwise)
        time.sleep(0.02)
