"""What a benchmark does inside Mailsite: `python -m bench.inside WHAT …` in the environment of a copy of Mailsite."""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import batched
from pathlib import Path
from uuid import UUID

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mailsite.settings")
django.setup()

from django.conf import settings  # noqa: E402
from django.db import connection  # noqa: E402
from django.db.models import Count, Max, Min  # noqa: E402
from django.test import Client  # noqa: E402
from django.utils import timezone  # noqa: E402

from bench import fill as month  # noqa: E402
from bench import message  # noqa: E402
from emails import doorbell  # noqa: E402
from emails.drafts import Draft  # noqa: E402
from emails.login import local_administrator  # noqa: E402
from emails.models import EmailRequest, Event, Priority, Recipient, Settlement, Worker  # noqa: E402
from emails.smtp import Outcome, Reply, Result, Verdict  # noqa: E402
from mailsite import supervisor  # noqa: E402

emails = EmailRequest.objects
GROUP = 50  # messages that the engine takes in one transaction


def submit(count: str) -> dict:
    """Submits messages one by one, as each request does. The first one's id tells this lot from those before."""
    return {"first": str(_submit(int(count))[0])}


def _submit(count: int) -> list[UUID]:
    drafts = (Draft.clean(message.fields(number)) for number in range(count))
    return [emails.submit([draft], origin="a benchmark")[0].pk for draft in drafts]


def submit_batches(count: str, priority: str) -> None:
    """Submits messages by the hundred, as batches come in."""
    for numbers in batched(range(int(count)), 100):
        drafts = [Draft.clean(message.fields(number)) for number in numbers]
        emails.submit(drafts, origin="a benchmark", priority=Priority[priority.upper()])


def waiting() -> dict[str, int]:
    """How many wait, by priority."""
    return {priority.label: emails.filter(priority=priority, due_at__isnull=False).count() for priority in Priority}


def sizes() -> dict[str, int]:
    """Bytes that the two stores take up, and how many keys Redis holds."""
    redis = doorbell.queue("default").connection
    name = settings.DATABASES["default"]["NAME"]
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_database_size(current_database())")
            database = cursor.fetchone()[0]
    else:
        database = sum(path.stat().st_size for path in Path(name).parent.glob(f"{Path(name).name}*"))
    return {"database": database, "redis": redis.info("memory")["used_memory"], "keys": redis.dbsize()}


def drained(first: str) -> dict:
    """When the first message of a lot was claimed and the last one finished, and in which states they all are."""
    lot = emails.filter(pk__gte=first)
    states = dict(lot.order_by().values_list("state").annotate(Count("pk")))
    claimed = Event.objects.filter(email__gte=first, kind=Event.Kind.CLAIMED).aggregate(first=Min("at"))["first"]
    finished = lot.aggregate(last=Max("finished_at"))["last"]
    return {
        "states": states,
        "claimed": claimed and claimed.timestamp(),
        "finished": finished and finished.timestamp(),
    }


def fill(count: str) -> dict:
    """Stores messages of all ages. Tells of one of them, and the cookie of somebody who is logged in."""
    month.fill(int(count))
    some = month.Message(int(count) // 2, int(count), timezone.now())
    browser = Client()
    browser.force_login(local_administrator())
    session = browser.cookies[settings.SESSION_COOKIE_NAME]
    return {
        "address": some.address,
        "id": str(Recipient.objects.get(mailbox=some.address).email_id),
        "cookie": f"{session.key}={session.value}",
    }


def costs() -> dict[str, float]:
    """What a worker's steps cost, in milliseconds for each message; taken in groups, as the engine takes them."""
    worker = Worker.objects.create(name="bench", host="here", pid=1)
    accepted = Result(Verdict.ACCEPTED, Reply(250, "2.0.0 Ok: queued"))
    spent: dict[str, list[float]] = {}
    for ids in batched(_submit(10 * GROUP), GROUP):
        _timed(spent, "overdue poll", partial(emails.overdue, GROUP))
        claimed = _timed(spent, "claim", partial(emails.claim, ids, worker))
        _timed(spent, "mark", partial(emails.record, worker, upcoming=claimed))
        settlements = [Settlement(email, Outcome({email.to[0]: accepted})) for email in claimed]
        _timed(spent, "record", partial(emails.record, worker, settlements))
    worker.delete()
    return {name: statistics.median(found) for name, found in spent.items()}


def _timed[T](spent: dict[str, list[float]], name: str, step: Callable[[], T]) -> T:
    started = time.perf_counter()
    result = step()
    spent.setdefault(name, []).append((time.perf_counter() - started) * 1000 / GROUP)
    return result


def web(port: str) -> None:
    """Becomes the web server, by the command that `manage.py run` uses."""
    command = supervisor.web(("127.0.0.1", int(port))).command
    os.execv(command[0], command)


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
