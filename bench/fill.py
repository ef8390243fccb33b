"""Fills an empty, migrated database with messages that look like a month's mail: `python bench/fill.py 1000000`.

The database is that of DATABASE_URL. A tenth of the messages waits. Six tenths go to three big domains, the others
to thousands of small ones; the oldest message alone goes to `far@end.example` and has the tag `end`.
"""

import json
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import batched
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mailsite.settings")

from django.db import connection, transaction  # noqa: E402

DAY, MONTH = timedelta(days=1), timedelta(days=30)
AT_ONCE = 20_000  # rows
FINISHED = [
    *["sent"] * 62, *["delivered"] * 25, *["bounced"] * 5, *["failed"] * 3, *["suppressed"] * 2, *["canceled"] * 2,
    "complained",
]  # fmt: skip
WAITING = [*["queued"] * 80, *["deferred"] * 12, *["scheduled"] * 7, "unknown"]
RECIPIENTS = {"sent": "accepted", "delivered": "accepted", "complained": "accepted", "queued": "waiting",
              "scheduled": "waiting", "unknown": "waiting"}  # fmt: skip
BIG = ["big.example", "large.example", "broad.example"]
TEXT = "Thank you for your order. We have packed it, and it leaves our house today.\n" * 3
HTML = "".join(f"<p>{line}</p>\n" for line in TEXT.splitlines())


COLUMNS = {
    "emailrequest": "id created_at scheduled_at state priority on_unknown due_at claims attempts strikes finished_at "
    "sender envelope_sender to subject message_id date delay",
    "content": "email_id html text cc bcc reply_to headers tags attachments",
    "recipient": "email_id address mailbox domain state reply",
    "event": "email_id at kind detail",
    "tag": "email_id name value",
    "suppression": "id mailbox origin created_at",
    "sandboxmessage": "id received_at envelope_from envelope_to subject sender raw",
    "sandboxrecipient": "message_id mailbox",
    "requestlog": "id created_at method path status status_class milliseconds key request user_agent",
    "tally": "minute priority shard accepted sent bounced failed suppressed canceled",
}


