"""Finding messages. Every page is cut from an index, so that it costs the same among a thousand and a million.

Ids are UUIDv7, in the order of time. Each criterion has an index that ends in the message's id, so the newest
ids that meet it are one short range of that index; the rows are fetched by these ids.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import reduce
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.models import Exists, F, Model, OuterRef, Q, QuerySet
from django.db.models.fields.tuple_lookups import Tuple, TupleGreaterThan, TupleLessThan

from emails.models import EmailRequest, Priority, Recipient, SandboxMessage, SandboxRecipient, Tag

BEGINNINGS = 300  # messages that an address's beginning finds: its index has them in no order of time
RARE = 10_000  # how far is counted to find out which of several criteria is met most rarely


@dataclass(frozen=True)
class Keys:
    """The ids in `column` of those rows that are `equal`, between `oldest` and `newest` if these are given.

    An index on the equal columns and `column` has them in order.
    """

    rows: QuerySet
    column: str = "pk"
    equal: dict[str, Any] = field(default_factory=dict)
    oldest: UUID | None = None
    newest: UUID | None = None

    def cut(self, limit: int, *, below: UUID | None = None, above: UUID | None = None) -> list[UUID]:
        """The newest ids, or the newest below one; or the oldest above one."""
        oldest_first = above is not None and below is None
        rows = self._ordered(filter(None, (above, self.oldest)), filter(None, (below, self.newest)), oldest_first)
        return [row[-1] for row in rows.distinct()[:limit]]

    @property
    def subquery(self) -> QuerySet:
        return self._all.order_by().values(self.column)

    def batches(self, size: int, below: UUID | None = None) -> Iterator[list[UUID]]:
        """All ids, or all below one, the newest first."""
        while ids := self.cut(size, below=below):
            yield ids
            below = ids[-1]

    def count(self, limit: int) -> int:
        """How many there are, counted no further than `limit`; a message may count once for each recipient."""
        return self._all[:limit].count()

    @property
    def _all(self) -> QuerySet:
        return self._ordered(filter(None, [self.oldest]), filter(None, [self.newest]))

    def _ordered(self, above: Iterable[UUID], below: Iterable[UUID], oldest_first: bool = False) -> QuerySet:
        """In ranges for PostgreSQL, since only that index gives an order by all its columns. Told of an equality,
        it walks along the primary key where its statistics promise a match nearby, and if there is none, through
        the whole table. SQLite, which has no statistics, takes the index, but knows no ranges of several columns.
        """
        if connection.vendor == "sqlite":
            rows, columns, values = self.rows.filter(**self.equal), [self.column], []
        else:
            rows, columns, values = self.rows, [*self.equal, self.column], list(self.equal.values())
            for name, value in self.equal.items():
                rows = rows.filter(**{f"{name}__gte": value, f"{name}__lte": value})
        for id in above:
            rows = rows.filter(TupleGreaterThan(Tuple(*map(F, columns)), (*values, id)))
        for id in below:
            rows = rows.filter(TupleLessThan(Tuple(*map(F, columns)), (*values, id)))
        return rows.order_by(*(name if oldest_first else f"-{name}" for name in columns)).values_list(*columns)

    def and_also(self, other: "Keys") -> "Keys":
        its = other.rows.filter(**other.equal, **{other.column: OuterRef(self.column)})
        return replace(self, rows=self.rows.filter(Exists(its)))


def rarest_first(criteria: Iterable[Keys]) -> list[Keys]:
    """Ids are cut from the index of the first, the others being looked up for each."""
    criteria = list(criteria)
    return sorted(criteria, key=lambda keys: keys.count(RARE)) if len(criteria) > 1 else criteria


def begins(column: str, text: str) -> Q:
    """That a column begins with a text, in the form in which each database finds it by an index."""
    if connection.vendor == "sqlite":
        return Q(**{f"{column}__gte": text, f"{column}__lt": text + chr(0x10FFFF)})
    return Q(**{f"{column}__startswith": text})


def to_mailbox(recipients: type[Model], column: str, found: type[Model], query: str) -> Keys:
    """What went to an address or, if nothing did, some of what went to addresses that begin so."""
    if recipients.objects.filter(mailbox=query).exists():
        return Keys(recipients.objects.filter(mailbox=query), column)
    some = recipients.objects.filter(begins("mailbox", query)).values_list(column, flat=True)
    return Keys(found.objects.filter(pk__in=list(some[:BEGINNINGS])))


def as_uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def by_id_or_recipient(query: str) -> Keys:
    """The message of an id or of a Message-ID, which begins with it; else what went to a recipient."""
    found = EmailRequest.objects.filter(pk=as_uuid(query.strip().strip("<").partition("@")[0]))
    return Keys(found) if found.exists() else to_recipient(query)


def to_recipient(query: str) -> Keys:
    """Messages to a domain (`@example.com` or `example.com`), an address or an address's beginning."""
    query = query.strip().lower()
    if "@" not in query.strip("@"):
        domain = query.lstrip("@")
        if query.startswith("@") or Recipient.objects.filter(domain=domain).exists():
            return to_domain(domain)
    return to_mailbox(Recipient, "email_id", EmailRequest, query)


def to_domain(domain: str) -> Keys:
    return Keys(Recipient.objects.all(), "email_id", {"domain": domain})


def in_sandbox(query: str) -> Keys:
    """The sandbox's mail to an address or an address's beginning."""
    return to_mailbox(SandboxRecipient, "message_id", SandboxMessage, query.strip().lower())


@dataclass(frozen=True)
class Search:
    """What is asked of messages; all of it must be met."""

    to: tuple[Keys, ...] = ()
    state: str = ""
    priority: Priority | None = None
    tag: tuple[str, str] | None = None  # its name and its value, which may be empty for any
    after: datetime | None = None
    before: datetime | None = None

    @property
    def keys(self) -> Keys:
        criteria = rarest_first(replace(keys, **self._bounds()) for keys in self._criteria())
        if times := self._times():
            if criteria and criteria[0].column == "pk":
                criteria[0] = replace(criteria[0], rows=criteria[0].rows.filter(**times))
            else:
                criteria.append(Keys(EmailRequest.objects.filter(**times), **self._bounds()))
        return reduce(Keys.and_also, criteria or [Keys(EmailRequest.objects.all())])

    def _criteria(self) -> Iterator[Keys]:
        yield from self.to
        if self.tag:
            name, value = self.tag
            yield Keys(Tag.objects.all(), "email_id", {"name": name, "value": value} if value else {"name": name})
        if self.state:
            yield Keys(EmailRequest.objects.all(), equal={"state": self.state})
        if self.priority is not None:
            yield Keys(EmailRequest.objects.all(), equal={"priority": self.priority})

    def _times(self) -> dict[str, datetime]:
        times = {"created_at__gt": self.after, "created_at__lt": self.before}
        return {name: moment for name, moment in times.items() if moment}

    def _bounds(self) -> dict[str, UUID]:
        """A message's id is made a little after its `created_at`, and clocks may be set: hence the minute."""
        bounds = {"oldest": self.after and first_id_at(self.after, -60)}
        bounds |= {"newest": self.before and first_id_at(self.before, 60)}
        return {name: id for name, id in bounds.items() if id}


def first_id_at(moment: datetime, later: int) -> UUID:
    """The smallest UUIDv7 of some seconds after a moment."""
    return UUID(int=min(max(1, int((moment.timestamp() + later) * 1000)), 2**48 - 1) << 80)
