"""What a page, a query or a sweep reads does not grow with what is stored.

Counted is work, not time: the rows that PostgreSQL's plan visits, the steps that SQLite's takes. A walk through any
of the growing tables or their indexes, or a sort of one, is far more than a page needs.
"""

import json
from ipaddress import ip_network
from uuid import UUID

import pytest
from django.core.management import call_command
from django.db import connection, transaction
from django.test import Client
from django.utils import timezone

from bench.fill import fill
from emails import admin, health, login, overview, playground, search, why
from emails.drafts import Draft
from emails.models import ApiKey, EmailRequest, IdempotencyKey, Recipient, Settlement, Worker
from emails.smtp import Outcome, Reply, Result, Verdict

pytestmark = [pytest.mark.stores, pytest.mark.django_db]

STORED = 30_000
ID = UUID(int=7)  # of no message
ROWS, STEPS = 2_500, 25_000  # a page of 100 emails with all that belongs to it; a tenth of a walk through all


@pytest.fixture(scope="module", autouse=True)
def filled(django_db_setup, django_db_blocker):
    with django_db_blocker.unblock():
        fill(STORED)
        yield
        call_command("flush", interactive=False, verbosity=0)


class Work:
    """Counts what is read while it is in force; `plans` say how."""

    def __init__(self):
        self.done, self.plans = 0, []

    def __enter__(self):
        self.wrapped = connection.execute_wrapper(self.explained)
        self.wrapped.__enter__()
        if connection.vendor == "sqlite":
            connection.connection.set_progress_handler(self.step, 100)
        return self

    def __exit__(self, *problem):
        self.wrapped.__exit__(*problem)
        if connection.vendor == "sqlite":
            connection.connection.set_progress_handler(None, 0)

    def step(self) -> None:
        self.done += 100

    def explained(self, execute, sql, params, many, context):
        before = self.done
        if (
            connection.vendor == "postgresql"
            and not many
            and sql.split()[0] in ("SELECT", "INSERT", "UPDATE", "DELETE")
        ):
            with transaction.atomic(), connection.connection.cursor() as cursor:
                cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", params)
                [[[explained]]] = cursor.fetchall()
                transaction.set_rollback(True)
            self.plans.append((sql, rows_of(explained["Plan"]), json.dumps(explained["Plan"])[:2000]))
            self.done += self.plans[-1][1]
        result = execute(sql, params, many, context)
        if connection.vendor == "sqlite":
            self.plans.append((sql, self.done - before, params))
        return result

    def most(self) -> str:
        return str(max(self.plans, key=lambda plan: plan[1], default=""))[:4000]


def rows_of(plan: dict) -> int:
    """What a node and those below it have visited."""
    visited = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0) + plan.get("Rows Removed by Index Recheck", 0)
    return visited * plan["Actual Loops"] + sum(map(rows_of, plan.get("Plans", [])))


def is_small(act, pages: int = 1) -> None:
    with Work() as work:
        act()
    assert work.done <= pages * (ROWS if connection.vendor == "postgresql" else STEPS), (
        f"{work.done} read, most by {work.most()}"
    )


@pytest.fixture(autouse=True)
def small_caps(monkeypatch):
    """What is capped is capped so low that what is not stands out."""
    monkeypatch.setattr(search, "RARE", 100)
    monkeypatch.setattr(search, "BEGINNINGS", 20)
    monkeypatch.setattr(admin, "BEGINNINGS", 20)
    monkeypatch.setattr(admin.CappedPaginator, "LIMIT", 200)
    monkeypatch.setattr(admin.NewestPaginator, "LIMIT", 200)
    monkeypatch.setattr(why, "COUNTED", 20)
    monkeypatch.setattr(overview, "SETBACKS_READ", 20)


@pytest.fixture
def site() -> Client:
    client = Client(headers={"Authorization": f"Bearer {ApiKey.create('tests')[1]}"})
    client.force_login(login.local_administrator())
    return client


def old() -> UUID:
    """The id of one of the oldest messages: its page is the last."""
    return EmailRequest.objects.order_by("pk")[300].pk


EMAILS = [
    "", "to=@big.example", "to=@end.example", "to=far@end.example", "to=@no.example", "to=no@no.example", "state=sent",
    "state=complained", "state=claimed", "tag=kind", "tag=kind:order", "tag=end", "tag=campaign:0", "tag=no",
    "created_after=2020-01-01", "created_after=2099-01-01", "to=@big.example&state=claimed", "to=@big.example&tag=end",
    "to=@end.example&state=sent", "state=sent&tag=campaign:0", "to=@big.example&state=sent&created_after=2020-01-01",
]  # fmt: skip
HOME = [
    "", "q=@big.example", "q=big.example", "q=far@end.example", "q=far", "q=u", "q=u1", "q=no", "q=@no.example",
    f"q={ID}",
]  # fmt: skip
REQUESTS = [
    "", "status=2", "status=4", "status=5", "status=3", "path=/emails", "path=/emails/old", "path=/no", "key=shop",
    "key=old", "key=no", "status=2&key=shop", "status=5&path=/emails", "status=4&path=/no", "key=old&path=/emails",
    "request=no",
]  # fmt: skip
OTHERS = [
    "/suppressions", "/suppressions?origin=complaint", "/suppressions?origin=manual", "/suppressions/far@end.example",
    "/sandbox/messages", "/sandbox/messages?to=far@end.example", "/sandbox/messages?to=no@no.example",
    "/sandbox", "/sandbox?q=far", "/sandbox?q=u", "/sandbox?q=no", "/sandbox?q=far@end.example",
    "/api-keys", "/logs", "/playground", "/admin/",
    "/admin/emails/suppression/", "/admin/emails/suppression/?q=not.u", "/admin/emails/suppression/?q=no",
    "/admin/emails/sandboxmessage/", "/admin/emails/worker/", "/admin/emails/hold/", "/admin/emails/hold/add/",
    "/admin/emails/apikey/",
]  # fmt: skip


