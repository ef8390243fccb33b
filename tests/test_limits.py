"""A key's limits: none by default; kept in Redis, honest in their headers, and no reason to refuse mail without it."""

from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection

from emails import doorbell
from emails.models import ApiKey, EmailRequest
from tests.environment import wait_until
from tests.test_api import FULL, refuse

pytestmark = pytest.mark.django_db

GOOD = {"from": "shop@example.com", "to": "moss@example.com", "subject": "Hello", "text": "Hello"}
RATE = ("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset")


def limit(api, **fields) -> ApiKey:
    key = ApiKey.objects.get()
    for name, value in fields.items():
        setattr(key, name, value)
    key.save()
    return key


def redis():
    return doorbell.queue("default").connection


def spent() -> int:
    [name] = redis().keys("mailsite:quota:*")
    return int(redis().get(name))


# Requests a second


def test_without_a_limit_there_is_no_header(api):
    answer = api.get("/emails")
    assert not [name for name in answer.headers if name.lower().startswith("ratelimit")]
    assert "retry-after" not in answer


def test_each_answer_tells_what_is_left(api):
    limit(api, rate_limit=10)
    answers = [api.post("/emails", GOOD), api.post("/emails", {}), api.get("/emails/x"), api.put("/emails")]
    limit(api, permission="sending_access")
    answers.append(api.get("/emails"))
    assert [answer.status_code for answer in answers] == [200, 422, 404, 405, 401]
    assert [[answer[name] for name in RATE] for answer in answers] == [["10", f"{n}", "1"] for n in (9, 8, 7, 6, 5)]


def test_more_than_that_is_refused_until_the_second_is_over(api):
    limit(api, rate_limit=2)
    assert [api.get("/emails").status_code for _ in range(2)] == [200, 200]
    answer = api.post("/emails", GOOD)
    assert "may make 2 a second" in refuse(answer, 429, "rate_limit_exceeded")
    assert [answer[name] for name in RATE] == ["2", "0", "1"]
    assert answer["retry-after"] == "1"
    assert not EmailRequest.objects.exists()
    wait_until(lambda: not redis().keys("mailsite:rate:*"), "the second did not end", 5)
    assert api.post("/emails", GOOD).status_code == 200


def test_refused_requests_do_not_change_the_end(api):
    key = limit(api, rate_limit=1)
    api.get("/emails")
    redis().pexpire(f"mailsite:rate:{key.pk}", 60_000)  # a long second
    for _ in range(3):
        answer = api.get("/emails")
        refuse(answer, 429, "rate_limit_exceeded")
        assert 1 < int(answer["retry-after"]) <= 60
    assert 1000 < redis().pttl(f"mailsite:rate:{key.pk}") <= 60_000


def test_a_limit_is_a_keys_own(api, client):
    limit(api, rate_limit=1)
    api.get("/emails")
    refuse(api.get("/emails"), 429, "rate_limit_exceeded")
    other = ApiKey.create("other", rate_limit=1)[1]
    assert client.get("/emails", HTTP_AUTHORIZATION=f"Bearer {other}").status_code == 200


