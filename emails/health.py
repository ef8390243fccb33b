"""Whether mail can be accepted, and whether what was accepted moves on: for machines that ask, without a login.

The stores are asked in threads, so that one that hangs keeps nobody waiting; and in one round at a time, so that
strangers who ask often cost no more. What errors say may name hosts: that is for the log only.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import ClassVar

from django.conf import settings
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor

from emails import surroundings, why
from emails.models import EmailRequest, Hold, Holds, Priority, Worker, database_now

logger = logging.getLogger(__name__)

PATIENCE = 3.0  # seconds for all checks together
HOPELESS = 10 * PATIENCE  # seconds after which a round that hangs is given up: the store may be back for a new one
FAILED, WARNING, OK = WORST_FIRST = ("failed", "warning", "ok")


@dataclass(frozen=True)
class Finding:
    status: str
    message: str
    seconds: float | None = None


# What is told of a check that has not ended.
UNANSWERED = {
    "database": Finding(FAILED, "The database can't be used: nothing is accepted until it answers."),
    "worker": Finding(WARNING, "Not known: the database tells which workers there are."),
    "oldest": Finding(WARNING, "Not known: the database tells what waits."),
    "redis": Finding(WARNING, "Redis can't be reached: mail is accepted, and workers take it from the database."),
}


def report() -> dict:
    """`failed` if nothing can be accepted, `warning` if only delivery lags or is about to, and each check by name."""
    deadline = time.monotonic() + PATIENCE
    rounds = [Round.under_way(DATABASE), Round.under_way(REDIS)]
    findings = dict(UNANSWERED)
    for one in rounds:
        one.join(max(0, deadline - time.monotonic()))
        findings |= one.so_far()
    worst = min((finding.status for finding in findings.values()), key=WORST_FIRST.index)
    return {"status": worst, "checks": {name: asdict(finding) for name, finding in findings.items()}}


class Round(threading.Thread):
    """The checks that ask one store, one after another; one that fails ends it, as the others would mislead."""

    _latest: "ClassVar[dict[str, Round]]" = {}
    _lock = threading.Lock()

    def __init__(self, checks: dict[str, Callable[[], Finding]]):
        super().__init__(name=f"health of {' '.join(checks)}", daemon=True)
        self.checks = checks
        self.findings: dict[str, Finding] = {}
        self.began = self.check_began = time.monotonic()

    @classmethod
    def under_way(cls, checks: dict[str, Callable[[], Finding]], now: float | None = None) -> "Round":
        """The round that has not ended, or a new one; `now` is by time.monotonic()."""
        with cls._lock:
            fresh = cls(checks)
            latest = cls._latest.get(fresh.name)
            if latest and latest.is_alive() and (now or fresh.began) < latest.began + HOPELESS:
                return latest
            cls._latest[fresh.name] = fresh
            fresh.start()
            return fresh

    def so_far(self) -> dict[str, Finding]:
        """What is known by now; of a check that hangs, for how long it does."""
        findings = dict(self.findings)
        hanging = next((name for name in self.checks if name not in findings), "")
        if hanging and self.is_alive():
            findings[hanging] = replace(UNANSWERED[hanging], seconds=self._since_check_began())
        return findings

    def run(self) -> None:
        try:
            for name, check in self.checks.items():
                self.check_began = time.monotonic()
                finding = check()
                self.findings[name] = replace(finding, seconds=self._since_check_began())
                if finding.status == FAILED:
                    return
        except Exception as error:
            logger.warning("Health: the check of %s failed: %s", name, error)
            self.findings[name] = replace(UNANSWERED[name], seconds=self._since_check_began())
        finally:
            connection.close()

    def _since_check_began(self) -> float:
        return round(time.monotonic() - self.check_began, 4)


def _database() -> Finding:
    executor = MigrationExecutor(connection)
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        return Finding(FAILED, "The database lacks what this version needs: run `manage.py migrate`.")
    try:
        Hold.objects.filter(pk="").update(reason="")  # changes nothing, and yet fails where nothing can be written
    except DatabaseError as error:
        logger.warning("Health: the database can't be written: %s", error)
        return Finding(FAILED, "The database can be read but not written: nothing is accepted until it can.")
    if warning := surroundings.about_the_disk():
        return Finding(WARNING, warning)
    return Finding(OK, "The database can be read and written.")


def _worker() -> Finding:
    if count := Worker.alive().count():
        seen = f"within the last {why.span(settings.LEASE)}"
        return Finding(OK, f"{count} worker{' was' if count == 1 else 's were'} seen {seen}.")
    return Finding(WARNING, why.no_worker(database_now()))


def _oldest() -> Finding:
    holds, now = Hold.in_force(), database_now()
    return lag(EmailRequest.objects.oldest_due(holds.open, now), holds, now)


def lag(oldest: EmailRequest | None, holds: Holds, now: datetime) -> Finding:
    """By the oldest message that is due; what is paused on purpose lags on purpose."""
    if not oldest:
        return Finding(OK, f"No message is due{'' if holds.open == list(Priority) else ' but what is paused'}.")
    waited = now - oldest.due_at
    sentence = f"The oldest message that is due has waited for {why.span(waited)}"
    if waited <= settings.HEALTH_OLDEST:
        return Finding(OK, f"{sentence}.")
    return Finding(WARNING, f"{sentence}: more than {why.span(settings.HEALTH_OLDEST)}.")


def _redis() -> Finding:
    with surroundings.impatient_redis() as redis:
        redis.ping()
    return Finding(OK, "Redis answers.")


DATABASE = {"database": _database, "worker": _worker, "oldest": _oldest}
REDIS = {"redis": _redis}
