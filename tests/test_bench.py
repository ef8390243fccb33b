"""The benchmarks can be run. What they measure is no test: a busy machine would fail it."""

import os
import shutil
import subprocess
import sys

import pytest

from bench.__main__ import FIGURES
from tests.conftest import ROOT
from tests.environment import IN_CI, wait_until


def bench(*words: str) -> str:
    done = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("figure", ["__main__", "mime", *FIGURES])
def test_each_figure_has_a_command_that_explains_itself(figure):
    assert "--help" in bench(f"bench.{figure}", "--help")


@pytest.mark.skipif(not IN_CI and not shutil.which("smtp-sink", path="/usr/sbin"), reason="Postfix is not installed")
def test_a_small_drain_is_measured():
    said = bench("bench.drain", "--rounds", "1", "--messages", "30", "--database", "sqlite", "--only", "ours")
    assert "Mailsite, 1 worker, SQLite" in said


@pytest.mark.skipif(not IN_CI and not shutil.which("smtp-sink", path="/usr/sbin"), reason="Postfix is not installed")
def test_one_that_is_told_to_stop_leaves_nothing_behind(tmp_path):
    """However often: `timeout` tells its child, and then its child's group."""
    command = [sys.executable, "-m", "bench.drain", "--only", "ours", "--database", "sqlite"]
    run = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "TMPDIR": str(tmp_path)}, stderr=subprocess.PIPE)
    wait_until(lambda: list(tmp_path.glob("*/*/mailsite.sqlite3")) or run.poll() is not None, "it did not start")
    while run.poll() is None:
        run.terminate()
    assert b"Stopped." in run.communicate(timeout=60)[1]
    assert not list(tmp_path.iterdir())


def test_the_steps_with_few_and_with_more_messages_are_measured():
    said = bench("bench.flat", "--rounds", "1", "--stored", "1500", "--database", "sqlite")
    assert all(f"SQLite, 1,500 stored: {step}" in said for step in ("accept", "claim", "mark", "record", "page, list"))
