"""Accept: how fast one web process takes mail over HTTP, against a FastAPI endpoint that only queues a task with RQ.

Ours is stored, authenticated and checked before it is answered. The same wrk loads both, in turn, round by round, with
the same body. No worker runs meanwhile, on neither side.
"""

import argparse
import json
import shutil
from dataclasses import dataclass, field
from urllib.request import Request, urlopen

from bench import message
from bench.report import NAMES, Line, databases, main, parser, progress
from bench.system import PEERS, ROOT, Broken, World, answers, free_port, output, prepare_peers

BATCH = 100
CONNECTIONS = (16, 64)


@dataclass
class Side:
    """A URL under load, and what was found in each round."""

    title: str
    url: str
    body: object
    key: str = "-"
    messages: int = 1  # in each request
    found: dict[int, list[dict]] = field(default_factory=lambda: {count: [] for count in CONNECTIONS})

    def load(self, world: World, connections: int, seconds: float) -> dict:
        body = world.folder / "body.json"
        body.write_text(json.dumps(self.body))
        wrk = [
            tool(),
            "--threads",
            "1",
            "--connections",
            str(connections),
            "--duration",
            f"{seconds:g}s",
            "--timeout",
            "30s",
        ]
        said = output([*wrk, "--script", ROOT / "bench" / "post.lua", self.url, "--", body, self.key])
        self.rest(body.read_bytes())
        found = json.loads(said.splitlines()[-1])
        if found["failed"] or not found["requests"]:
            raise Broken(f"{self.title}: {found['failed']} of {found['requests']} requests failed:\n{said}")
        return {**found, "rate": found["requests"] * self.messages / found["seconds"]}

    def rest(self, body: bytes) -> None:
        """Returns when the server is through with what wrk left behind when it ended: a request for each connection."""
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"}
        for _ in range(3):  # the first comes after all that waited, the others after what was in work
            urlopen(Request(self.url, body, headers), timeout=60).read()

    def column(self, connections: int, name: str) -> list[float]:
        return [found[name] for found in self.found[connections]]


def tool() -> str:
    if not (found := shutil.which("wrk")):
        raise Broken("wrk was not found (on Debian and Ubuntu: apt install wrk).")
    return found


def sides(world: World, wanted: list[str]) -> list[Side]:
    """All servers, running; the playground first."""
    found = []
    batch = [message.fields(number) for number in range(BATCH)]
    for database in wanted:
        copy = world.mailsite(database, relay=free_port())  # nothing is sent
        url, key = copy.web(), copy.manage("apikey", "create", "bench")
        if not found:
            found.append(Side("Playground: FastAPI, RQ", playground(world, copy.redis(1)), batch[0]))
        title = f"Mailsite, {NAMES[database]}"
        found.append(Side(f"{title}: POST /emails", f"{url}/emails", batch[0], key))
        found.append(Side(f"{title}: batches of {BATCH}", f"{url}/emails/batch", batch, key, BATCH))
    return found


def playground(world: World, redis: str) -> str:
    port = free_port()
    command = ["uvicorn", "bench.peers.playground:app", "--port", str(port), "--no-access-log"]
    world.start([PEERS / "bin" / "python", "-m", *command], lambda server: answers(port), PEER_REDIS_URL=redis)
    return f"http://127.0.0.1:{port}/emails"


def options() -> argparse.ArgumentParser:
    return parser(__doc__, rounds=3, database="both", seconds=5)


def measure(options: argparse.Namespace) -> list[Line]:
    tool()
    prepare_peers()
    with World() as world:
        measured = sides(world, databases(options))
        for side in measured:
            side.load(world, CONNECTIONS[0], 1)  # the first requests find cold caches
        for number in range(options.rounds):
            for connections in CONNECTIONS:
                for side in measured:
                    found = side.load(world, connections, options.seconds)
                    side.found[connections].append(found)
                    progress(f"round {number + 1}: {side.title}, {connections} connections: {found['rate']:,.0f}/s")
    lines = []
    for connections in CONNECTIONS:
        peer = measured[0].column(connections, "rate")
        for side in measured:
            title, middle = f"{side.title}, {connections} connections", side.column(connections, "p50")
            lines += [
                Line(title, side.column(connections, "rate"), "mails/s").against("playground", peer),
                Line("    p50", middle, "ms"),
                Line("    p99", side.column(connections, "p99"), "ms").against("p50", middle),
            ]
    return lines


if __name__ == "__main__":
    main(options(), measure)
