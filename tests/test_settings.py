"""The environment is read strictly: what can't be understood stops the start with one sentence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mailsite import env
from tests.conftest import ROOT

READERS = {
    "BOOLEAN": (lambda: env.boolean("BOOLEAN", False), "maybe"),
    "INTEGER": (lambda: env.integer("INTEGER", 1, 1, 10), "11"),
    "SECONDS": (lambda: env.seconds("SECONDS", 1), "soon"),
    "NUMBERS": (lambda: env.numbers("NUMBERS", [1]), "1,0"),
    "CHOICE": (lambda: env.choice("CHOICE", "a", ("a", "b")), "c"),
    "ZONE": (lambda: env.time_zone("ZONE", "UTC"), "Mars"),
    "URL": (lambda: env.url("URL", "", ("http", "https")), "ftp://x"),
    "DATABASE": (lambda: env.database("DATABASE", Path("x")), "mysql://user:password@host/name"),
    "KEY": (lambda: env.secret_key("KEY", Path("x")), "short"),
}


@pytest.mark.parametrize("name", READERS)
def test_a_value_that_can_not_be_understood_is_named_with_what_was_expected(name, monkeypatch):
    read, value = READERS[name]
    monkeypatch.setenv(name, value)
    with pytest.raises(env.EnvironmentProblem, match=rf"^{name} is .+ expected"):
        read()


def test_a_value_that_may_hold_a_password_is_not_shown(monkeypatch):
    monkeypatch.setenv("DATABASE", "mysql://user:s3cret@host/name")
    with pytest.raises(env.EnvironmentProblem) as problem:
        env.database("DATABASE", Path("x"))
    assert "s3cret" not in str(problem.value)


@pytest.mark.parametrize(
    "environment",
    [
        {"PORT": "abc"},
        {"TIME_ZONE": "Mars"},
        {"EMAIL_URL": "nonsense"},
        {"HOST": "0.0.0.0"},
        {"ONLY_TO": "a b"},
        {"REDIRECT_TO": "moss"},
    ],
    ids=lambda environment: next(iter(environment)),
)
def test_the_start_stops_with_a_sentence_and_no_traceback(environment):
    command = [sys.executable, "manage.py", "check"]
    ended = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)
    assert ended.returncode == 1
    assert next(iter(environment)) in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("folder", ["/home/jen/My Projects/var", "/srv/a=b", "/srv/a?b#c", "/srv/100%41", "/x" * 60])
def test_valkeys_socket_has_a_plain_and_short_path_whatever_the_data_folder_is_called(folder):
    path = env.socket_path(Path(folder))
    assert str(path).startswith("/tmp/mailsite-") and len(str(path)) < 60
    assert path == env.socket_path(Path(folder)) != env.socket_path(Path(folder + "2"))


def test_a_plain_folder_holds_the_socket_itself():
    assert env.socket_path(Path("/srv/mailsite/var")) == Path("/srv/mailsite/var/valkey.sock")
