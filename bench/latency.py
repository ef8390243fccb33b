"""Latency: from a request's start to the relay's 250, for urgent mail, idle and while a large backlog drains.

Messages of high priority are posted over HTTP, five a second, each over a connection of its own; a small relay in a
process of its own tells when it took which.
"""

import argparse
import json
import statistics
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

from bench import message
from bench.report import NAMES, Line, databases, main, parser, progress
from bench.system import Broken, Mailsite, Process, World, answers, free_port, wait_until

A_SECOND = 5


class Poster:
    """Posts marked messages at a steady pace, and waits for their marks at the relay."""

    def __init__(self, copy: Mailsite, relay: Process):
        self.url, self.key, self.relay = copy.web(), copy.manage("apikey", "create", "bench"), relay
        self.posted = 0

    def post(self, number: int) -> float:
        """When the request began."""
        body = message.fields(number) | {"to": f"mark-{number}@example.com", "priority": "high"}
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/emails", json.dumps(body).encode(), headers)
        began = time.time()
        urllib.request.urlopen(request, timeout=30).close()
        return began

    def measure(self, seconds: float) -> tuple[list[float], float]:
        """The milliseconds of each message, and how many mails a second the relay took in all."""
        numbers = range(self.posted, self.posted + int(seconds * A_SECOND))
        self.posted = numbers.stop
        beginning = time.monotonic()
        with ThreadPoolExecutor(32) as threads:
            requests = []
            for number in numbers:
                time.sleep(max(0, beginning + len(requests) / A_SECOND - time.monotonic()))
                requests.append(threads.submit(self.post, number))
            began = [request.result() for request in requests]
        wait_until(lambda: self.marks().keys() >= set(numbers), "Not all messages reached the relay")
        marks = [self.marks()[number] for number in numbers]
        rate = (marks[-1][1] - marks[0][1]) / (marks[-1][0] - marks[0][0])
        return [(taken - start) * 1000 for start, (taken, _) in zip(began, marks, strict=True)], rate

    def marks(self) -> dict[int, tuple[float, int]]:
        """For each message, when the relay took it, and as which in all."""
        words = [line.split() for line in self.relay.output.splitlines()]
        return {int(mark.removeprefix("mark-")): (float(moment), int(count)) for mark, moment, count in words}


def options() -> argparse.ArgumentParser:
    return parser(__doc__, rounds=1, database="both", seconds=60, backlog=100_000)


def measure(options: argparse.Namespace) -> list[Line]:
    return [line for database in databases(options) for line in measure_on(database, options)]


def measure_on(database: str, options: argparse.Namespace) -> list[Line]:
    found: dict[str, list[float]] = {}
    with World() as world:
        port = free_port()
        relay = world.start([sys.executable, "-m", "bench.marks", str(port)], lambda relay: answers(port))
        copy = world.mailsite(database, relay=port)
        poster = Poster(copy, relay)
        for number in range(options.rounds):
            for waiting in (0, options.backlog):
                copy.inside("submit_batches", str(waiting), "low")
                worker = copy.worker()
                poster.measure(4)  # for the worker to get going
                times, rate = poster.measure(options.seconds)
                if waiting and not copy.inside("waiting")["low"]:
                    raise Broken("The backlog ran out: give a larger --backlog, or fewer --seconds.")
                worker.stop()
                title = f"{NAMES[database]}, {f'{waiting:,} waiting' if waiting else 'idle'}"
                cuts = statistics.quantiles(times, n=100, method="inclusive")
                for what, value in {"p50": cuts[49], "p99": cuts[98], "all mail": rate}.items():
                    found.setdefault(f"{title}: {what}", []).append(value)
                progress(
                    f"round {number + 1}: {title}: p50 {cuts[49]:.0f} ms, p99 {cuts[98]:.0f} ms, {rate:.0f} mails/s"
                )
    return [Line(title, values, "mails/s" if title.endswith("mail") else "ms") for title, values in found.items()]


if __name__ == "__main__":
    main(options(), measure)
