"""A week's mail of a small shop, made up, so that every page has something to show.

Each message lives by the code that workers use. What differs is the clock, which is in the past, and the relay, whose
replies are written here. What still waits goes to the sandbox, like all mail where the demo may run.
"""

import random
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from emails import tallies
from emails.drafts import Draft
from emails.models import (
    ApiKey,
    Attachment,
    EmailRequest,
    Event,
    Priority,
    Recipient,
    RequestLog,
    SandboxMessage,
    SandboxRecipient,
    Suppression,
    Tag,
)
from emails.rows import Statement, insert, run
from emails.smtp import Outcome, Reply, Result
from emails.states import State

SECOND, MINUTE, HOUR, DAY = (timedelta(seconds=seconds) for seconds in (1, 60, 3600, 86400))
TRAFFIC = ((7 * DAY, 900), (DAY, 300), (HOUR, 90))  # messages that are spread over the time before now
BUSY = (1, 1, 1, 1, 1, 2, 4, 7, 10, 12, 12, 11, 10, 11, 12, 11, 10, 9, 8, 8, 7, 5, 3, 2)  # each hour of a day
NEWSLETTER, OUTAGE = 5 * HOUR, 27 * HOUR  # ago: when one went out, and when a relay was back that had been away

NAMES = (
    "Moss", "Roy", "Jen", "Douglas", "Richmond", "April", "Bill", "Prudence", "Ada", "Ben", "Cleo", "Dora", "Emil",
    "Frida", "Gus", "Hana", "Igor", "Juno", "Kit", "Lena", "Milo", "Nora", "Otto", "Pia", "Quinn", "Rosa", "Sami",
    "Tess", "Uma", "Vera", "Wim", "Xenia", "Yuri", "Zoe",
)  # fmt: skip
PEOPLE = [f"{name} <{name.lower()}@example.{end}>" for end in ("com", "org", "net") for name in NAMES]
UNWANTED = [f"{name}@example.org" for name in ("former.customer", "no-longer-here", "old.office", "stop")]
GOODS = ("a red stapler", "two desk lamps", "a kettle", "three notebooks", "a swivel chair", "a label printer")
CLIENTS = ("python-httpx/0.28.1", "resend-python:2.52.0", "resend-node:6.1.2", "curl/8.14.1")
OPERATOR, WORKERS = "roy", ("mail-1-4711-a3f0", "mail-2-1208-77be")

LETTER = """<!doctype html>
<html lang="en"><body style="margin:0;padding:24px;background:#f4f4f2;font:16px/1.5 system-ui,sans-serif;color:#18181b">
<div style="max-width:32rem;margin:0 auto;padding:24px;background:#fff;border-radius:8px">
<h1 style="margin:0 0 16px;font-size:20px">{subject}</h1>
{paragraphs}
<p style="margin:24px 0 0;color:#5c5c63;font-size:13px">Reynholm Supplies · shop@example.com</p>
</div></body></html>
"""


@dataclass(frozen=True)
class Kind:
    """A kind of mail that the shop sends, and how often."""

    name: str
    key: str
    sender: str
    subject: str
    lines: tuple[str, ...]
    often: int = 1
    priority: Priority = Priority.DEFAULT
    has_table: bool = False

    def draft(self, *to: str, **fields) -> Draft:
        number = random.randrange(20_000, 30_000)
        words = {"name": to[0].split()[0], "number": number, "goods": random.choice(GOODS), "code": number * 31 + 17}
        subject = self.subject.format(**words)
        lines = [line.format(**words) for line in self.lines]
        table = f"{number},{words['goods']},24.90\n".encode()
        return Draft.clean(
            {
                "from": self.sender,
                "to": list(to),
                "subject": subject,
                "text": "\n\n".join(lines) + "\n",
                "html": LETTER.format(subject=subject, paragraphs="\n".join(f"<p>{line}</p>" for line in lines)),
                "attachments": [{"filename": f"invoice-{number}.csv", "content": table}] if self.has_table else [],
                "tags": [{"name": "kind", "value": self.name}],
                **fields,
            }
        )


