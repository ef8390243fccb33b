"""How many connections to the database a web server holds."""

import threading

import pytest
from django.db import connections

import mailsite.wsgi  # noqa: F401  what the web server loads
from tests.environment import wait_until

pytestmark = [pytest.mark.stores, pytest.mark.django_db(transaction=True)]


def test_a_thread_that_ends_leaves_no_connection_open():
    used = []

    def answer_a_request() -> None:
        for _ in range(2):  # a connection that was lost is opened anew
            connections["default"].close()
            with connections["default"].cursor() as cursor:
                cursor.execute("SELECT 1")
        used.append(connections["default"])
        assert used[0].connection

    thread = threading.Thread(target=answer_a_request)
    thread.start()
    thread.join()
    wait_until(lambda: used[0].connection is None, "the connection stayed open")
