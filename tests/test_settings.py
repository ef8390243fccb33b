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
    "ORIGIN": (lambda: env.origin("ORIGIN", ""), "https://mail.example.com/mail"),
    "ORIGINS": (lambda: env.origins("ORIGINS"), "https://mail.internal,mail.example.com"),
    "HOSTS": (lambda: env.hosts("HOSTS"), "https://mail.internal"),
    "ALL_HOSTS": (lambda: env.hosts("ALL_HOSTS"), "*"),
    "NETWORKS": (lambda: env.networks("NETWORKS"), "10.0.0.1/8"),
    "ALL_NETWORKS": (lambda: env.networks("ALL_NETWORKS"), "0.0.0.0/0"),
    "KEYS": (lambda: env.secret_keys("KEYS"), f"{'k' * 32},short"),
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
        {"PUBLIC_URL": "mail.example.com"},
        {"TRUSTED_PROXIES": "proxy"},
    ],
    ids=lambda environment: next(iter(environment)),
)
def test_the_start_stops_with_a_sentence_and_no_traceback(environment):
    command = [sys.executable, "manage.py", "check"]
    ended = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)
    assert ended.returncode == 1
    assert next(iter(environment)) in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "given, origin",
    [
        ("https://Mail.Example.com/", "https://mail.example.com"),
        ("https://mail.example.com:443", "https://mail.example.com"),
        ("http://mail.example.com:443", "http://mail.example.com:443"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_an_address_is_kept_as_browsers_send_it(given, origin, monkeypatch):
    monkeypatch.setenv("ORIGIN", given)
    assert env.origin("ORIGIN", "") == origin


def test_a_postgresql_that_vanished_is_noticed_and_its_url_may_say_otherwise(monkeypatch):
    monkeypatch.setenv("DATABASE", "postgres://moss@db/mailsite?tcp_user_timeout=5000")
    options = env.database("DATABASE", Path("x"))["OPTIONS"]
    assert int(options["tcp_user_timeout"]) == 5000
    assert options["keepalives_idle"] + options["keepalives_interval"] * options["keepalives_count"] <= 20
    monkeypatch.setenv("DATABASE", "postgres://moss@db/mailsite")
    assert env.database("DATABASE", Path("x"))["OPTIONS"]["tcp_user_timeout"] == 20_000


def test_a_secret_that_is_too_short_is_not_shown(monkeypatch):
    monkeypatch.setenv("KEYS", "hunter2")
    with pytest.raises(env.EnvironmentProblem) as problem:
        env.secret_keys("KEYS")
    assert "hunter2" not in str(problem.value)


@pytest.mark.parametrize("folder", ["/home/jen/My Projects/var", "/srv/a=b", "/srv/a?b#c", "/srv/100%41", "/x" * 60])
def test_valkeys_socket_has_a_plain_and_short_path_whatever_the_data_folder_is_called(folder):
    path = env.socket_path(Path(folder))
    assert str(path).startswith("/tmp/mailsite-") and len(str(path)) < 60
    assert path == env.socket_path(Path(folder)) != env.socket_path(Path(folder + "2"))


def test_a_plain_folder_holds_the_socket_itself():
    assert env.socket_path(Path("/srv/mailsite/var")) == Path("/srv/mailsite/var/valkey.sock")
