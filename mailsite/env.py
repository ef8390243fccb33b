"""Strict readers for the environment: a value that can't be understood stops the start.

Each reader takes the variable's name and its default, and raises `EnvironmentProblem` with the
name, the value and what was expected. An empty variable counts as unset, as in compose files.
Values come from the environment first, then from a `.env` beside manage.py.
"""

import hashlib
import ipaddress
import os
import re
import secrets
import tempfile
import zoneinfo
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dj_database_url
from django.core.exceptions import ImproperlyConfigured


class EnvironmentProblem(ImproperlyConfigured):
    """A setting in the environment that can't work, told in one sentence."""


def _read[T](name: str, default: T, parse: Callable[[str], T], expected: str, *, secret: bool = False) -> T:
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    try:
        return parse(text)
    except ValueError:
        shown = "not what it should be (not shown: it may hold a password)" if secret else repr(text)
        raise EnvironmentProblem(f"{name} is {shown}, expected {expected}.") from None


def text(name: str, default: str = "") -> str:
    return _read(name, default, str, "text")


def _list[T](name: str, parse: Callable[[str], T], expected: str, *, secret: bool = False) -> list[T]:
    """A comma-separated list; empty when unset."""

    def parse_each(value: str) -> list[T]:
        return [parse(word.strip()) for word in value.split(",") if word.strip()]

    return _read(name, [], parse_each, expected, secret=secret)


def boolean(name: str, default: bool) -> bool:
    def parse(value: str) -> bool:
        if value.lower() not in ("1", "true", "yes", "on", "0", "false", "no", "off"):
            raise ValueError
        return value.lower() in ("1", "true", "yes", "on")

    return _read(name, default, parse, "1 or 0 (or true/false, yes/no, on/off)")


def integer(name: str, default: int, minimum: int, maximum: int) -> int:
    def parse(value: str) -> int:
        number = int(value)
        if not minimum <= number <= maximum:
            raise ValueError
        return number

    return _read(name, default, parse, f"a whole number from {minimum} to {maximum}")


def seconds(name: str, default: float, minimum: float = 0) -> float:
    def parse(value: str) -> float:
        number = float(value)
        if not minimum <= number <= 86400:
            raise ValueError
        return number

    return _read(name, default, parse, f"seconds, from {minimum:g} to 86400")


def rate(name: str, default: float) -> float:
    """How many a second; 0 for no limit."""

    def parse(value: str) -> float:
        number = float(value)
        if number and not 0.01 <= number <= 100_000:
            raise ValueError
        return number

    return _read(name, default, parse, "a number a second, from 0.01 to 100000, or 0 for no limit")


def numbers(name: str, default: list[int]) -> list[int]:
    """A comma-separated list of whole numbers, each at least 1."""

    def parse(value: str) -> list[int]:
        found = [int(part) for part in value.split(",")]
        if min(found) < 1:
            raise ValueError
        return found

    return _read(name, default, parse, "seconds, separated by commas, such as 60,300,3600")


def choice(name: str, default: str, allowed: tuple[str, ...]) -> str:
    def parse(value: str) -> str:
        if value not in allowed:
            raise ValueError
        return value

    return _read(name, default, parse, " or ".join(allowed))