def test_with_redis_away_requests_pass(api, no_redis, caplog):
    limit(api, rate_limit=1, daily_quota=1)
    answers = [api.post("/emails", GOOD) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert "ratelimit-limit" not in answers[0]
    assert "limits of API keys are not kept" in caplog.text


# Emails a day


def test_a_quota_counts_emails(api):
    limit(api, daily_quota=5)
    assert api.post("/emails", GOOD).status_code == 200
    assert api.post("/emails/batch", [GOOD] * 3).status_code == 200
    answer = api.post("/emails/batch", [GOOD] * 2)
    message = refuse(answer, 429, "daily_quota_exceeded")
    assert "quota of 5 emails a day" in message and "midnight UTC" in message
    now = datetime.now(UTC)
    midnight = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    assert 0 <= int(answer["retry-after"]) - (midnight - now).total_seconds() <= 2
    assert api.post("/emails", GOOD).status_code == 200  # one still fits
    refuse(api.post("/emails", GOOD), 429, "daily_quota_exceeded")
    assert EmailRequest.objects.count() == 5
    assert spent() == 5


def test_more_than_a_whole_day_holds_is_not_promised_for_tomorrow(api):
    limit(api, daily_quota=2)
    answer = api.post("/emails/batch", [GOOD] * 3)
    refuse(answer, 429, "daily_quota_exceeded")
    assert "retry-after" not in answer


def test_what_was_not_stored_is_not_counted(api):
    limit(api, daily_quota=3)
    api.post("/emails", GOOD, headers={"Idempotency-Key": "a"})
    for _ in range(5):  # replays
        assert api.post("/emails", GOOD, headers={"Idempotency-Key": "a"}).status_code == 200
    refuse(api.post("/emails", {**GOOD, "cc": "x"}), 422, "validation_error")
    refuse(api.post("/emails", FULL, headers={"Idempotency-Key": "a"}), 409, "invalid_idempotent_request")
    assert api.post("/emails?dry_run=true", GOOD).status_code == 200
    items = [GOOD, {}, {}, {}, {}]
    assert api.post("/emails/batch", items, headers={"x-batch-validation": "permissive"}).status_code == 200
    assert spent() == EmailRequest.objects.count() == 2


def test_with_the_quota_spent_a_replay_still_gets_its_answer(api):
    limit(api, daily_quota=1)
    first = api.post("/emails", GOOD, headers={"Idempotency-Key": "a"})
    assert api.post("/emails", GOOD, headers={"Idempotency-Key": "a"}).json() == first.json()
    refuse(api.post("/emails", GOOD, headers={"Idempotency-Key": "b"}), 429, "daily_quota_exceeded")


def test_a_failure_of_ours_gives_the_quota_back(api):
    from django.db import OperationalError, connection

    limit(api, daily_quota=3)

    def away(execute, sql, params, many, context):
        if sql.startswith("INSERT"):
            raise OperationalError("the server closed the connection")
        return execute(sql, params, many, context)

    with connection.execute_wrapper(away):
        refuse(api.post("/emails", GOOD), 503, "application_error")
    assert spent() == 0


def test_a_day_is_forgotten_by_itself(api):
    limit(api, daily_quota=3)
    api.post("/emails", GOOD)
    [name] = redis().keys("mailsite:quota:*")
    assert 24 * 3600 < redis().ttl(name) <= 48 * 3600


# The way of one email: what it costs


@pytest.mark.stores
def test_accepting_an_email_costs_one_transaction_and_one_ring(api, django_assert_num_queries):
    """On PostgreSQL the rows share a round trip, which is the transaction. In tests there is one around it."""
    api.get("/emails")  # looks the key up, for a second
    doorbell.queue("default").enqueue_many([])  # registers the queue, once in its life
    # Message, content, recipients, first event, the tally.
    inserts = ["INSERT"] * (1 if connection.vendor == "postgresql" else 5)
    with django_assert_num_queries(len(inserts)) as queries:
        assert api.post("/emails", GOOD).status_code == 200
    assert [query["sql"].removeprefix("1 times: ").split()[0] for query in queries] == inserts


@pytest.mark.stores
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("limits", "trips"), [({}, 1), ({"rate_limit": 1000, "daily_quota": 1000}, 3)])
def test_accepting_an_email_costs_one_round_trip_to_redis_and_one_for_each_limit(api, limits, trips):
    limit(api, **limits)
    api.post("/emails", GOOD)  # opens the connection
    before = redis().info("stats")["total_reads_processed"]
    assert api.post("/emails", GOOD).status_code == 200
    after = redis().info("stats")["total_reads_processed"]
    assert after - before - 1 == trips  # less the second look at the books


@pytest.mark.stores
def test_a_rate_limit_costs_no_query(api, django_assert_num_queries):
    limit(api, rate_limit=1000, daily_quota=1000)
    api.get("/emails")
    with django_assert_num_queries(1 if connection.vendor == "postgresql" else 5):
        api.post("/emails", GOOD)
