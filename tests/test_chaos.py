"""The fault test in its short form, and that it finds what it is there to find."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.environment import ON_POSTGRESQL, wait_until

ROOT = Path(__file__).parent.parent
DATABASE = "postgresql" if ON_POSTGRESQL else "sqlite"
LIMIT = 240  # seconds; a run takes a quarter of that on a machine with nothing else to do


@contextmanager
def chaos(*arguments: str, **environment: str):
    """A run of `python -m chaos`, which is told to stop if the test doesn't wait for its end."""
    command = [sys.executable, "-m", "chaos", "--database", DATABASE, *arguments]
    run = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        yield run
    finally:
        run.terminate()
        run.communicate(timeout=60)


def outcome(*arguments: str, **environment: str) -> tuple[int, str]:
    with chaos(*arguments, **environment) as run:
        output, _ = run.communicate(timeout=LIMIT)
        return run.returncode, output


def broken(how: str) -> tuple[int, str]:
    """A short run with workers that break one promise. What its failure leaves behind is of no use to anybody."""
    storm = ("--mails=300", "--kills=6", "--gap=0.6", "--lease=2", "--patience=8", "--seed=7")
    with TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as folder:
        return outcome(*storm, f"--worker={sys.executable} -m tests.broken_worker {how}", TMPDIR=folder)


@pytest.mark.stores
@pytest.mark.timeout(LIMIT + 60)
def test_nothing_is_lost_whatever_is_killed():
    status, output = outcome("--mails=400", "--kills=20", "--gap=1", "--lease=3", "--seed=1")
    assert status == 0, output


@pytest.mark.stores
@pytest.mark.timeout(LIMIT + 60)
def test_under_hold_nothing_is_sent_twice():
    status, output = outcome("--mails=200", "--kills=12", "--gap=1", "--lease=3", "--seed=2", "--policy=hold")
    assert status == 0, output


@pytest.mark.timeout(LIMIT + 60)
def test_a_mark_that_comes_too_late_is_found():
    status, output = broken("mark-too-late")
    assert status == 1, output
    assert "FAULT: copy without an uncertain outcome before it" in output


@pytest.mark.timeout(LIMIT + 60)
def test_a_lease_that_never_ends_is_found():
    status, output = broken("no-lease")
    assert status == 1, output
    assert "FAULT: lost" in output


@pytest.mark.timeout(LIMIT + 60)
def test_a_lease_that_takes_from_the_living_is_found():
    status, output = broken("greedy-lease")
    assert status == 1, output
    assert "FAULT: uncertain without a cause" in output


def test_an_interrupted_run_leaves_no_process_behind():
    with chaos("--mails=1000", "--kills=50", "--seed=101") as run:
        for line in run.stdout:
            if "accepted" in line:
                break
        family = descendants(run.pid)
        assert family, "nothing was running"
        run.send_signal(signal.SIGINT)
        assert run.wait(60) == 130
        wait_until(lambda: not family & everything(), "a process was left behind", 10)


def descendants(of: int) -> set[int]:
    found = {of}
    while more := {pid for pid, parent in process_table() if parent in found} - found:
        found |= more
    return found - {of}


def everything() -> set[int]:
    return {pid for pid, _ in process_table()}


def process_table() -> list[tuple[int, int]]:
    table = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], check=True, capture_output=True, text=True).stdout
    return [(int(pid), int(parent)) for pid, parent in (line.split() for line in table.splitlines())]