def host_name(name: str, default: str) -> str:
    """A host's name, or an address literal such as [192.0.2.1]."""

    def parse(value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*|\[[A-Za-z0-9.:]+\]", value):
            raise ValueError
        return value

    return _read(name, default, parse, "a host's name such as mail.example.com, or an address in brackets")


def hosts(name: str) -> list[str]:
    """Hosts' names as ALLOWED_HOSTS has them; one that begins with a dot stands for all below it, too."""

    def parse(value: str) -> str:
        if not re.fullmatch(r"\.?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*|\[[A-Fa-f0-9.:]+\]", value):
            raise ValueError
        return value.lower()

    return _list(name, parse, "hosts' names without scheme and port, such as mail.internal or .example.com")


def origin(name: str, default: str) -> str:
    """`scheme://host` or `scheme://host:port`, in the form in which browsers send it."""
    return _read(name, default, _origin, "an address such as https://mail.example.com, without a path")


def origins(name: str) -> list[str]:
    return _list(name, _origin, "addresses such as https://mail.example.com, without a path")


def _origin(value: str) -> str:
    parts = urlsplit(value.rstrip("/").lower())
    port = "" if parts.port in (None, {"http": 80, "https": 443}.get(parts.scheme)) else f":{parts.port}"
    host = parts.netloc.rpartition(":")[0] if parts.port is not None else parts.netloc
    if parts.scheme not in ("http", "https") or not re.fullmatch(r"[a-z0-9*._-]+|\[[a-f0-9.:]+\]", host):
        raise ValueError
    if parts.path or parts.query or parts.fragment:
        raise ValueError
    return f"{parts.scheme}://{host}{port}"


def networks(name: str) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    def parse(value: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
        network = ipaddress.ip_network(value)
        if not network.prefixlen:
            raise ValueError
        return network

    return _list(name, parse, "addresses and networks such as 127.0.0.1,10.0.0.0/8 (never all of them)")


def time_zone(name: str, default: str) -> str:
    def parse(value: str) -> str:
        if value not in zoneinfo.available_timezones():
            raise ValueError
        return value

    return _read(name, default, parse, "a time zone's name such as Europe/Berlin or UTC")


def url(name: str, default: str, schemes: tuple[str, ...]) -> str:
    """An absolute URL with one of `schemes`, without a trailing slash."""

    def parse(value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in schemes or not (parts.hostname or parts.scheme == "unix"):
            raise ValueError
        parts.port  # noqa: B018  raises ValueError for a port that is no number
        return value.rstrip("/")

    return _read(name, default, parse, f"a URL that begins with {' or '.join(s + '://' for s in schemes)}", secret=True)


def parsed[T](name: str, default: T, parse: Callable[[str], T], expected: str, *, secret: bool = False) -> T:
    """A value read by `parse`, which raises ValueError; a secret one is never shown."""
    return _read(name, default, parse, expected, secret=secret)


def database(name: str, sqlite_file: Path) -> dict[str, Any]:
    """Django's DATABASES entry: PostgreSQL or SQLite by URL, else SQLite in `sqlite_file`.

    SQLite runs in WAL mode with synchronous=FULL, so that a committed mail survives a power cut, and
    begins every transaction IMMEDIATE: a deferred one that upgrades fails at once, whatever the timeout.
    """

    def parse(value: str) -> dict[str, Any]:
        config = dj_database_url.parse(value)
        if config.get("ENGINE") not in ("django.db.backends.postgresql", "django.db.backends.sqlite3"):
            raise ValueError
        if not config.get("NAME"):
            raise ValueError
        return dict(config)

    config: dict[str, Any] = _read(
        name,
        {"ENGINE": "django.db.backends.sqlite3", "NAME": str(sqlite_file)},
        parse,
        "postgres://user:password@host:5432/name or sqlite:///path",
        secret=True,
    )
    config["CONN_MAX_AGE"] = None  # opening a connection costs more than most requests
    if config["ENGINE"].endswith("sqlite3"):
        config["OPTIONS"] = {
            "transaction_mode": "IMMEDIATE",
            "timeout": 30,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA cache_size=-16384;",
        }
    else:
        config["CONN_HEALTH_CHECKS"] = True
        ours = {"connect_timeout": 5, "application_name": "mailsite", "target_session_attrs": "read-write"}
        # A server that vanished without a word is noticed within 20 seconds, whether something was sent to it or not.
        vanished = {"tcp_user_timeout": 20_000, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 2}
        config["OPTIONS"] = {**ours, **vanished, **config.get("OPTIONS", {})}
    return config


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def token(name: str) -> str:
    """A secret that callers send in a header; empty when unset."""

    def parse(value: str) -> str:
        if not re.fullmatch(r"[!-~]{16,}", value):
            raise ValueError
        return value

    return _read(name, "", parse, "at least 16 random characters without spaces", secret=True)


def _secret_key(value: str) -> str:
    if len(value) < 32:
        raise ValueError
    return value


def secret_keys(name: str) -> list[str]:
    return _list(name, _secret_key, "keys of at least 32 characters, separated by commas", secret=True)


def secret_key(name: str, file: Path) -> str:
    """The key from the environment, else one generated once and kept in `file` (mode 600)."""
    if value := _read(name, "", _secret_key, "at least 32 random characters", secret=True):
        return value
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not file.exists():
            # Written whole beside its place, then linked: of two processes that start at once, one wins.
            handle, draft = tempfile.mkstemp(dir=file.parent)
            with os.fdopen(handle, "w") as stream:
                stream.write(secrets.token_urlsafe(50))
            try:
                os.link(draft, file)
            except FileExistsError:
                pass
            finally:
                os.unlink(draft)
        return file.read_text().strip()
    except OSError as error:
        raise EnvironmentProblem(
            f"The data folder {file.parent} can't be used ({error.strerror}): "
            "make it writable, or set MAILSITE_DATA to a folder that is."
        ) from None


def socket_path(folder: Path) -> Path:
    """Where the embedded Valkey listens: in the data folder, or under /tmp where that path is too long.

    The kernel allows about 104 bytes for a Unix socket's path, and a URL or RQ's look at its clients no
    space or other special character. The folder is named after the data folder, so that every process of
    a copy finds it without being told, and only its owner may enter.
    """
    path = folder / "valkey.sock"
    if len(os.fsencode(path)) <= 100 and re.fullmatch(r"[A-Za-z0-9_./+-]+", str(path)):
        return path
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    return Path(f"/tmp/mailsite-{os.getuid()}-{digest}") / "valkey.sock"
