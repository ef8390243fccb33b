"""What only a running system knows about the stores that it stands on."""

import shutil
from pathlib import Path

import django_rq
from django.db import connection
from redis import ConnectionPool, Redis
from redis.exceptions import RedisError

from emails import doorbell
from emails.models import Worker

NEARLY_FULL = 500  # megabytes


def warnings() -> list[str]:
    """Sentences about surroundings that put mail or its speed at risk; told at a worker's start and in the admin."""
    return _about_the_database() + _about_redis() + list(filter(None, [about_the_disk()]))


def impatient_redis() -> Redis:
    """The queue's Redis for a mere look, which must not wait for longer than a second; to be closed."""
    pool = doorbell.queue("default").connection.connection_pool
    short = {"socket_connect_timeout": 1, "socket_timeout": 1}
    return Redis.from_pool(ConnectionPool(pool.connection_class, **{**pool.connection_kwargs, **short}))


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
        redis = django_rq.get_connection("default")
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