SHOP, BILLING, ALERTS = "Reynholm Supplies <shop@example.com>", "Billing <billing@example.net>", "alerts@example.org"
ORDER = Kind("order", "shop", SHOP, "Your order {number}",
             ("Dear {name},", "thank you for your order: {goods}. We pack it today."), 40)  # fmt: skip
SHIPPED = Kind("shipped", "shop", SHOP, "Your order {number} is on its way",
               ("Dear {name},", "{goods} left our house this morning, and should reach you tomorrow."), 30)  # fmt: skip
INVOICE = Kind("invoice", "billing", BILLING, "Invoice {number}",
               ("Dear {name},", "here is the invoice for {goods}: 24.90, payable within 14 days."), 20,
               has_table=True)  # fmt: skip
REMINDER = Kind("reminder", "billing", BILLING, "A reminder about invoice {number}",
                ("Dear {name},", "invoice {number} is still open. If you have paid it, forget this."), 5)  # fmt: skip
CODE = Kind("code", "shop", SHOP, "{code} is your sign-in code",
            ("Hello {name},", "your code is {code}. It works for ten minutes."), 30, Priority.HIGH)  # fmt: skip
PASSWORD = Kind("password", "shop", SHOP, "Choose a new password",
                ("Hello {name},", "this link lets you choose a new password: https://example.com/password/{code}"),
                8, Priority.HIGH)  # fmt: skip
ALERT = Kind("alert", "alerts", ALERTS, "Disk of host-{number} is 91% full",
             ("host-{number} has 9% left on /var.", "Have you tried turning it off and on again?"),
             6, Priority.HIGH)  # fmt: skip
WELCOME = Kind("welcome", "shop", SHOP, "Welcome, {name}",
               ("Dear {name},", "your account is ready. We are glad that you are here."), 8)  # fmt: skip
NEWS = Kind("newsletter", "newsletter", SHOP, "Lamps, staplers and a sale",
            ("Dear {name},", "this week: lamps at half the price, and staplers in red."), 0, Priority.LOW)  # fmt: skip
DAILY = (ORDER, SHIPPED, INVOICE, REMINDER, CODE, PASSWORD, ALERT, WELCOME)

# What relays say to {to}, one reply for each attempt, the last again and again; after a 2xx there is none.
TAKEN = (250, "2.0.0 OK")
GREYLISTED = ((451, "4.7.1 <{to}>: Recipient address rejected: Greylisted, please try again in 60 seconds"), TAKEN)
FULL = ((452, "4.2.2 <{to}>: Recipient address rejected: Mailbox is full"),)
SLOWED = (*[(421, "4.7.28 Our system has detected an unusual rate of mail from your address, try later")] * 3, TAKEN)
GONE = ((550, "5.1.1 <{to}>: Recipient address rejected: User unknown in virtual mailbox table"),)
SPAM = ((554, "5.7.1 Message rejected: it looks like spam (score 7.2)"),)
NO_HOST = ((550, "5.1.2 <{to}>: Recipient address rejected: Domain not found"),)
OFTEN = {(TAKEN,): 900, GREYLISTED: 45, FULL: 9, SLOWED: 9, GONE: 20, SPAM: 5, NO_HOST: 5}
REFUSED = "Connection refused (connecting)"
BROKEN = "the relay closed the connection (after the final dot)"


def id_at(moment: datetime) -> UUID:
    """A UUIDv7 of that moment."""
    milliseconds, chance = int(moment.timestamp() * 1000), random.getrandbits(74)
    return UUID(int=milliseconds << 80 | 7 << 76 | (chance >> 62) << 64 | 2 << 62 | chance & (1 << 62) - 1)


