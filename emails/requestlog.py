"""The request log is written beside the requests: they put rows into a queue, one thread stores what is there."""

import atexit
import logging
import queue
import threading

from django.db import connection, transaction

from emails.models import RequestLog
from emails.rows import insert

logger = logging.getLogger(__name__)

ROOM = 10_000  # rows that wait at most; what comes beyond is dropped
AT_ONCE = 500  # rows in a transaction, so that accepting never waits long for its turn on SQLite
PAUSE = 1.0  # seconds between two writes


class Writer:
    def __init__(self) -> None:
        self._rows: queue.Queue[RequestLog] = queue.Queue(ROOM)
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self.dropped = 0

    def add(self, row: RequestLog) -> None:
        """Never waits."""
        if not self._thread:
            self._start()
        try:
            self._rows.put_nowait(row)
        except queue.Full:
            self._drop(1, "they come faster than the database takes them")

    def stop(self) -> None:
        """Stores what is left."""
        self._stopping.set()
        if self._thread:
            self._thread.join(5)

    def _start(self) -> None:
        with self._lock:
            if not self._thread:
                atexit.register(self.stop)
                self._thread = threading.Thread(target=self._loop, name="request log", daemon=True)
                self._thread.start()

    def _loop(self) -> None:
        while not self._stopping.wait(PAUSE):
            self.write()
        self.write()
        connection.close()

    def write(self) -> None:
        stored = False
        while rows := self._take():
            try:
                with transaction.atomic():
                    insert(rows)
                stored = True
            except Exception as error:  # whatever it is, later requests are to be stored by this thread
                connection.close()
                self._drop(len(rows), str(error))
                stored = False
        if stored and self.dropped:
            logger.warning("The request log is kept again: %d requests were left out.", self.dropped)
            self.dropped = 0

    def _take(self) -> list[RequestLog]:
        rows: list[RequestLog] = []
        try:
            while len(rows) < AT_ONCE:
                rows.append(self._rows.get_nowait())
        except queue.Empty:
            pass
        return rows

    def _drop(self, count: int, reason: str) -> None:
        """Said once, until rows are stored again."""
        if not self.dropped:
            logger.warning("Requests are left out of the request log: %s.", reason)
        self.dropped += count


writer = Writer()
