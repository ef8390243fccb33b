"""Queues tasks with RQ: `python -m bench.peers.with_rq COUNT`. RQ's own worker runs them."""

import os
import sys

from redis import Redis
from rq import Queue

from bench.peers import task

if __name__ == "__main__":
    queue = Queue("bench", connection=Redis.from_url(os.environ["PEER_REDIS_URL"]))
    for number in range(int(sys.argv[1])):
        queue.enqueue(task.send, number)
