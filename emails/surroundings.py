"""What only a running system knows about the stores that it stands on."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakKeyDictionary

from django.db import connection
from redis import ConnectionPool, Redis
from redis.exceptions import RedisError, TimeoutError

from emails import doorbell
from emails.models import Worker

NEARLY_FULL = 500  # megabytes

_silent_until: WeakKeyDictionary[ConnectionPool, float] = WeakKeyDictionary()  # by time.monotonic()


def warnings() -> list[str]:
    """Sentences about surroundings that put mail or its speed at risk; told at a worker's start and in the admin."""
    return _about_the_database() + _about_redis() + list(filter(None, [about_the_disk()]))


@contextmanager
def impatient_redis() -> Iterator[Redis]:
    """The queue's Redis for a mere look, which waits for a second at most.

    While it is known to be silent nobody waits: the next look after a few seconds tries again. Raises RedisError.
    """
    pool = doorbell.queue("default").connection.connection_pool
    if time.monotonic() < _silent_until.get(pool, 0.0):
        raise TimeoutError("It didn't answer a moment ago.")
    short = {"socket_connect_timeout": 1, "socket_timeout": 1}
    with Redis.from_pool(ConnectionPool(pool.connection_class, **{**pool.connection_kwargs, **short})) as redis:
        try:
            yield redis
        except TimeoutError:
            _silent_until[pool] = time.monotonic() + doorbell.SILENCE
            raise


def about_the_disk() -> str:
    """A warning when an SQLite database has little room left to grow; PostgreSQL's is looked after elsewhere."""
    if connection.vendor != "sqlite":
        return ""
    left = shutil.disk_usage(Path(connection.settings_dict["NAME"]).absolute().parent).free // 2**20
    return (
        f"The database's disk has {left} MB left: once it is full, no mail is accepted." if left < NEARLY_FULL else ""
    )


def _about_the_database() -> list[str]:
    hosts = sorted(set(Worker.alive().values_list("host", flat=True)))
    if connection.vendor == "sqlite" and len(hosts) > 1:
        return [
            f"Workers on several hosts ({', '.join(hosts)}) share one SQLite file: over a network its locks can't be "
            "trusted. Set DATABASE_URL to a PostgreSQL."
        ]
    return []


def _about_redis() -> list[str]:
    try:
        with impatient_redis() as redis:
            known = redis.config_get("maxmemory", "maxmemory-policy", "appendonly", "save")
    except RedisError:
        return []  # away, or a managed one that doesn't say
    found = []
    if known.get("maxmemory", "0") != "0" and known.get("maxmemory-policy") != "noeviction":
        found.append(
            f"Redis evicts keys when its memory is full ({known['maxmemory-policy']}): jobs would vanish, and their "
            "mail wait for the poll. Set maxmemory-policy to noeviction."
        )
    if known.get("appendonly") == "no" and not known.get("save"):
        found.append(
            "Redis keeps nothing on disk: when it restarts, the queue is empty and mail waits for the poll. "
            "Set appendonly to yes."
        )
    return found
