"""A line of the log, as text or as JSON (LOG_FORMAT), with the ids that say what it is about.

Whoever logs gives the ids that it knows as `extra`; the request at hand and the worker are added here.
"""

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import orjson

# What stands in no line isn't gathered for each: Python's own list of what may be left out.
logging._srcfile = None  # type: ignore[attr-defined]
logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
logging.logAsyncioTasks = False  # type: ignore[attr-defined]

# What opens a session or a download stands in no line, whoever writes it.
LINK = re.compile(r"""(/(?:login|downloads)/+)[^\s/"'<>]+""")
FIELDS = {"email", "request", "key", "worker", "method", "path", "status", "milliseconds", "client"}

request_at_hand: ContextVar[Any] = ContextVar("request", default=None)
of_this_process: dict[str, str] = {}  # ids that stand in all its lines


def at_hand() -> dict[str, str]:
    """The ids of the request that this thread answers, if it does."""
    if not (request := request_at_hand.get()):
        return {}
    key = getattr(request, "api_key", None)
    return {"request": request.id, "key": str(key.pk)} if key else {"request": request.id}


def fields(record: logging.LogRecord) -> dict[str, str | int]:
    found: dict[str, Any] = {**of_this_process, **at_hand()}
    for name in FIELDS & record.__dict__.keys():
        if isinstance(value := record.__dict__[name], (str, int)):  # Django gives whole requests
            found[name] = value
    return found


class Console(logging.StreamHandler):
    """Lines on stderr. A thread that has many writes them at once: each write gives its turn to another thread."""

    def __init__(self) -> None:
        super().__init__()
        self._here = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        lines: list[str] | None = getattr(self._here, "lines", None)
        if lines is None:
            super().emit(record)
        else:
            lines.append(self.format(record) + self.terminator)

    @contextmanager
    def together(self) -> Iterator[None]:
        """What this thread logs meanwhile is written at the end."""
        lines = self._here.lines = []
        try:
            yield
        finally:
            del self._here.lines
            assert self.lock
            with self.lock:
                self.stream.write("".join(lines))
                self.flush()


class TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = super().formatMessage(record)
        request = str(fields(record).get("request", ""))
        return line if request in line else f"{line} (request {request})"

    def format(self, record: logging.LogRecord) -> str:
        return without_tokens(super().format(record))


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname,
            "logger": record.name,
            "message": valid(without_tokens(record.getMessage())),
            **fields(record),
        }
        if record.exc_info:
            line["exception"] = valid(without_tokens(self.formatException(record.exc_info)))
        return orjson.dumps(line).decode()


def without_tokens(text: str) -> str:
    return LINK.sub(r"\1…", text)


def valid(text: str) -> str:
    """Text that can be UTF-8: half a character, as a broken mail may have it, is spelled out."""
    return text.encode(errors="backslashreplace").decode()


def as_json(text: str, source: str) -> str:
    """A line that somebody printed, unless it is JSON already."""
    if text.startswith('{"time":'):
        return text
    return JsonFormatter().format(logging.LogRecord(source, logging.INFO, "", 0, text, None, None))
