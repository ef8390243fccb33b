"""The system under test: its real commands, each a process that can be killed and comes back.

Django's settings are those of the throw-away data folder: __main__.py sets the environment first.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import django_rq
from django.conf import settings
from django.core.management import call_command
from django.db import DatabaseError, connection

from chaos import postgresql
from emails.models import ApiKey, EmailRequest, Worker
from mailsite import supervisor

START_LIMIT = 60
STOP_LIMIT = settings.GRACE + 10


class Broken(Exception):
    """The system can't be brought up, so there is nothing to test."""


@dataclass
class Blow:
    """Something that befell a worker, so that what it had marked is uncertain."""

    what: str  # killed, stopped, paused, ended by itself
    pid: int
    at: float
    worker: str = ""
    held: dict[UUID, str] = field(default_factory=dict)  # its messages at that moment, with their states

    @property
    def marked(self) -> list[UUID]:
        return [id for id, state in self.held.items() if state == "transmitting"]


class Part:
    """One process of the system, started again and again."""

    def __init__(self, name: str, command: list[str], ready: Callable[["Part"], bool], as_user: str | None = None):
        self.name = name
        self.command = command
        self.is_ready = lambda: self.running and ready(self)
        self.as_user = as_user
        self.log = settings.DATA_DIR / f"{name}.log"
        self.kills = 0
        self.process: subprocess.Popen | None = None
        self.paused = False
        self.leave_until = 0.0  # told to end, and has until then

    def start(self) -> None:
        command = self.command
        if sys.platform == "linux" and not self.as_user:
            # Should the harness itself be killed, its parts end too (supervisor.py says how).
            command = [sys.executable, "-I", "-S", "-c", supervisor.LEASH, str(os.getpid()), *command]
        with self.log.open("ab") as log:
            self.beginning = log.tell()
            self.process = subprocess.Popen(
                command, cwd=settings.BASE_DIR, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True, **postgresql.identity(self.as_user),
            )  # fmt: skip
        self.paused, self.leave_until = False, 0.0

    @property
    def running(self) -> bool:
        return bool(self.process and self.process.poll() is None)

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.pid

    @property
    def output(self) -> str:
        """What the process that runs now has said."""
        with self.log.open(errors="replace") as log:
            log.seek(self.beginning)
            return log.read()

    def signal(self, signum: int) -> None:
        assert self.process
        self.process.send_signal(signum)
        self.paused = signum == signal.SIGSTOP or (self.paused and signum != signal.SIGCONT)

    def kill(self) -> None:
        """As a crash: the process and its children at once, without a word."""
        if not self.process:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def end(self) -> None:
        """In good order where that is quick."""
        if self.running:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_LIMIT)
        self.kill()


class PostgreSQL(Part):
    """A throw-away cluster with everything that keeps its promises switched on."""

    def __init__(self, folder: Path):
        self.folder = folder
        if not (programs := postgresql.find()):
            raise Broken("No PostgreSQL was found on this machine.")
        self.programs = programs
        command = [*postgresql.server(programs, folder), "-c", "fsync=on", "-c", "synchronous_commit=on"]
        command += ["-c", "max_connections=200"]
        super().__init__("database", command, lambda part: database_answers(), postgresql.USER)

    def create(self) -> None:
        postgresql.create(self.programs, self.folder)

    def kill(self) -> None:
        """The server and its backends, which are sessions of their own: all at once, and none may be left."""
        if not self.process:
            return
        if self.running:
            self.signal(signal.SIGSTOP)  # no backend may be born while the others die: it would keep the memory in use
        family = [*children_of(self.pid), self.pid]
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        wait_until(lambda: not any(is_alive(pid) for pid in family), "PostgreSQL's backends did not die")

    def end(self) -> None:
        if self.running:
            self.signal(signal.SIGQUIT)  # at once; nobody needs the data any more
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
        self.kill()