@pytest.mark.parametrize("page", ["", "after"])
@pytest.mark.parametrize("query", EMAILS)
def test_the_apis_list(site, query, page):
    path = f"/emails?{query}" + (f"&after={old()}" if page else "")
    is_small(lambda: site.get(path))


def test_the_overview(site):
    """It adds up a day of kept counts, which are a thousand rows or so however much is stored."""
    is_small(lambda: site.get("/"), pages=3)


@pytest.mark.parametrize("page", ["", "after", "before"])
@pytest.mark.parametrize("query", HOME)
def test_the_list_of_messages(site, query, page):
    path = f"/messages?{query}" + (f"&{page}={old()}" if page else "")
    is_small(lambda: site.get(path))


@pytest.mark.parametrize("path", ["/messages?q={}", "/messages?q=<{}@example.com>", "/admin/emails/emailrequest/?q={}"])
def test_a_search_for_an_id(site, path):
    path = path.format(old())
    is_small(lambda: site.get(path))


@pytest.mark.parametrize("page", ["", "after", "before"])
@pytest.mark.parametrize("query", REQUESTS)
def test_the_requests(site, query, page):
    path = f"/requests?{query}" + (f"&{page}={old()}" if page else "")
    is_small(lambda: site.get(path))


def test_the_metrics(site, settings):
    """They add up the kept counts, as the overview does."""
    settings.METRICS_ALLOW = [ip_network("127.0.0.0/8")]
    is_small(lambda: site.get("/metrics"), pages=3)


@pytest.mark.parametrize("check", [*health.DATABASE, *health.REDIS])
def test_a_check_of_health(check):
    is_small({**health.DATABASE, **health.REDIS}[check])


@pytest.mark.parametrize("path", OTHERS)
def test_the_other_lists(site, path):
    is_small(lambda: site.get(path))


@pytest.mark.parametrize("path", ["/emails/{}", "/messages/{}", "/admin/emails/emailrequest/{}/change/"])
def test_a_message(site, path):
    path = path.format(old())
    is_small(lambda: site.get(path))


DESK = [
    "", "q=@big.example", "q=far", "q=u", "q=no", "q=far@end.example", "state=sent", "state=claimed", "queue=high",
    "state=complained", "queue=low&state=unknown", "domain=end.example", "domain=no.example", "tag=kind", "tag=end",
    "tag=no", "domain=big.example&state=unknown", "domain=big.example&tag=end", "before=2020-01-01T00:00",
    "after=2020-01-01T00:00&state=claimed", "q=far&domain=end.example&tag=end:far&state=sent", "p=2", f"q={ID}",
]  # fmt: skip


@pytest.mark.parametrize("query", DESK)
def test_the_desks_list(site, query):
    is_small(lambda: site.get(f"/admin/emails/emailrequest/?{query}"))


SWEEPS = {
    "overdue": lambda: EmailRequest.objects.overdue(100),
    "the dead's": EmailRequest.objects.free_dead,
    "orphans": lambda: EmailRequest.objects.release_orphans(Worker(), []),
    "old workers": Worker.forget_old,
    "old idempotency keys": IdempotencyKey.forget_old,
    "the playground": playground.latest_emails,
}  # fmt: skip


@pytest.mark.parametrize("sweep", SWEEPS)
def test_a_sweep(sweep):
    is_small(SWEEPS[sweep])


def test_the_undecided_are_found_among_what_is_uncertain():
    EmailRequest.objects.undecided().update(due_at=timezone.now())
    EmailRequest.objects.filter(state="queued").update(state="unknown")
    EmailRequest.objects.filter(pk=EmailRequest.objects.filter(state="unknown").latest("pk").pk).update(due_at=None)
    if connection.vendor == "postgresql":
        connection.cursor().execute("ANALYZE emails_emailrequest")  # which it does by itself
    with Work() as work:
        assert EmailRequest.objects.undecided()[: why.COUNTED + 1].count() == 1
    assert work.done <= 200, work.most()


def test_a_message_is_accepted_and_sent():
    worker = Worker.objects.create(name="w", host="h", pid=1)
    draft = Draft.clean({"from": "shop@example.com", "to": "moss@example.com", "subject": "Hello", "text": "Hello"})
    is_small(lambda: EmailRequest.objects.submit([draft], origin="a test"))
    ids = EmailRequest.objects.overdue(5)
    claimed = []
    is_small(lambda: claimed.extend(EmailRequest.objects.claim(ids, worker)))
    is_small(lambda: EmailRequest.objects.record(worker, upcoming=claimed))
    done = Result(Verdict.ACCEPTED, Reply(250, "Ok"))
    outcomes = [Outcome({one.address: done for one in Recipient.objects.filter(email=email)}) for email in claimed]
    settled = [Settlement(email, outcome) for email, outcome in zip(claimed, outcomes, strict=True)]
    is_small(lambda: EmailRequest.objects.record(worker, settled))
