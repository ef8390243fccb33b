"""The request log: what the API was asked, without bodies, and written beside the requests."""

from datetime import timedelta

import pytest
from django.db import InterfaceError, OperationalError, connection
from django.utils import timezone

from emails import requestlog
from emails.models import RequestLog
from tests.running import Copy


def row(**fields: object) -> RequestLog:
    fields = {"method": "GET", "path": "/emails", "status": 200, "key": "shop", "request": "request-1", **fields}
    return RequestLog(status_class=fields["status"] // 100, milliseconds=3, user_agent="curl/8", **fields)


def test_each_request_is_there_even_when_the_server_stops_at_once(tmp_path):
    copy = Copy(tmp_path)
    copy.start()
    try:
        email = {"from": "shop@example.com", "to": "moss@example.com", "subject": "A subject", "text": "A body"}
        answer = copy.api.post("/emails", json=email)
        copy.api.get("/login")
    finally:
        copy.stop()
    dumped = copy.manage("shell", "--verbosity=0", "--command", DUMP)
    assert dumped.splitlines() == [f"POST /emails 200 tests {answer.headers['request-id']}"]


DUMP = """
from emails.models import RequestLog
for row in RequestLog.objects.all():
    print(row, row.key, row.request)
"""


@pytest.mark.django_db
def test_what_is_put_in_is_stored_in_groups():
    writer = requestlog.Writer()
    for number in range(requestlog.AT_ONCE + 1):
        writer._rows.put(row(request=f"request-{number}"))
    writer.write()
    assert RequestLog.objects.count() == requestlog.AT_ONCE + 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("problem", [OperationalError, InterfaceError, ValueError])
def test_what_the_database_does_not_take_is_dropped_and_said_once(caplog, problem):
    def broken(execute, sql, params, many, context):
        raise problem("away")

    writer = requestlog.Writer()
    with connection.execute_wrapper(broken):
        for _ in range(2):
            writer._rows.put(row())
            writer.write()
    assert writer.dropped == 2
    assert caplog.text.count("left out of the request log: away") == 1
    writer._rows.put(row())
    writer.write()
    assert (RequestLog.objects.count(), writer.dropped) == (1, 0)
    assert caplog.text.count("kept again: 2 requests were left out") == 1


def test_a_full_queue_holds_nobody_up(caplog, monkeypatch):
    monkeypatch.setattr(requestlog, "ROOM", 1)
    writer = requestlog.Writer()
    writer._thread = True  # none that would empty it
    for _ in range(3):
        writer.add(row())
    assert writer.dropped == 2
    assert caplog.text.count("faster than the database") == 1


@pytest.mark.django_db
def test_old_requests_are_forgotten_some_at_a_time(settings, monkeypatch):
    settings.REQUEST_LOG_DAYS = 7
    monkeypatch.setattr(RequestLog, "FORGOTTEN_AT_ONCE", 2)
    RequestLog.objects.bulk_create(row() for _ in range(3))
    assert not RequestLog.forget_old()
    later = timezone.now() + timedelta(days=8)
    assert RequestLog.forget_old(later)
    assert RequestLog.objects.count() == 1
    assert not RequestLog.forget_old(later)
    assert not RequestLog.objects.exists()


@pytest.mark.django_db
def test_the_page_is_filtered_by_answer_path_and_key(admin_client):
    RequestLog.objects.bulk_create([row(), row(path="/emails/x", status=404), row(key="<b>", status=422)])

    def shown(**query: str) -> int:
        return admin_client.get("/requests", query).content.decode().count('class="who"')

    assert [shown(), shown(status="4"), shown(path="/emails/x"), shown(key="<b>")] == [3, 2, 1, 1]
    assert shown(status="4", key="shop") == 1
    assert "No such request" in admin_client.get("/requests", {"path": "/nowhere"}).content.decode()
    for status in ("nonsense", "23", "1", "6"):
        assert admin_client.get("/requests", {"status": status}).status_code == 404


@pytest.mark.django_db
def test_a_request_is_found_by_its_id_which_is_shown_whole(admin_client):
    id = "01a2124a-0f29-72bb-8feb-9b2b442e4f9d"
    RequestLog.objects.bulk_create([row(request=id), row(request="order-4711")])
    page = admin_client.get("/requests", {"request": id}).text
    assert f'<span class="what">{id}</span>' in page and "order-4711" not in page


@pytest.mark.django_db
def test_a_request_for_a_message_leads_to_it(admin_client, submit):
    path = f"/emails/{submit().pk}"
    RequestLog.objects.bulk_create(
        [row(path=path), row(path=f"{path}/cancel"), row(path="/emails"), row(path="/emails/x")]
    )
    page = admin_client.get("/requests").text
    assert page.count(f'<a href="{path.replace("emails", "messages")}">') == 2
    RequestLog.objects.update(status=404)
    assert "/messages/" not in admin_client.get("/requests").text


@pytest.mark.django_db
def test_older_pages_keep_the_filter(admin_client):
    RequestLog.objects.bulk_create(row(status=404) for _ in range(51))
    assert "status=4&amp;after=" in admin_client.get("/requests", {"status": "4"}).content.decode()


@pytest.mark.django_db
def test_the_page_is_for_staff(client, django_user_model):
    assert client.get("/requests").status_code == 302
    client.force_login(django_user_model.objects.create_user("jen"))
    assert client.get("/requests").status_code == 403
