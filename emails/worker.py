"""`manage.py rqworker`: an RQ worker whose loop is a pump between the queues and the engine."""

import logging
import os
import queue
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterable
from types import FrameType
from uuid import UUID

from django.db import Error, connection
from redis import Redis
from redis.exceptions import RedisError
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.suspension import is_suspended
from rq.timeouts import TimerDeathPenalty
from rq.utils import now
from rq.worker import BaseWorker, SimpleWorker, WorkerStatus

from emails import doorbell, surroundings, tallies
from emails.doorbell import Ledger, Popped
from emails.engine import CAPACITY, Engine
from emails.models import EmailRequest, Worker
from emails.states import HELD, WAITING
from mailsite import logs

logger = logging.getLogger(__name__)

WAIT = 1.0  # seconds that the pump blocks at most
TURN = 0.05  # seconds that it blocks at most while mail is on its way
BEAT = 10.0  # seconds between two heartbeats in Redis


class MailWorker(BaseWorker):
    """Serves its queues until it is told to stop, whatever happens to Redis meanwhile.

    Stock RQ's loop blocks for minutes, quits on Redis errors and ends late jobs by a signal, perhaps in
    the middle of a mail. Here the pump takes ids from the queues, hands them to the engine and settles
    their jobs; it never blocks for longer than a second. Other apps' jobs run in a thread of their own.
    """

    connection_timeout = 5  # seconds for a Redis command; stock RQ allows minutes for its blocking pop

    def __init__(self, queues, name: str | None = None, **options):
        super().__init__(queues, name or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}", **options)
        self._next_beat = self._next_look = self._next_pop = 0.0
        self._redis_is_there = True

    def _set_ip_address(self, connection: Redis) -> None:
        try:
            super()._set_ip_address(connection)
        except RedisError:
            self.ip_address = "unknown"

    def bootstrap(self, *args, **options) -> None:
        """Registers in Redis; waits for it, and begins anew if it goes away meanwhile."""
        while True:
            try:
                self.connection.delete(self.key)  # left by a try that got halfway
                return super().bootstrap(*args, **options)
            except RedisError:
                doorbell.wait_for_redis()

    def work(self, burst: bool = False, logging_level: str | None = None, max_jobs: int | None = None,
             max_idle_time: int | None = None, with_scheduler: bool = False, **options) -> bool:  # fmt: skip
        """Works until SIGTERM or SIGINT; with `burst`, until the queues are empty. True if there was a job."""
        logs.of_this_process["worker"] = self.name
        self.bootstrap(logging_level)
        if with_scheduler:
            self._start_scheduler(burst, logging_level)
        self._install_signal_handlers()
        self.ledger = Ledger(self)
        self.strangers = Strangers(self)
        if not (worker := self._enrol()):
            self.teardown()
            return False
        self.engine = Engine(worker)
        self.engine.start()
        jobs, idle_since = 0, time.monotonic()
        try:
            while not self._stop_requested:
                limit = max_jobs - jobs if max_jobs else None
                popped = self._turn(wait=0 if burst else WAIT, limit=limit)
                jobs += popped
                if popped or not self._is_idle():
                    idle_since = time.monotonic()
                elif burst or limit == 0:
                    break
                elif max_idle_time is not None and time.monotonic() - idle_since >= max_idle_time:
                    self.log.info("Worker %s: idle for %d seconds, quitting", self.name, max_idle_time)
                    break
        finally:
            self._wind_up()
        return bool(jobs)

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """First signal: the loop ends at its next turn, and what is on the wire gets its grace."""
        self._shutdown_requested_date = now()
        signal.signal(signal.SIGINT, self.request_force_stop)
        signal.signal(signal.SIGTERM, self.request_force_stop)
        self.handle_warm_shutdown_request()
        self._stop_requested = True

    def request_force_stop(self, signum: int, frame: FrameType | None) -> None:
        """Second signal: exits at once. Safe: the lease frees what was held.

        A pool sends the terminal's Ctrl-C once more, so one that comes within a second doesn't count.
        """
        if (now() - self._shutdown_requested_date).total_seconds() > 1:
            self.log.warning("Worker %s: cold shut down", self.name)
            os._exit(1)

    def _enrol(self) -> Worker | None:
        """This worker's row; waits for the database, or until it is told to stop."""
        worker = None
        while not self._stop_requested:
            try:
                Worker.forget_old()
                worker = worker or Worker.objects.create(name=self.name, host=socket.gethostname(), pid=os.getpid())
                if amiss := tallies.correct(EmailRequest.objects.filter(state__in=WAITING | HELD)):
                    logger.warning("%s waiting messages had not been counted, or still were: set right.", amiss)
                for sentence in surroundings.warnings():
                    logger.warning(sentence)
                return worker
            except Error as error:
                logger.error("The database can't be used yet (%s): waiting for it.", error)
                time.sleep(WAIT)
            finally:
                connection.close()
        return None

    def _turn(self, wait: float, limit: int | None) -> int:
        """One round of the pump: settle, beat, pop, hand over. Returns how many jobs were popped."""
        engine = self.engine
        try:
            self._settle()
            if time.monotonic() >= self._next_beat:
                self.ledger.beat()
                self._next_beat = time.monotonic() + BEAT
            if time.monotonic() >= self._next_look:
                self._look_for_suspension()
                self._next_look = time.monotonic() + WAIT
            room, common = engine.room(urgent=True), engine.room()
            if limit is not None:
                room = min(room, limit)
            if not room:
                time.sleep(0.25 if engine.is_idle else 0.01)  # held back, or full
                return 0
            if common < CAPACITY // 2 and time.monotonic() < self._next_pop:
                common = 0  # a claim costs the same for many as for few
            held = [priority.label for priority in engine.holds.queues]
            patience = wait if engine.is_idle else TURN
            popped = self.ledger.pop(room, patience, without=held, reserve=max(0, room - common))
            if common:
                self._next_pop = time.monotonic() + TURN
                engine.doorbell_silent = len(popped) < common
            self._say_redis_is(there=True)
            if popped:
                self._look_for_suspension()  # what came after `rqsuspend` waits, however long the pop had waited for it
                if engine.suspended:
                    self.ledger.put_back(popped)
                    return 0
                self._hand_over(popped)
            return len(popped)
        except RedisError as error:
            engine.doorbell_silent = True
            self._next_beat = 0.0
            self._say_redis_is(there=False, error=error)
            time.sleep(WAIT)
            return 0

    def _say_redis_is(self, there: bool, error: RedisError | None = None) -> None:
        """Logs when Redis goes away and when it comes back, once each."""
        if there == self._redis_is_there:
            return
        self._redis_is_there = there
        if there:
            logger.warning("Redis can be reached again.")
        else:
            logger.error("Redis can't be reached (%s): going on from the database.", error)

    def _look_for_suspension(self) -> None:
        """`manage.py rqsuspend` holds all delivery, `rqresume` lets it go."""
        suspended = bool(is_suspended(self.connection))
        if suspended != self.engine.suspended:
            self.log.info("Worker %s: %s", self.name, "suspended by `rqsuspend`" if suspended else "resumed")
            self.set_state(WorkerStatus.SUSPENDED if suspended else WorkerStatus.IDLE)
        self.engine.suspended = suspended

    def _hand_over(self, popped: Iterable[Popped]) -> None:
        """Messages to the engine (their ids are UUIDv7), other apps' jobs to the strangers."""
        ours = []
        for job in popped:
            try:
                id = UUID(job.id)
            except ValueError:
                id = None
            if id and id.version == 7:
                ours.append(job)
            else:
                self.strangers.run(job)
        if ours:
            self.ledger.start(ours)
            self.engine.claim([UUID(job.id) for job in ours])

    def _settle(self) -> None:
        settled = list(_drain(self.engine.settled))
        if settled:
            self.ledger.settle(settled)
        for id in _drain(self.engine.strangers):
            if job := self.ledger.forget(str(id)):
                self.strangers.run(job)

    def _is_idle(self) -> bool:
        engine = self.engine
        return engine.is_idle and engine.settled.empty() and engine.strangers.empty() and self.strangers.is_idle

    def _wind_up(self) -> None:
        self.engine.stop()
        try:
            self._settle()
            self.strangers.stop()
            self.teardown()
        except RedisError as error:
            logger.error("Redis can't be reached (%s): this worker's name stays on the dashboard for a while.", error)


