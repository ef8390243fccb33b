"""All figures, one after the other, in one table: `make bench`. Short runs; each figure's own command has options."""

import argparse

from bench import accept, drain, far, flat, latency, memory
from bench.report import Line, main, parser, progress

FIGURES = {"drain": drain, "far": far, "latency": latency, "accept": accept, "flat": flat, "memory": memory}
SHORT = {"latency": ["--backlog=20000", "--seconds=20"], "flat": ["--stored=100000"], "memory": ["--messages=5000"]}
FULL = {"memory": ["--messages=100000"]}


def options() -> argparse.ArgumentParser:
    known = parser(__doc__, only=list(FIGURES))
    known.add_argument("--full", action="store_true", help="at full size: takes an hour instead of a quarter")
    return known


def measure(options: argparse.Namespace) -> list[Line]:
    lines = []
    for name, figure in FIGURES.items():
        if name in options.only:
            progress(f"\n{figure.__doc__.splitlines()[0]}")
            chosen = (FULL if options.full else SHORT).get(name, [])
            lines += figure.measure(figure.options().parse_args(chosen))
    return lines


if __name__ == "__main__":
    main(options(), measure)
