"""A FastAPI endpoint that queues a task with RQ and answers with its id: no database, no keys, no look at the body."""

import os

from fastapi import FastAPI
from redis import Redis
from rq import Queue

from bench.peers import task

app = FastAPI()
queue = Queue("bench", connection=Redis.from_url(os.environ["PEER_REDIS_URL"]))


@app.post("/emails")
def send() -> dict[str, str]:
    return {"id": queue.enqueue(task.send, 1).id}
