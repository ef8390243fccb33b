"""Queues tasks with Celery: `python -m bench.peers.with_celery COUNT`. Its own worker finds `app` here."""

import os
import sys

from celery import Celery

from bench.peers import task

broker = os.environ["PEER_REDIS_URL"].replace("unix://", "redis+socket://").replace("?db=", "?virtual_host=")
app = Celery(broker=broker)
send = app.task(task.send, name="send", ignore_result=True)

if __name__ == "__main__":
    for number in range(int(sys.argv[1])):
        send.delay(number)
