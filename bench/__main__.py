"""All figures, one after the other, in one table: `make bench`. Short runs; each figure's own command has options."""

import argparse

from bench import accept, drain, far, flat, latency
from bench.report import Line, main, parser, progress

FIGURES = {"drain": drain, "far": far, "latency": latency, "accept": accept, "flat": flat}
SHORT = {"latency": ["--backlog", "20000", "--seconds", "20"], "flat": ["--stored", "100000", "--rounds", "2"]}


def options() -> argparse.ArgumentParser:
    known = parser(__doc__, only=list(FIGURES))
    known.add_argument("--full", action="store_true", help="with a million stored, and the like: takes hours")
    return known


def measure(options: argparse.Namespace) -> list[Line]:
    lines = []
    for name, figure in FIGURES.items():
        if name in options.only:
            progress(f"\n{figure.__doc__.splitlines()[0]}")
            lines += figure.measure(figure.options().parse_args([] if options.full else SHORT.get(name, [])))
    return lines


if __name__ == "__main__":
    main(options(), measure)