class Life:
    """One message from its acceptance to `now`."""

    def __init__(self, kind: Kind, draft: Draft, at: datetime, now: datetime, by: str = ""):
        self.kind, self.at, self.now = kind, at, now
        self.email = email = EmailRequest.from_draft(draft, kind.priority, origin=by or f"API key {kind.key}")
        email.id, email.created_at, email.due_at = id_at(at), at, draft.scheduled_at or at
        email.content.email = email
        email.message_id = f"<{email.id.hex}@{draft.sender.ascii_domain}>"
        email.addressees = [Recipient.of(email, address) for address in draft.recipients]
        self.events: list[Event] = []
        self.kept: list[SandboxMessage] = []
        self.counts: list[Statement] = tallies.of_all([email], "accepted", self.minute)
        self.tell(Event.Kind.ACCEPTED, f"{email.origin}; queue {email.queue}")

    @property
    def minute(self) -> int:
        return tallies.minute(self.at.timestamp())

    def tell(self, kind: str, detail: str) -> None:
        self.events.append(Event(email=self.email, at=self.at, kind=kind, detail=detail))

    def meet(
        self, *replies: tuple[int, str], lag: timedelta = timedelta(), trouble: str = "", unknown: str = ""
    ) -> None:
        """Attempts, as long as one is due, until it is over or now. `trouble` and `unknown` befall the first."""
        self.at += lag
        answered = 0
        while self.email.due_at and self.email.due_at <= self.now:
            self.at = max(self.at, self.email.due_at) + random.uniform(0.03, 0.9) * SECOND
            if trouble or unknown:
                self.attempt(Outcome(trouble=trouble, unknown=unknown))
                trouble = unknown = ""
                self.at += lag
            else:
                self.attempt(Outcome(self.results(replies[min(answered, len(replies) - 1)])))
                answered += 1

    def results(self, reply: tuple[int, str]) -> dict[str, Result]:
        """The same to each recipient that waits; one who is `gone` is refused whatever the others hear."""
        if any(one.is_waiting for one in self.email.addressees) and reply == TAKEN:
            self.keep()
        found = {}
        for one in self.email.addressees:
            if one.is_waiting:
                code, text = GONE[0] if one.mailbox in UNWANTED else reply
                kept = f": kept in the sandbox as {self.kept[-1].pk}" if reply == TAKEN else ""
                answer = Reply(code, text.format(to=one.address) + (kept if code == 250 else ""))
                found[one.address] = Result(answer.verdict, answer)
        return found

    def keep(self) -> None:
        """The sandbox has a copy."""
        email = self.email
        email.date = email.date or self.at
        to = [one.address for one in email.addressees if one.is_waiting and one.mailbox not in UNWANTED]
        self.kept.append(
            SandboxMessage(
                id=id_at(self.at), received_at=self.at, envelope_from=email.envelope_sender, envelope_to=to,
                subject=email.subject, sender=email.sender, raw=email.preview(email.draft),
            )
        )  # fmt: skip

    def attempt(self, outcome: Outcome) -> None:
        email, before = self.email, self.email.attempts
        self.tell(Event.Kind.CLAIMED, f"by worker {random.choice(WORKERS)}")
        email.date, email.claims = email.date or self.at, email.claims + 1
        self.at += random.uniform(0.1, 1.4) * SECOND
        email.settle(outcome, self.at)
        self.tell(email.settled_as, email.detail)
        self.counts += tallies.of_attempts([(email, email.attempts - before)], self.minute)

    def suppress(self) -> None:
        for recipient in self.email.addressees:
            recipient.state, recipient.reply = Recipient.State.SUPPRESSED, "on the suppression list"
        self.meet(TAKEN)

    def end(self, state: State, detail: str, recipients: str, after: timedelta) -> None:
        """Somebody has decided about it, or has told what became of it."""
        self.at += after
        self.tell(Event.Kind(state), detail)
        if self.email.state not in (State.SENT, State.DELIVERED):
            self.counts += tallies.of_all([self.email], state, self.minute)
        self.email.state, self.email.due_at, self.email.finished_at = state, None, self.at
        for recipient in self.email.addressees:
            if recipient.is_waiting:
                recipient.state = recipients