class World:
    """All parts, and the moments at which something is to happen to them."""

    def __init__(self, web_port: int, worker_command: list[str] | None, postgresql: Path | None):
        self.web_port = web_port
        worker = worker_command or supervisor.worker().command
        (settings.DATA_DIR / "valkey").mkdir(exist_ok=True)
        with open(settings.DATA_DIR / "lock", "w") as lock:
            valkey = supervisor.valkey(lock).command
        self.database = PostgreSQL(postgresql) if postgresql else None
        self.valkey = Part("valkey", valkey, lambda part: answers(settings.VALKEY_SOCKET))
        self.web = Part("web", supervisor.web(("127.0.0.1", web_port)).command, lambda part: answers(web_port))
        self.workers = [Part(f"worker-{n}", worker, lambda part: "Listening on" in part.output) for n in (1, 2)]
        self.parts = [*([self.database] if self.database else []), self.valkey, *self.workers, self.web]
        self.blows: list[Blow] = []
        self.faults: list[str] = []
        self._unexamined: list[Blow] = []
        self._later: list[tuple[float, Callable[[], None]]] = []

    def start(self) -> str:
        """Starts all parts, in order; the API key for the clients."""
        token = ""
        for part in self.parts:
            if part is self.database:
                self.database.create()
            if part is self.valkey:
                call_command("migrate", interactive=False, verbosity=0)
                token = ApiKey.create("chaos")[1]
                connection.close()
            part.start()
            wait_until(lambda part=part: part.is_ready() or not part.running, f"{part.name} did not get ready")
            if not part.running:
                raise Broken(f"{part.name} ended at its start:\n{part.output[-3000:]}")
        return token

    def end(self) -> None:
        for part in reversed(self.parts):
            with suppress(OSError, Broken):
                part.end()

    # Time

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        self._later.append((time.monotonic() + seconds, action))

    def run_until(self, fact: Callable[[], bool], seconds: float) -> bool:
        """Lets time pass, with all that is to happen in it, until the fact; False if it doesn't come about."""
        deadline = time.monotonic() + seconds
        while not fact():
            if time.monotonic() > deadline:
                return False
            self._tick()
            time.sleep(0.02)
        return True

    def _tick(self) -> None:
        due = [item for item in self._later if item[0] <= time.monotonic()]
        self._later = [item for item in self._later if item not in due]
        for _, action in due:
            action()
        for part in self.workers:
            self._see_off(part)
        for part in self.parts:
            if part.process and not part.running:
                self._ended_by_itself(part)
        self._examine()

    @property
    def is_calm(self) -> bool:
        """Whether everything runs and nothing more is to happen."""
        ready = all(part.is_ready() and not part.paused and not part.leave_until for part in self.parts)
        return ready and not self._later and not self._unexamined

    @property
    def summary(self) -> str:
        return ", ".join(f"{part.kills} {part.name}" for part in self.parts)

    def holds_mail(self, worker: Part) -> bool:
        try:
            return EmailRequest.objects.filter(worker__pid=worker.pid).exists()
        except DatabaseError:
            return False
        finally:
            connection.close()

    # Blows

    def kill(self, parts: list[Part], away: float) -> None:
        """SIGKILL, all at the same moment; back after `away` seconds."""
        for part in parts:
            self._blow("killed", part)
            part.kill()
            part.process, part.leave_until = None, 0.0
            part.kills += 1
            self.later(away, part.start)

    def leave(self, worker: Part, signum: int) -> None:
        """What a deployment does."""
        self._blow("told to stop", worker)
        worker.signal(signum)
        worker.leave_until = time.monotonic() + STOP_LIMIT

    def pause(self, worker: Part, seconds: float) -> None:
        """A machine that stands still and comes back, unaware of it."""
        self._blow("paused", worker)
        worker.signal(signal.SIGSTOP)
        pid = worker.pid
        self.later(seconds, lambda: worker.signal(signal.SIGCONT) if worker.running and worker.pid == pid else None)

    def flush(self) -> None:
        with suppress(Exception):  # it may be away at this moment
            django_rq.get_connection().flushall()

    def _blow(self, what: str, part: Part) -> None:
        if part in self.workers:
            self.blows.append(Blow(what, part.pid, time.time()))
            self._unexamined.append(self.blows[-1])

    def _see_off(self, worker: Part) -> None:
        """A worker that was told to stop: gone, and started anew; or too slow."""
        if not worker.leave_until:
            return
        if worker.running and time.monotonic() > worker.leave_until:
            self.faults.append(f"{worker.name} did not stop within {STOP_LIMIT:g} s of being told to")
            worker.kill()
        if not worker.running:
            worker.start()

    def _ended_by_itself(self, part: Part) -> None:
        assert part.process
        self.faults.append(f"{part.name} ended by itself, exit status {part.process.returncode}")
        self._blow("ended by itself", part)
        part.process = None
        self.later(0.5, part.start)

    def _examine(self) -> None:
        """Notes what the workers that were hit had in hand, as soon as the database can tell.

        That is soon enough: nobody frees a dead worker's claims within a lease of the database's return.
        """
        if not self._unexamined or (self.database and not self.database.is_ready()):
            return
        try:
            for blow in list(self._unexamined):
                if worker := Worker.objects.filter(pid=blow.pid).order_by("started_at").last():
                    blow.worker = worker.name
                    blow.held = dict(EmailRequest.objects.filter(worker=worker).values_list("pk", "state"))
                self._unexamined.remove(blow)
        except DatabaseError:
            pass
        finally:
            connection.close()


def answers(address: Path | int) -> bool:
    family, where = (socket.AF_INET, ("127.0.0.1", address)) if isinstance(address, int) else (socket.AF_UNIX, address)
    with suppress(OSError), closing(socket.socket(family)) as client:
        client.settimeout(1)
        client.connect(where if isinstance(where, tuple) else str(where))
        return True
    return False


def database_answers() -> bool:
    try:
        connection.ensure_connection()
        return True
    except DatabaseError:
        return False
    finally:
        connection.close()


def wait_until(fact: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + START_LIMIT
    while not fact():
        if time.monotonic() > deadline:
            raise Broken(otherwise)
        time.sleep(0.05)


def children_of(parent: int) -> list[int]:
    table = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], check=True, capture_output=True, text=True).stdout
    return [int(pid) for pid, above in (line.split() for line in table.splitlines()) if int(above) == parent]


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that is dead and only not yet waited for doesn't."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")
