"""What all benchmarks have in common: their options, rounds and table."""

import argparse
import signal
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from bench.system import Broken


@dataclass
class Line:
    """A line of the table: what was measured, once in each round; its ratios to the other side of the same round."""

    what: str
    values: list[float]
    unit: str
    ratios: list[float] = field(default_factory=list)
    to: str = ""

    def against(self, name: str, others: list[float] | None) -> Self:
        if others:
            self.to, self.ratios = name, [own / other for own, other in zip(self.values, others, strict=True)]
        return self


def spread(values: list[float]) -> list[str]:
    """The least, the middle and the most."""
    found = (min(values), statistics.median(values), max(values)) if values else ()
    return [f"{value:,.{2 if value < 10 else 1 if value < 100 else 0}f}" for value in found] or [""] * 3


def show(lines: list[Line]) -> None:
    head = ["", "least", "middle", "most", "", "×", "least", "middle", "most"]
    rows = [head] + [[line.what, *spread(line.values), line.unit, line.to, *spread(line.ratios)] for line in lines]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    print()
    for row in rows:
        cells = [
            word.ljust(width) if column in (0, 4, 5) else word.rjust(width)
            for column, (word, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def parser(description: str, **defaults) -> argparse.ArgumentParser:
    """With the options that a benchmark has defaults for."""
    known = {
        "rounds": {"type": int, "help": "each measures all sides in turn"},
        "messages": {"type": int, "help": "in each round, fewer for the slow ones"},
        "database": {"choices": ["sqlite", "postgresql", "both"], "help": "Mailsite's"},
        "stored": {"type": int, "help": "messages in the large copy"},
        "seconds": {"type": float, "help": "of each measurement"},
        "backlog": {"type": int, "help": "messages of low priority that wait"},
        "only": {"type": lambda text: text.split(","), "metavar": "NAME,NAME", "help": "some of the sides"},
    }
    parser = argparse.ArgumentParser(
        description=description.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", default=default, **known[name])
    return parser


def databases(options: argparse.Namespace) -> list[str]:
    return ["sqlite", "postgresql"] if options.database == "both" else [options.database]


NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}


def stop(*_) -> None:
    """Whoever is told to stop ends what it started, however often it is told."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def main(parser: argparse.ArgumentParser, measure: Callable[[argparse.Namespace], list[Line]]) -> None:
    """Measures and shows; what can't be measured ends with a sentence."""
    options = parser.parse_args()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, stop)
    try:
        show(measure(options))
    except Broken as problem:
        sys.exit(str(problem))
    except KeyboardInterrupt:
        sys.exit("Stopped.")
