"""What the web server calls."""

import os
import sys
import threading
from typing import Any

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.db import connection
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from mailsite.env import EnvironmentProblem

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mailsite.settings")
try:
    application = get_wsgi_application()
except EnvironmentProblem as problem:
    sys.exit(str(problem))

# Whoever asks over the web is told soon that SQLite is locked; a worker, which nobody watches, waits for longer.
if connection.vendor == "sqlite":
    settings.DATABASES["default"]["OPTIONS"]["timeout"] = 5


class Closing:
    """Closes a thread's database connection when the thread ends.

    The web server ends threads that have nothing to do, and starts others when they are needed. What they had open
    would wait for the garbage collector, and pile up meanwhile.
    """

    def __init__(self, connection: BaseDatabaseWrapper):
        self._connection = connection

    def __del__(self) -> None:
        self._connection.close()


_of_this_thread = threading.local()


def _close_with_this_thread(connection: BaseDatabaseWrapper, **_: Any) -> None:
    if not hasattr(_of_this_thread, "closing"):
        _of_this_thread.closing = Closing(connection)


connection_created.connect(_close_with_this_thread)
