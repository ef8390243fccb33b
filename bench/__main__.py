"""All figures, one after the other, in one table: `make bench`. Short runs; each figure's own command has options."""

import argparse

from bench import accept, drain
from bench.report import Line, main, parser, progress

FIGURES = {"drain": drain, "accept": accept}


def options() -> argparse.ArgumentParser:
    return parser(__doc__, only=list(FIGURES))


def measure(options: argparse.Namespace) -> list[Line]:
    lines = []
    for name, figure in FIGURES.items():
        if name in options.only:
            progress(f"\n{figure.__doc__.splitlines()[0]}")
            lines += figure.measure(figure.options().parse_args([]))
    return lines


if __name__ == "__main__":
    main(options(), measure)