def lives(now: datetime) -> list[Life]:
    def one(kind: Kind, ago: timedelta, *to: str, by: str = "", scheduled_at: datetime | None = None, **fields) -> Life:
        random.seed(len(told))  # the same message, whatever the time of day has made of those before it
        draft = replace(kind.draft(*(to or [random.choice(PEOPLE)]), **fields), scheduled_at=scheduled_at)
        life = Life(kind, draft, now - ago, now, by)
        told.append(life)
        return life

    told: list[Life] = []
    for time, count in TRAFFIC:
        for ago in moments(now, time, count):
            life = one(random.choices(DAILY, [kind.often for kind in DAILY])[0], ago)
            [fate] = random.choices(list(OFTEN), list(OFTEN.values()))
            life.meet(*fate, unknown=BROKEN if random.random() < 0.004 else "")
    for number, person in enumerate(PEOPLE * 2):
        one(NEWS, NEWSLETTER - number * SECOND / 4, person).meet(TAKEN, lag=number * SECOND)
    for minutes in range(12):
        one(SHIPPED, OUTAGE + minutes * MINUTE).meet(TAKEN, trouble=REFUSED, lag=minutes * MINUTE)

    # Of everything rare there is some.
    for ago in (50 * MINUTE, 6 * HOUR, 30 * HOUR):
        one(INVOICE, ago, on_unknown="hold").meet(unknown=BROKEN)
    for hours in range(1, 40, 3):
        one(REMINDER, hours * HOUR, scheduled_at=now + hours * 2 * HOUR)
    for hours in (2, 9, 31, 55):
        life = one(REMINDER, hours * HOUR, scheduled_at=now + DAY)
        life.end(State.CANCELED, "by API key billing", Recipient.State.CANCELED, 20 * MINUTE)
    for hours in (3, 44):
        life = one(ORDER, hours * HOUR)
        life.now = life.at + HOUR  # until then it is tried
        life.meet(*FULL)
        life.end(State.FAILED, f"given up by {OPERATOR}", Recipient.State.FAILED, MINUTE)
    for number, address in enumerate(UNWANTED * 2):
        one(NEWS, NEWSLETTER + number * SECOND, address).suppress()
    for hours in (1, 20, 70):
        one(ORDER, hours * HOUR, "Jen <jen@example.com>", by=f"web form, {OPERATOR}", cc=["moss@example.com"]).meet(
            TAKEN
        )
        one(ALERT, hours * HOUR, "Moss <moss@example.com>", UNWANTED[1], "roy@example.org").meet(TAKEN)
    for days in range(1, 6):
        for state in (State.DELIVERED, *([State.COMPLAINED] if days == 3 else [])):
            life = one(NEWS if state == State.COMPLAINED else SHIPPED, days * DAY)
            life.meet(TAKEN)
            life.end(state, "as the receiving side reported", "", 2 * MINUTE)
    for seconds in (20, 35, 50):
        one(CODE, seconds * SECOND).meet(*GREYLISTED)
    for ago in (40 * MINUTE, 2 * HOUR, 11 * HOUR, 40 * HOUR):
        one(SHIPPED, ago).meet(*FULL)
    for number in range(12):
        one(NEWS, number * SECOND / 3)  # just accepted
    return sorted(told, key=lambda life: life.email.created_at)


def moments(now: datetime, time: timedelta, count: int) -> list[timedelta]:
    """How long ago things happened, more of them by day than by night."""
    random.seed(count)
    found: list[timedelta] = []
    while len(found) < count:
        ago = random.uniform(3, time.total_seconds()) * SECOND
        if time <= HOUR or random.uniform(0, max(BUSY)) < BUSY[timezone.localtime(now - ago).hour]:
            found.append(ago)
    return found


