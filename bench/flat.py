"""Flat: what a message costs with a thousand messages stored and with a million, a tenth of them waiting.

Two copies of Mailsite on each database, one small and one large, filled with a month's mail (bench/fill.py). Each
step is taken in turn on both, round by round; accepting, lists and pages over HTTP, at one request at a time.
"""

import argparse
import http.client
import statistics
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from bench import message
from bench.report import NAMES, Line, databases, main, parser, progress
from bench.system import Broken, World, free_port

SMALL = 1_000
REQUESTS = 30


class Copy:
    """One copy that holds `count` messages, and how long each step takes there, in milliseconds."""

    def __init__(self, world: World, database: str, count: int):
        self.mailsite = world.mailsite(database, relay=free_port())  # nothing is sent
        progress(f"Storing {count:,} messages on {NAMES[database]}.")
        found = self.mailsite.inside("fill", str(count))
        web = urlsplit(self.mailsite.web())
        self.http = http.client.HTTPConnection(web.hostname, web.port)
        key = self.mailsite.manage("apikey", "create", "bench")
        self.headers = {"Authorization": f"Bearer {key}", "Cookie": found["cookie"]}
        api, pages = "/emails?limit=50", "/admin/emails/emailrequest/"
        paths = {
            "API, list": api,
            "API, oldest message's recipient": f"{api}&to=far@end.example",
            "API, any recipient": f"{api}&to={found['address']}",
            "API, a large domain": f"{api}&to=@big.example",
            "page, overview": "/",
            "page, list": "/messages",
            "page, any recipient": f"/messages?q={found['address']}",
            "page, message": f"/messages/{found['id']}",
            "admin, list": pages,
            "admin, by state": f"{pages}?state__exact=sent",
            "admin, any recipient": f"{pages}?q={found['address']}",
        }
        self.steps: dict[str, Callable[[], float]] = {"accept": self.accept}
        self.steps |= {name: lambda path=path: self.request("GET", path) for name, path in paths.items()}

    def accept(self) -> float:
        return self.request("POST", "/emails", message.as_json(1))

    def request(self, method: str, path: str, body: str | None = None) -> float:
        """The middle one of several requests, after one that warms up."""
        seconds = []
        for _ in range(REQUESTS + 1):
            started = time.perf_counter()
            self.http.request(method, path, body, {**self.headers, "Content-Type": "application/json"})
            answer = self.http.getresponse()
            answer.read()
            seconds.append(time.perf_counter() - started)
            if answer.status != 200:
                raise Broken(f"{method} {path} was answered with {answer.status}.")
        return statistics.median(seconds[1:]) * 1000

    def costs(self) -> dict[str, float]:
        return {name: step() for name, step in self.steps.items()} | self.mailsite.inside("costs")


def options() -> argparse.ArgumentParser:
    return parser(__doc__, rounds=3, database="both", stored=1_000_000)


def measure(options: argparse.Namespace) -> list[Line]:
    lines = []
    for database in databases(options):
        with World() as world:
            small, large = Copy(world, database, SMALL), Copy(world, database, options.stored)
            found = []
            for number in range(options.rounds):
                found.append((small.costs(), large.costs()))
                progress(f"round {number + 1} on {NAMES[database]} is done.")
            for step in found[0][0]:
                few, many = ([costs[step] for costs in column] for column in zip(*found, strict=True))
                title = f"{NAMES[database]}, {options.stored:,} stored: {step}"
                lines.append(Line(title, many, "ms").against(f"at {SMALL:,}", few))
    return lines


if __name__ == "__main__":
    main(options(), measure)
