"""The doorbell: the one file that knows how RQ lays out its jobs in Redis.

A job carries nothing but a message's id, which is its own id too. It is never the only copy of anything:
if Redis loses it, the overdue poll finds the message in the database.

RQ's own methods cost a round trip or more for each job; here a group of jobs shares one. Keys and fields
are those of rq 3.0 (pinned); tests/test_doorbell.py holds what is written here against RQ's own readers.
"""

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from uuid import uuid4

import django_rq
from redis.client import Pipeline
from redis.exceptions import RedisError, TimeoutError
from rq.executions import WORKER_EXECUTIONS_KEY_TEMPLATE, Execution, ExecutionRegistry
from rq.job import Job as RQJob
from rq.job import JobStatus
from rq.queue import Queue
from rq.registry import FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry
from rq.results import Result
from rq.serializers import DefaultSerializer
from rq.utils import current_timestamp, now, utcformat
from rq.worker import BaseWorker, WorkerStatus

logger = logging.getLogger(__name__)

_silent_until = 0.0  # by time.monotonic()

QUEUES = ("high", "default", "low")
DELIVER = "emails.engine.deliver"
FAILURE_TTL = 24 * 3600
MOST_OWED = 10  # pops that a queue may have coming
STARTED_TTL = 120  # seconds that a started job is believed without a heartbeat
SILENCE = 5.0  # seconds for which a Redis that didn't answer is not rung
HOW_TO_GET_REDIS = "Start one with `make services`, or set REDIS_URL to your own."


@dataclass(frozen=True)
class Job:
    """What is rung: a message's id, its queue, a line for the dashboard, and how long the result is kept (s)."""

    id: str
    queue: str
    description: str
    keep: int


@dataclass(frozen=True)
class Popped:
    id: str
    queue: str


@dataclass(frozen=True)
class Settled:
    """How a job ended: its result in words, kept for `keep` seconds, or why it failed."""

    id: str
    text: str
    keep: int = 10
    failed: bool = False


@cache
def queue(name: str) -> Queue:
    """The queue, kept: django_rq.get_queue() opens a new connection at each call."""
    return django_rq.get_queue(name)


def ring(jobs: Sequence[Job]) -> None:
    """Rings for messages that are committed. A failure is no error: the overdue poll finds them.

    A Redis that doesn't answer is left alone for a while, since callers wait meanwhile.
    """
    global _silent_until
    if not jobs or time.monotonic() < _silent_until:
        return
    moment = utcformat(now())
    rung: dict[str, list[str]] = defaultdict(list)
    try:
        with queue("default").connection.pipeline() as pipe:
            for job in jobs:
                rung[queue(job.queue).key].append(job.id)
                fields = {
                    "data": DefaultSerializer.dumps((DELIVER, None, (job.id,), {})),
                    "origin": job.queue,
                    "description": job.description,
                    "created_at": moment,
                    "enqueued_at": moment,
                    "status": JobStatus.QUEUED,
                    "result_ttl": job.keep,
                    "failure_ttl": FAILURE_TTL,
                }
                pipe.hset(RQJob.key_for(job.id), mapping=fields)
            for key, ids in rung.items():
                pipe.rpush(key, *ids)
            pipe.sadd(Queue.redis_queues_keys, *rung)
            pipe.execute()
    except RedisError as error:
        if isinstance(error, TimeoutError):
            _silent_until = time.monotonic() + SILENCE
        logger.warning("Redis can't be reached (%s): what was just accepted waits for the overdue poll.", error)