class Strangers:
    """Other apps' jobs that stand in our queues: run one after another, as stock RQ would, in a thread."""

    def __init__(self, worker: MailWorker):
        self._worker = worker
        self._stock = SimpleWorker(
            worker.queues, worker.name, connection=worker.connection, prepare_for_work=False,
            job_class=worker.job_class, queue_class=worker.queue_class, serializer=worker.serializer,
            exception_handlers=worker._exc_handlers,
        )  # fmt: skip
        self._stock.death_penalty_class = TimerDeathPenalty  # the stock one works by a signal, in the main thread only
        self._jobs: queue.SimpleQueue[Popped | None] = queue.SimpleQueue()
        self._busy = 0
        self._thread: threading.Thread | None = None

    @property
    def is_idle(self) -> bool:
        return not self._busy

    def run(self, job: Popped) -> None:
        self._busy += 1
        self._jobs.put(job)
        if not self._thread:
            self._thread = threading.Thread(target=self._loop, name="strangers", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Puts back what has not begun, and waits for the one that runs."""
        self._worker.ledger.put_back([job for job in _drain(self._jobs) if job])
        if self._thread:
            self._jobs.put(None)
            self._thread.join(timeout=20)

    def _loop(self) -> None:
        sources = {source.name: source for source in self._worker.queues}
        while job := self._jobs.get():
            try:
                fetched = Job.fetch(job.id, self._worker.connection, self._worker.serializer)
                self._stock.execute_job(fetched, sources[job.queue])
            except NoSuchJobError:
                pass  # deleted since it was popped
            except Exception:
                logger.exception("Job %s of another app could not be run.", job.id)
            finally:
                connection.close()
                self._busy -= 1


def _drain[T](source: "queue.SimpleQueue[T]") -> Iterable[T]:
    while True:
        try:
            yield source.get_nowait()
        except queue.Empty:
            return
