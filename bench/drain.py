"""Drain: how fast one worker process sends what waits, against peers and a bare loop.

Everybody sends the same message to the same smtp-sink, in turn, round by round. Start-up is nobody's: raw and
post_office are timed around their one call, RQ's and Celery's workers from the first mail at the sink to the last,
and ours from the first claim to the last message that is finished in the database.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from bench.report import NAMES, Line, databases, main, parser, progress
from bench.system import PEERS, Broken, Mailsite, Sink, World, output, prepare_peers


@dataclass
class Contender:
    title: str
    share: float  # of --messages, so that the slow ones don't take all the time
    rate: Callable[["Stage", int], float]  # mails a second


@dataclass
class Stage:
    """What all contenders share."""

    world: World
    sink: Sink
    copies: dict[str, Mailsite]

    @property
    def peers(self) -> dict[str, str]:
        copy = next(iter(self.copies.values()))
        return {"SINK_PORT": str(self.sink.port), "PEER_REDIS_URL": copy.redis(1)}

    def peer(self, module: str, *words: object) -> str:
        python = PEERS / "bin" / "python"
        return output([python, "-m", f"bench.peers.{module}", *map(str, words)], **self.peers)


def raw(how: str, stage: Stage, count: int) -> float:
    return count / float(stage.peer("raw", stage.sink.port, count, how))


def post_office(stage: Stage, count: int) -> float:
    before = stage.sink.count
    seconds = float(stage.peer("with_post_office", count, stage.world.folder))
    if stage.sink.count - before < count:
        raise Broken(f"post_office sent {stage.sink.count - before} of {count} mails.")
    return count / seconds


def by_worker(queue: str, command: list[str], stage: Stage, count: int) -> float:
    """A peer's own worker, which is started when everything waits."""
    stage.peer(queue, count)
    before = stage.sink.count
    words = [word.format(redis=stage.peers["PEER_REDIS_URL"]) for word in command]
    worker = stage.world.start([PEERS / "bin" / words[0], *words[1:]], **stage.peers)
    stage.sink.wait(before + count, worker)
    worker.stop()
    return stage.sink.rate(before)


def ours(database: str, stage: Stage, count: int) -> float:
    return drain(stage.copies[database], stage.sink, count)


def drain(copy: Mailsite, sink: Sink, count: int) -> float:
    """Mails a second from the first claim to the last message that is finished in the database."""
    first = copy.inside("submit", str(count))["first"]
    before = sink.count
    worker = copy.worker()
    sink.wait(before + count, worker)
    worker.stop()  # in good order: what has been sent is recorded
    found = copy.inside("drained", first)
    if found["states"] != {"sent": count}:
        raise Broken(f"Of {count} messages not all are sent: {found['states']}.")
    return count / (found["finished"] - found["claimed"])


RQ_WORKER = ["rq", "worker", "--quiet", "--url", "{redis}"]
CELERY_WORKER = ["celery", "--app", "bench.peers.with_celery", "worker", "--concurrency", "2", "--loglevel", "ERROR"]
CONTENDERS = {
    "raw": Contender("raw: a bare smtplib loop", 1, partial(raw, "built")),
    "prebuilt": Contender("raw with prebuilt bytes", 2, partial(raw, "prebuilt")),
    "rq-fork": Contender("RQ, forking worker", 0.05, partial(by_worker, "with_rq", [*RQ_WORKER, "bench"])),
    "rq-simple": Contender(
        "RQ, SimpleWorker", 0.25,
        partial(by_worker, "with_rq", [*RQ_WORKER, "--worker-class", "rq.worker.SimpleWorker", "bench"]),
    ),
    "celery": Contender("Celery, prefork, 2 processes", 0.5, partial(by_worker, "with_celery", CELERY_WORKER)),
    "post-office": Contender("django-post_office, 1 process", 0.5, post_office),
    "ours": Contender("Mailsite, 1 worker", 1, ours),
}  # fmt: skip


def options() -> argparse.ArgumentParser:
    return parser(__doc__, rounds=3, messages=2000, database="both", only=list(CONTENDERS))


def measure(options: argparse.Namespace) -> list[Line]:
    if unknown := set(options.only) - CONTENDERS.keys():
        raise Broken(f"There is no {', '.join(unknown)}: choose among {', '.join(CONTENDERS)}.")
    if set(options.only) != {"ours"}:
        prepare_peers()
    measures = {}
    for name, contender in CONTENDERS.items():
        if name == "ours" and name in options.only:
            for database in databases(options):
                rate = partial(contender.rate, database)
                measures[database] = Contender(f"{contender.title}, {NAMES[database]}", contender.share, rate)
        elif name in options.only:
            measures[name] = contender
    rates: dict[str, list[float]] = {name: [] for name in measures}
    with World() as world:
        sink = world.sink()
        stage = Stage(world, sink, {database: world.mailsite(database, sink.port) for database in databases(options)})
        for number in range(options.rounds):
            for name, contender in measures.items():
                count = max(int(options.messages * contender.share), 20)
                rates[name].append(contender.rate(stage, count))
                progress(f"round {number + 1}: {contender.title}: {rates[name][-1]:,.0f} mails/s")
    return [
        Line(contender.title, rates[name], "mails/s").against("raw", rates.get("raw"))
        for name, contender in measures.items()
    ]


if __name__ == "__main__":
    main(options(), measure)