class Ledger:
    """A worker's jobs in RQ's books: popped, started, settled, so that the dashboard tells the truth."""

    def __init__(self, worker: BaseWorker):
        self.worker = worker
        self.connection = worker.connection
        self.queues = worker.queues
        self.running: dict[str, Popped] = {}
        self._owed: dict[str, float] = defaultdict(float)  # pops that lower queues have coming
        self._executions = WORKER_EXECUTIONS_KEY_TEMPLATE.format(worker.name)
        self._execution = uuid4().hex  # a job runs once at a time here, so one id serves them all

    def pop(self, limit: int, timeout: float, without: Collection[str] = (), reserve: int = 0) -> list[Popped]:
        """Up to `limit` ids, the most urgent queue first; of every ten pops a waiting lower queue gets one.

        The last `reserve` are for the most urgent queue alone. Queues named in `without` are left alone. With
        nothing there, waits up to `timeout` seconds for one.
        """
        limits = {source: max(0, limit - reserve) for source in self.queues} | {self.queues[0]: limit}
        served = [source for source in self.queues if source.name not in without]
        queues = [source for source in served if limits[source]]
        lower: list[Popped] = []
        for source in served[1:]:
            self._owed[source.name] = min(self._owed[source.name] + limit / 10, MOST_OWED)
            due = min(int(self._owed[source.name]), limits[source] - len(lower))
            self._owed[source.name] -= max(0, due)  # also where nothing waits: what isn't used isn't saved up
            lower += self._take(source, due)
        popped: list[Popped] = []
        for source in queues:
            popped += self._take(source, limits[source] - len(lower) - len(popped))
            popped += [job for job in lower if job.queue == source.name]
        if not popped and timeout:
            if not queues:
                time.sleep(timeout)
            elif answer := self.connection.blpop([source.key for source in queues], timeout):
                name = next(source.name for source in queues if source.key == answer[0].decode())
                popped.append(Popped(answer[1].decode(), name))
        return popped

    def _take(self, source: Queue, count: int) -> list[Popped]:
        found = self.connection.lpop(source.key, count) if count > 0 else []
        return [Popped(id.decode(), source.name) for id in found or []]

    def put_back(self, popped: Sequence[Popped]) -> None:
        """Jobs that were not begun stand in front of their queues again, in their old order."""
        keys = {source.name: source.key for source in self.queues}
        with self.connection.pipeline() as pipe:
            for job in reversed(popped):
                pipe.lpush(keys[job.queue], job.id)
            pipe.execute()

    def start(self, popped: Iterable[Popped]) -> None:
        """Registers jobs as started by this worker. A job that somebody has deleted stays deleted."""
        known = self._existing(list(popped))
        if not known:
            return
        moment = utcformat(now())
        started = {
            "status": JobStatus.STARTED,
            "started_at": moment,
            "last_heartbeat": moment,
            "worker_name": self.worker.name,
        }
        with self.connection.pipeline() as pipe:
            for job in known:
                execution = self._execution_of(job.id)
                pipe.hset(RQJob.key_for(job.id), mapping=started)
                pipe.hset(execution.key, mapping=execution.serialize())
            pipe.sadd(self._executions, *(self._execution_of(job.id).composite_key for job in known))
            pipe.expire(self._executions, STARTED_TTL)
            self._believe(pipe, known)
            self.worker.set_state(WorkerStatus.BUSY, pipeline=pipe)
            pipe.execute()
        self.running |= {job.id: job for job in known}

    def settle(self, settled: Iterable[Settled]) -> None:
        """Ends jobs that were started here; the others, whose message was found by the poll, have none."""
        ended = [(job, end) for end in settled if (job := self.running.pop(end.id, None))]
        kept = {job.id for job in self._existing([job for job, _ in ended])}
        with self.connection.pipeline() as pipe:
            for job, end in ended:
                if job.id in kept:
                    self._write_end(pipe, job, end)
            self._end_executions(pipe, [job for job, _ in ended])
            for failed, count in Counter(end.failed for job, end in ended if job.id in kept).items():
                pipe.hincrby(self.worker.key, "failed_job_count" if failed else "successful_job_count", count)
            if not self.running:
                self.worker.set_state(WorkerStatus.IDLE, pipeline=pipe)
            pipe.execute()

    def _write_end(self, pipe: Pipeline, job: Popped, end: Settled) -> None:
        keep = FAILURE_TTL if end.failed else end.keep
        registry = FailedJobRegistry if end.failed else FinishedJobRegistry
        status = JobStatus.FAILED if end.failed else JobStatus.FINISHED
        pipe.hset(RQJob.key_for(job.id), mapping={"status": status, "ended_at": utcformat(now())})
        pipe.expire(RQJob.key_for(job.id), keep)
        pipe.zadd(registry.key_template.format(job.queue), {job.id: current_timestamp() + keep})
        Result(
            job.id,
            Result.Type.FAILED if end.failed else Result.Type.SUCCESSFUL,
            self.connection,
            return_value=None if end.failed else end.text,
            exc_string=end.text if end.failed else None,
            worker_name=self.worker.name,
        ).save(keep, pipe)

    def _existing(self, jobs: list[Popped]) -> list[Popped]:
        """Those that nobody has deleted on the dashboard: writing to the others would make half a job anew."""
        if not jobs:
            return []
        with self.connection.pipeline(transaction=False) as pipe:
            for job in jobs:
                pipe.exists(RQJob.key_for(job.id))
            return [job for job, exists in zip(jobs, pipe.execute(), strict=True) if exists]

    def forget(self, job_id: str) -> Popped | None:
        """Takes a job that is not ours out of the books, for whoever runs it."""
        if not (job := self.running.pop(job_id, None)):
            return None
        with self.connection.pipeline() as pipe:
            self._end_executions(pipe, [job])
            pipe.execute()
        return job

    def beat(self) -> None:
        """Keeps this worker and its started jobs believed, and drops expired results."""
        with self.connection.pipeline() as pipe:
            self.worker.heartbeat(pipeline=pipe)
            self._believe(pipe, list(self.running.values()))
            for source in self.queues:
                pipe.zremrangebyscore(FinishedJobRegistry.key_template.format(source.name), 0, current_timestamp())
            pipe.execute()

    def _believe(self, pipe: Pipeline, jobs: list[Popped]) -> None:
        """Merely looking at the dashboard's page of started jobs fails those without a recent heartbeat."""
        until = current_timestamp() + STARTED_TTL
        for registry, group in self._by_registry(jobs).items():
            pipe.zadd(registry, {self._execution_of(job.id).composite_key: until for job in group})
        for job in jobs:
            pipe.zadd(ExecutionRegistry.key_template.format(job.id), {self._execution: until})
            pipe.expire(ExecutionRegistry.key_template.format(job.id), STARTED_TTL)
            pipe.expire(self._execution_of(job.id).key, STARTED_TTL)

    def _end_executions(self, pipe: Pipeline, jobs: list[Popped]) -> None:
        if not jobs:
            return
        executions = [self._execution_of(job.id) for job in jobs]
        for registry, group in self._by_registry(jobs).items():
            pipe.zrem(registry, *(self._execution_of(job.id).composite_key for job in group))
        pipe.delete(*(execution.key for execution in executions))
        pipe.delete(*(ExecutionRegistry.key_template.format(job.id) for job in jobs))
        pipe.srem(self._executions, *(execution.composite_key for execution in executions))

    def _by_registry(self, jobs: list[Popped]) -> dict[str, list[Popped]]:
        """Jobs by the registry of started jobs in which they stand."""
        groups = defaultdict(list)
        for job in jobs:
            groups[StartedJobRegistry.key_template.format(job.queue)].append(job)
        return groups

    def _execution_of(self, job_id: str) -> Execution:
        return Execution(self._execution, job_id, self.connection, self.worker.name)


def wait_for_redis() -> None:
    """Returns once Redis answers; says once what is missing and how to get it."""
    told = False
    while True:
        try:
            queue("default").connection.ping()
            return
        except RedisError as error:
            if not told:
                logger.error("Redis can't be reached (%s). %s Waiting for it.", error, HOW_TO_GET_REDIS)
            told = True
            time.sleep(1)
