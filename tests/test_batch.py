"""Batches: one to a hundred emails in one request, all or none, or those that are in order."""

import pytest

from emails.models import EmailRequest
from tests.test_api import FULL, refuse

pytestmark = [pytest.mark.stores, pytest.mark.django_db]

GOOD = {"from": "shop@example.com", "to": "moss@example.com", "subject": "Hello", "text": "Hello"}
BAD = {**GOOD, "to": "nobody"}
PERMISSIVE = {"x-batch-validation": "permissive"}


def subjects(answer) -> list[str]:
    ids = [item["id"] for item in answer.json()["data"]]
    found = {str(pk): subject for pk, subject in EmailRequest.objects.values_list("pk", "subject")}
    return [found[id] for id in ids]


@pytest.mark.parametrize("headers", [{}, {"x-batch-validation": "strict"}])
def test_ids_stand_in_the_order_of_the_emails(api, headers):
    answer = api.post("/emails/batch", [{**FULL, "subject": f"{n}"} for n in range(100)], headers=headers)
    assert answer.status_code == 200
    assert answer.json().keys() == {"data"}  # Anymail tells a batch's answer by its having no `id`
    assert subjects(answer) == [f"{n}" for n in range(100)]


def test_a_batch_goes_to_the_low_queue_unless_an_email_says_otherwise(api):
    items = [GOOD, {**GOOD, "priority": "high"}, {**GOOD, "priority": "default"}, {**GOOD, "priority": "low"}]
    ids = [item["id"] for item in api.post("/emails/batch", items).json()["data"]]
    assert [EmailRequest.objects.get(pk=id).queue for id in ids] == ["low", "high", "default", "low"]


def test_in_strict_mode_one_bad_email_refuses_all_and_is_named(api):
    message = refuse(api.post("/emails/batch", [GOOD, GOOD, BAD, BAD]), 422, "validation_error")
    assert message.startswith("Email 2 (counted from 0): The `to` field: 'nobody'")
    assert not EmailRequest.objects.exists()


@pytest.mark.parametrize(
    ("item", "name"),
    [
        ({**GOOD, "from": "x"}, "invalid_from_address"),
        ({**GOOD, "to": None}, "missing_required_field"),
        ({**GOOD, "attachments": [{}]}, "invalid_attachment"),
        ({}, "missing_required_field"),
        (5, "validation_error"),
        (None, "validation_error"),
        ([GOOD], "validation_error"),
    ],
)
def test_the_errors_name_is_that_of_the_email(api, item, name):
    assert "Email 1 (" in refuse(api.post("/emails/batch", [GOOD, item]), 422, name)
    answer = api.post("/emails/batch", [GOOD, item], headers=PERMISSIVE)
    assert [error["index"] for error in answer.json()["errors"]] == [1]


def test_in_permissive_mode_the_good_ones_are_accepted_and_the_others_named(api):
    items = [BAD, {**GOOD, "subject": "one"}, {}, "x", {**GOOD, "subject": "four"}]
    answer = api.post("/emails/batch", items, headers=PERMISSIVE)
    assert answer.status_code == 200
    assert subjects(answer) == ["one", "four"]
    errors = answer.json()["errors"]
    assert [error["index"] for error in errors] == [0, 2, 3]
    assert errors[0].keys() == {"index", "message"}
    assert errors[0]["message"].startswith("The `to` field: 'nobody'")
    assert EmailRequest.objects.count() == 2


def test_in_permissive_mode_errors_are_there_even_if_there_are_none(api):
    assert api.post("/emails/batch", [GOOD], headers=PERMISSIVE).json()["errors"] == []


def test_in_permissive_mode_all_may_be_bad(api):
    answer = api.post("/emails/batch", [BAD, {}], headers=PERMISSIVE)
    assert answer.status_code == 200
    assert answer.json()["data"] == []
    assert [error["index"] for error in answer.json()["errors"]] == [0, 1]
    assert not EmailRequest.objects.exists()


@pytest.mark.parametrize("mode", ["", "Strict", "loose", "strict, permissive"])
def test_a_mode_that_does_not_exist(api, mode):
    message = refuse(api.post("/emails/batch", [GOOD], headers={"x-batch-validation": mode}), 422, "invalid_parameter")
    assert "`x-batch-validation`" in message
    assert not EmailRequest.objects.exists()


@pytest.mark.parametrize(("count", "shown"), [(0, "0 emails"), (101, "101 emails"), (20_000, "20000 emails")])
def test_a_batch_has_one_to_a_hundred_emails(api, count, shown):
    for headers in ({}, PERMISSIVE):
        assert shown in refuse(api.post("/emails/batch", [GOOD] * count, headers=headers), 422, "validation_error")
    assert not EmailRequest.objects.exists()


@pytest.mark.parametrize("body", ["{}", "", '{"emails": []}', "5", "null", '"x"'])
def test_a_batch_is_a_list(api, body):
    message = refuse(api.post("/emails/batch", body, content_type="application/json"), 422, "validation_error")
    assert "a list of emails" in message


def test_a_dry_run_is_for_one_email(api):
    """A caller who thinks that this only tries must not send a hundred."""
    refuse(api.post("/emails/batch?dry_run=true", [GOOD]), 422, "invalid_parameter")
    assert not EmailRequest.objects.exists()


def test_a_batch_costs_few_statements(api, django_assert_num_queries):
    api.get("/emails")  # looks the key up
    tags = [{"name": "kind", "value": "receipt"}]
    items = [{**GOOD, "tags": tags, "attachments": [{"filename": "a.txt", "content": "YQ=="}]} for _ in range(100)]
    # Begin, 6 tables, the tally, which blobs there are, the ring after the commit: for a hundred as for one.
    with django_assert_num_queries(11):
        assert len(api.post("/emails/batch", items).json()["data"]) == 100


def test_a_batch_can_be_scheduled_and_have_every_field(api):
    item = {**FULL, "headers": {"X-Metadata": '{"order": 1}'}, "tags": [{"name": "a", "value": "b"}], "topic_id": "x"}
    items = [{**item, "scheduled_at": "in 1 hour"}, {**item, "on_unknown": "hold"}]
    ids = [item["id"] for item in api.post("/emails/batch", items).json()["data"]]
    assert [EmailRequest.objects.get(pk=id).state for id in ids] == ["scheduled", "queued"]