class Message:
    """The `n`-th of `count`, from the oldest: all that is said of it follows from its number."""

    def __init__(self, n: int, count: int, now: datetime):
        at = now - MONTH + n * MONTH / count
        scattered = n * 7_368_787 % 15_485_863  # addresses come in no order; both are primes, so each comes once
        self.n, self.waits = n, n >= count - count // 10
        self.id = f"{int(at.timestamp() * 1000):012x}7000a000{n:012x}"
        self.created, self.begun, self.done = (moment(at + n * timedelta(seconds=1)) for n in range(3))
        self.state = WAITING[n % 100] if self.waits else FINISHED[n * 61 % 100]
        self.domain = BIG[n * 7 % 10 % 3] if n * 7 % 10 < 6 else f"firm{scattered % 5003}.example"
        self.address = f"u{scattered}@{self.domain}"
        due = {"queued": at, "deferred": now + (at - now) / -10, "scheduled": now + MONTH}.get(self.state)
        self.due = moment(due) if due else None  # held for a person, or finished
        self.priority, self.minute = n // 100 % 3, int(at.timestamp()) // 60 if now - at < DAY else 0
        self.tags = []
        if n % 2:
            self.tags = [("kind", "newsletter" if n % 4 == 1 else "order"), ("campaign", str(n // 2000))]
        if n == 0:
            self.domain, self.address, self.tags = "end.example", "far@end.example", [("end", "far")]

    def rows(self) -> Iterator[tuple[str, tuple]]:
        """Names of tables, and what they get."""
        begun = not self.waits and self.state not in ("suppressed", "canceled")
        reply = "" if self.waits else "250 2.0.0 Ok: queued"
        to, subject, tags = f'["{self.address}"]', f"Your order {self.n} has been sent", json.dumps(self.tags)
        yield "emailrequest", (
            self.id, self.created, self.due if self.state == "scheduled" else None, self.state, self.priority,
            "hold", self.due, int(begun), int(begun), 0, None if self.waits else self.done, "Shop <shop@example.com>",
            "shop@example.com", to, subject, f"<{self.id}@example.com>", self.begun if begun else None, 0,
        )  # fmt: skip
        yield "content", (self.id, HTML, TEXT, "[]", "[]", "[]", "[]", tags, 0)
        recipient = RECIPIENTS.get(self.state, self.state)
        yield "recipient", (self.id, self.address, self.address, self.domain, recipient, reply)
        yield "event", (self.id, self.created, "accepted", "API key shop; queue default")
        if not self.waits:
            yield "event", (self.id, self.begun, "claimed", "by worker host.4711")
            yield "event", (self.id, self.done, self.state, reply)
        for name, value in self.tags:
            yield "tag", (self.id, name, value)
        if self.n % 10 == 0:
            origin = "bounce" if self.n else "complaint"
            yield "suppression", (self.id, f"not.{self.address}", origin, self.created)
        yield "requestlog", (self.id, self.created, *self.request(), f"request-{self.n}", "curl/8.5.0")
        if self.n % 5 == 0:
            raw = f"To: {self.address}\r\nSubject: {subject}\r\n\r\n{TEXT}".encode()
            yield "sandboxmessage", (self.id, self.created, "shop@example.com", to, subject, "Shop", raw)
            yield "sandboxrecipient", (self.id, self.address)

    def request(self) -> tuple:
        """What the API was asked, how it answered in how many ms, and whose key it was."""
        if self.n == 0:
            return "DELETE", "/emails/old", 500, 5, 900, "old"
        if self.n % 50 == 7:
            return "POST", "/emails", 422, 4, 2, "shop"
        return "POST", "/emails", 200, 2, 3, "shop"

    def counted_as(self) -> str:
        return {"delivered": "sent", "complained": "sent"}.get(self.state, self.state)


def moment(at: datetime) -> str:
    """As SQLite has it; PostgreSQL reads it too, since Django's connections are in UTC."""
    return at.astimezone(UTC).replace(tzinfo=None).isoformat(" ")


def insert(table: str, rows: list[tuple]) -> None:
    columns = COLUMNS[table].split()
    names = f"emails_{table} ({', '.join(f'"{name}"' for name in columns)})"
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            with cursor.copy(f"COPY {names} FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)
        else:
            marks = ", ".join("?" * len(columns))
            cursor.connection.executemany(f"INSERT INTO {names} VALUES ({marks})", rows)


def fill(count: int, now: datetime | None = None) -> None:
    """Stores `count` messages, the newest from `now`, and does what autovacuum would do in time."""
    now = now or datetime.now(UTC)
    with connection.constraint_checks_disabled(), connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute("PRAGMA cache_size = -500000")  # KB: the indexes grow in memory
        with transaction.atomic():
            tallies: dict[tuple, Counter] = defaultdict(Counter)
            for numbers in batched(range(count), AT_ONCE):
                tables = defaultdict(list)
                for message in (Message(n, count, now) for n in numbers):
                    for table, row in message.rows():
                        tables[table].append(row)
                    tallies[message.minute, message.priority, 0].update(["accepted", message.counted_as()])
                for table, rows in tables.items():
                    insert(table, rows)
            names = COLUMNS["tally"].split()[3:]
            insert("tally", [(*key, *(counts[name] for name in names)) for key, counts in tallies.items()])
        if connection.vendor == "postgresql" and not connection.in_atomic_block:
            cursor.execute("VACUUM ANALYZE")
    connection.close()  # and its large cache


if __name__ == "__main__":
    import django

    django.setup()
    started = time.perf_counter()
    fill(int(sys.argv[1]))
    print(f"{sys.argv[1]} messages in {time.perf_counter() - started:.0f} s")
