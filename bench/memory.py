"""Memory: what a worker takes over many mails, what a waiting message takes in Redis, and any in the database."""

import argparse
import subprocess
import time

from redis import Redis

from bench.report import NAMES, Line, databases, main, parser, progress
from bench.system import World

LEFTOVERS_LIMIT = 120  # seconds
A_WORKERS_KEYS = 20  # what Redis holds for a worker with nothing to do


def options() -> argparse.ArgumentParser:
    return parser(__doc__, messages=20_000, database="both")


def measure(options: argparse.Namespace) -> list[Line]:
    return [line for database in databases(options) for line in measure_on(database, options.messages)]


def measure_on(database: str, count: int) -> list[Line]:
    name = NAMES[database]
    with World() as world:
        sink = world.sink()
        copy = world.mailsite(database, relay=sink.port)
        before = copy.inside("sizes")
        copy.inside("submit_batches", str(count), "default")
        waiting = copy.inside("sizes")
        progress(f"{name}: {count:,} messages wait.")
        worker = copy.worker()
        sink.wait(count // 10, worker)
        samples = [resident(worker.popen.pid)]
        while sink.count < count:
            worker.check()
            time.sleep(0.5)
            samples.append(resident(worker.popen.pid))
        with Redis.from_url(copy.redis()) as redis:
            gone_after = until_clean(redis, before["keys"])
        worker.stop()
        after = copy.inside("sizes")
    return [
        Line(f"{name}: worker's memory over {count:,} mails", samples, "MB"),
        Line("    at the end", samples[-1:], "MB").against("a tenth", samples[:1]),
        Line(f"{name}: Redis for a waiting message", [(waiting["redis"] - before["redis"]) / count], "bytes"),
        Line(f"{name}: last finished jobs gone after", [gone_after], "s"),
        Line(f"{name}: database for a message", [(after["database"] - before["database"]) / count], "bytes"),
    ]


def resident(pid: int) -> float:
    return int(subprocess.check_output(["ps", "-o", "rss=", "-p", str(pid)])) / 1024


def until_clean(redis: Redis, keys: int) -> float:
    """Seconds until nothing is left of the jobs: neither keys nor entries in the list of finished ones."""
    began = time.monotonic()
    while redis.dbsize() > keys + A_WORKERS_KEYS or redis.zcard("rq:finished:default"):
        if time.monotonic() - began > LEFTOVERS_LIMIT:
            return float("inf")
        time.sleep(0.5)
    return time.monotonic() - began


if __name__ == "__main__":
    main(options(), measure)
