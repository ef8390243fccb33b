"""The benchmarks can be run. What they measure is no test: a busy machine would fail it."""

import shutil
import subprocess
import sys

import pytest

from bench.__main__ import FIGURES
from tests.conftest import ROOT
from tests.environment import IN_CI


def bench(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("figure", ["__main__", "mime", *FIGURES])
def test_each_figure_has_a_command_that_explains_itself(figure):
    done = bench(f"bench.{figure}", "--help")
    assert done.returncode == 0, done.stderr
    assert "--rounds" in done.stdout or "--messages" in done.stdout or "--only" in done.stdout


@pytest.mark.skipif(not IN_CI and not shutil.which("smtp-sink", path="/usr/sbin"), reason="Postfix is not installed")
def test_the_smallest_run_of_all_measures_mailsite():
    done = bench("bench.drain", "--rounds", "1", "--messages", "30", "--database", "sqlite", "--only", "ours")
    assert done.returncode == 0, done.stderr
    assert "Mailsite, 1 worker, SQLite" in done.stdout
