"""The suppression list: addresses that are not sent to, whoever asks."""

from urllib.parse import quote

import pytest
from django.db import connection

from emails.models import EmailRequest, Suppression, Worker
from tests.test_api import FULL, ids, refuse

pytestmark = [pytest.mark.stores, pytest.mark.django_db]

NOBODY = "01234567-89ab-7def-8123-456789abcdef"


def add(api, address: str) -> str:
    answer = api.post("/suppressions", {"email": address})
    assert answer.status_code in (200, 201), answer.content
    assert answer.json().keys() == {"object", "id"}
    return answer.json()["id"]


def test_an_address_is_added_looked_at_and_taken_off(api):
    answer = api.post("/suppressions", {"email": "Moss <Moss@Example.COM>"})
    assert answer.status_code == 201
    id = answer.json()["id"]
    entry = {
        "object": "suppression",
        "id": id,
        "email": "moss@example.com",
        "origin": "manual",
        "created_at": Suppression.objects.get().created_at.isoformat(),
        "source_id": None,
    }
    for name in (id, "moss@example.com", "MOSS@example.com", "moss%40example.com"):
        assert api.get(f"/suppressions/{name}").json() == entry
    assert api.delete(f"/suppressions/{id}").json() == {"object": "suppression", "id": id, "deleted": True}
    refuse(api.get(f"/suppressions/{id}"), 404, "not_found")
    refuse(api.delete("/suppressions/moss@example.com"), 404, "not_found")


def test_adding_twice_gives_the_one_that_exists(api):
    first = api.post("/suppressions", {"email": "moss@example.com"})
    again = api.post("/suppressions", {"email": "MOSS@example.com"})
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()


def test_any_mailbox_can_be_looked_up(api):
    for address in ("a/b@example.com", '"a b"@example.com', "a+b@example.com", "batch/add@example.com"):
        id = add(api, address)
        assert api.get(f"/suppressions/{quote(address, safe='')}").json()["id"] == id
        assert api.delete(f"/suppressions/{quote(address, safe='')}").json()["deleted"] is True


def test_one_domain_in_two_spellings_is_one(api):
    id = add(api, "moss@bücher.example")
    assert add(api, "moss@xn--bcher-kva.example") == id
    assert api.get("/suppressions/moss@xn--bcher-kva.example").json()["id"] == id


def test_the_list_has_pages_and_is_narrowed_by_origin(api):
    added = [add(api, f"moss{n}@example.com") for n in range(5)][::-1]
    Suppression.objects.filter(pk__in=added[:2]).update(origin="bounce")
    assert ids(api.get("/suppressions")) == added
    assert ids(api.get("/suppressions?limit=2")) == added[:2]
    assert ids(api.get(f"/suppressions?limit=2&after={added[1]}")) == added[2:4]
    assert ids(api.get("/suppressions?origin=bounce")) == added[:2]
    assert ids(api.get("/suppressions?origin=complaint")) == []
    assert "object" not in api.get("/suppressions").json()["data"][0]
    for origin in ("", "x", "Bounce"):
        refuse(api.get(f"/suppressions?origin={origin}"), 422, "invalid_parameter")


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({}, "missing_required_field"),
        ({"email": None}, "validation_error"),
        ({"email": ""}, "validation_error"),
        ({"email": "moss"}, "validation_error"),
        ({"email": "@example.com"}, "validation_error"),
        ({"email": ["moss@example.com"]}, "validation_error"),
        ({"email": 5}, "validation_error"),
        ({"email": "a\0@example.com"}, "validation_error"),
        ({"email": "a@example.com, b@example.com"}, "validation_error"),
        ([], "validation_error"),
    ],
)
def test_what_is_no_address(api, body, name):
    refuse(api.post("/suppressions", body), 422, name)
    assert not Suppression.objects.exists()


@pytest.mark.parametrize("name", [NOBODY, "x", "%00", "never@example.com", "a%0Ab", "%F0%9F%93%A7"])
def test_an_entry_that_is_not_there(api, name):
    for call in (api.get, api.delete):
        refuse(call(f"/suppressions/{name}"), 404, "not_found")


# Many at once


def test_many_are_added_and_taken_off_together(api, django_assert_num_queries):
    addresses = [f"moss{n}@example.com" for n in range(100)]
    known = add(api, addresses[7])
    with django_assert_num_queries(2):  # the rows, their ids; the key was read just now
        answer = api.post("/suppressions/batch/add", {"emails": [*addresses[:99], "Moss3@EXAMPLE.com"]})
    assert answer.status_code == 201
    added = [row["id"] for row in answer.json()["data"]]
    assert len(set(added)) == len(added) == 99
    assert added[7] == known
    gone = api.post("/suppressions/batch/remove", {"emails": [*addresses[:2], "never@example.com"]}).json()
    assert gone == {"data": [{"object": "suppression", "id": id, "deleted": True} for id in added[:2]]}
    gone = api.post("/suppressions/batch/remove", {"ids": [added[1], added[2], NOBODY, "x"]}).json()["data"]
    assert [row["id"] for row in gone] == [added[2]]
    assert Suppression.objects.count() == 96


def test_an_address_that_another_caller_releases_meanwhile(api):
    """Between the rows and the look for their ids, which is no defect of ours."""

    def releasing(execute, sql, params, many, context):
        done = execute(sql, params, many, context)
        if sql.startswith("INSERT") and "emails_suppression" in sql:
            Suppression.objects.filter(mailbox="moss@example.com").delete()
        return done

    with connection.execute_wrapper(releasing):
        answer = api.post("/suppressions/batch/add", {"emails": ["moss@example.com", "jen@example.com"]})
    assert answer.status_code == 201
    assert [row["id"] for row in answer.json()["data"]] == [str(Suppression.objects.get().pk)]


@pytest.mark.parametrize("path", ["/suppressions/batch/add", "/suppressions/batch/remove"])
@pytest.mark.parametrize("emails", [[], "moss@example.com", ["x@example.com"] * 101, [1], [None], {}])
def test_what_is_no_list_of_addresses(api, path, emails):
    refuse(api.post(path, {"emails": emails}), 422, "validation_error")
    refuse(api.post(path, {}), 422, "missing_required_field")


def test_a_bad_address_among_good_ones_is_named_and_adds_none(api):
    answer = api.post("/suppressions/batch/add", {"emails": ["moss@example.com", "x"]})
    assert "`emails[1]`" in refuse(answer, 422, "validation_error")
    assert not Suppression.objects.exists()


# What it does


def test_a_suppressed_recipient_is_left_out_and_the_email_says_so(api):
    add(api, "MOSS@example.com")
    id = api.post("/emails", {**FULL, "to": ["Moss@example.com", "jen@example.com"]}).json()["id"]
    EmailRequest.objects.claim([id], Worker.objects.create(name="w", host="here", pid=1))
    recipients = {row["address"]: row for row in api.get(f"/emails/{id}").json()["recipients"]}
    assert recipients["Moss@example.com"] == {
        "address": "Moss@example.com",
        "state": "suppressed",
        "reply": "on the suppression list",
    }
    assert recipients["jen@example.com"]["state"] == "waiting"


def test_an_entry_added_after_the_email_was_accepted_counts_too(api):
    id = api.post("/emails", FULL).json()["id"]
    add(api, "jen@example.com")
    EmailRequest.objects.claim([id], Worker.objects.create(name="w", host="here", pid=1))
    states = {row["address"]: row["state"] for row in api.get(f"/emails/{id}").json()["recipients"]}
    assert states["jen@example.com"] == "suppressed"
