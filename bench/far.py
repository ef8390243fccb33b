"""Far: how fast one worker process sends to a relay 20 ms away, with the 16 connections that it has by default.

A proxy on the loopback adds the time in front of smtp-sink. Beside it raw: one connection that waits for each answer.
"""

import argparse
import sys

from bench.drain import drain
from bench.report import NAMES, Line, databases, main, parser, progress
from bench.system import PEERS, World, answers, free_port, output, prepare_peers

ROUND_TRIP = 20  # ms


def options() -> argparse.ArgumentParser:
    return parser(__doc__, rounds=3, messages=2000, database="both")


def measure(options: argparse.Namespace) -> list[Line]:
    prepare_peers()
    rates: dict[str, list[float]] = {}
    with World() as world:
        sink, port = world.sink(), free_port()
        distance = [sys.executable, "-m", "bench.distance", str(port), str(sink.port), str(ROUND_TRIP)]
        world.start(distance, lambda proxy: answers(port))
        copies = {database: world.mailsite(database, relay=port) for database in databases(options)}
        few = max(options.messages // 50, 10)
        for number in range(options.rounds):
            raw = float(output([PEERS / "bin" / "python", "-m", "bench.peers.raw", str(port), str(few)]))
            found = {"raw: one connection": few / raw}
            for database, copy in copies.items():
                found[f"Mailsite, 1 worker, {NAMES[database]}"] = drain(copy, sink, options.messages)
            for title, rate in found.items():
                rates.setdefault(title, []).append(rate)
                progress(f"round {number + 1}: {title}: {rate:,.0f} mails/s")
    first = next(iter(rates.values()))
    return [
        Line(f"{ROUND_TRIP} ms away, {title}", found, "mails/s").against("raw", first) for title, found in rates.items()
    ]


if __name__ == "__main__":
    main(options(), measure)