def fill(now: datetime) -> int:
    """Stores a week of mail, keys, suppressions and requests that end at `now`. Returns how many messages."""
    told = lives(now)
    emails = [life.email for life in told]
    kept = sorted((mail for life in told for mail in life.kept), key=lambda mail: mail.received_at)
    with transaction.atomic():
        insert(emails)
        insert(email.content for email in emails)
        insert(recipient for email in emails for recipient in email.addressees)
        insert(Tag(email=email, name=name, value=value) for email in emails for name, value in email.draft.tags)
        Attachment.store(emails)
        insert(sorted((event for life in told for event in life.events), key=lambda event: event.at))
        insert(kept)
        insert(SandboxRecipient(message=mail, mailbox=address.lower()) for mail in kept for address in mail.envelope_to)
        run(statement for life in told for statement in life.counts)
        make_keys(now)
        insert(suppressions(told, now))
        if settings.REQUEST_LOG_DAYS:
            insert(sorted(requests(told, now), key=lambda row: row.created_at))
    return len(emails)


def make_keys(now: datetime) -> None:
    keys = {
        "shop, before the move": {},
        "shop": {"time_zone": "Europe/Berlin"},
        "billing": {"permission": ApiKey.Permission.SENDING, "domains": ["example.net"], "rate_limit": 20},
        "newsletter": {"permission": ApiKey.Permission.SENDING, "priority": Priority.LOW, "daily_quota": 5000},
        "alerts": {"priority": Priority.HIGH, "expires_at": now + 90 * DAY},
    }
    for number, (name, fields) in enumerate(keys.items()):
        key, _ = ApiKey.create(name, **fields)
        is_old = number == 0
        ApiKey.objects.filter(pk=key.pk).update(
            created_at=now - (200 - 30 * number) * DAY,
            last_used_at=now - (8 * DAY if is_old else number * 40 * SECOND),
            revoked_at=now - 7 * DAY if is_old else None,
        )


def suppressions(told: list[Life], now: datetime) -> list[Suppression]:
    known = set(Suppression.objects.values_list("mailbox", flat=True))
    found = {address: (Suppression.Origin.MANUAL, now - 30 * DAY) for address in UNWANTED}
    for life in told:
        if life.email.state == State.COMPLAINED:
            found[life.email.addressees[0].mailbox] = (Suppression.Origin.COMPLAINT, life.at)
    for number in range(9):
        found[f"customer-{number * 37}@example.net"] = (Suppression.Origin.BOUNCE, now - (20 - 2 * number) * DAY)
    return [
        Suppression(id=id_at(at), mailbox=mailbox, origin=origin, created_at=at)
        for mailbox, (origin, at) in sorted(found.items(), key=lambda item: item[1][1])
        if mailbox not in known
    ]


def requests(told: list[Life], now: datetime) -> list[RequestLog]:
    """Those that made the messages, some that asked for them, and some that went wrong."""

    def row(method: str, path: str, status: int, key: str, at: datetime) -> RequestLog:
        return RequestLog(
            id=id_at(at), created_at=at, method=method, path=path, status=status, status_class=status // 100,
            milliseconds=random.randrange(2, 30), key=key, request=str(id_at(at)), user_agent=random.choice(CLIENTS),
        )  # fmt: skip

    found = []
    for life in told:
        email = life.email
        if email.origin.startswith("API key"):
            found.append(row("POST", "/emails", 200, life.kind.key, email.created_at))
            if random.random() < 0.2:
                after = min(email.created_at + random.uniform(1, 90) * SECOND, now)
                found.append(row("GET", f"/emails/{email.pk}", 200, life.kind.key, after))
    wrong = ((422, "shop"), (401, ""), (403, "billing"), (429, "billing"), (422, "alerts"))
    for number, ago in enumerate(moments(now, 7 * DAY, 40)):
        found.append(row("POST", "/emails", *wrong[number % len(wrong)], now - ago))
    return found
