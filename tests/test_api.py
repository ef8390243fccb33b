"""What the API promises to a caller with a key: shapes, lists and errors as Resend's clients know them."""

from datetime import timedelta
from email import message_from_string, policy
from uuid import UUID

import pytest
from django.db import OperationalError, connection
from django.utils import timezone

from emails.api.serializers import LAST_EVENT
from emails.models import Blob, EmailRequest, SandboxMessage, Worker
from emails.sandbox import store
from emails.smtp import Relay
from emails.states import HELD, WAITING, State

pytestmark = [pytest.mark.stores, pytest.mark.django_db]

FULL = {
    "from": "Shop <shop@example.com>",
    "to": ["Moss <moss@example.com>", "jen@example.com"],
    "subject": "Your order",
    "html": "<p>Thank you</p>",
    "text": "Thank you",
    "cc": "roy@example.com",
    "bcc": ["douglas@example.com"],
    "reply_to": "help@example.com",
}


def send(api, **fields) -> str:
    answer = api.post("/emails", {**FULL, **fields})
    assert answer.status_code == 200, answer.content
    return answer.json()["id"]


def refuse(answer, status: int, name: str) -> str:
    """Asserts an error of the API's one shape; returns its message."""
    assert answer.status_code == status, answer.content
    assert answer["Content-Type"] == "application/json"
    body = answer.json()
    assert body.keys() == {"statusCode", "name", "message"}
    assert (body["statusCode"], body["name"]) == (status, name)
    return body["message"]


# Sending


def test_an_email_is_accepted_and_its_id_answered(api):
    answer = api.post("/emails", FULL)

    assert answer.status_code == 200
    assert answer["Content-Type"] == "application/json"
    assert answer.json().keys() == {"id"}
    email = EmailRequest.objects.get(pk=answer.json()["id"])
    assert [recipient.address for recipient in email.recipients.order_by("pk")] == [
        "moss@example.com",
        "jen@example.com",
        "roy@example.com",
        "douglas@example.com",
    ]
    assert "key tests" in email.events.get().detail


@pytest.mark.parametrize("field", ["to", "cc", "bcc", "reply_to"])
def test_a_single_address_needs_no_list(api, field):
    id = send(api, **{field: "Richmond <richmond@example.com>"})
    assert api.get(f"/emails/{id}").json()[field] == ["Richmond <richmond@example.com>"]


def test_a_charset_beside_the_content_type_is_welcome(api):
    assert api.post("/emails", FULL, content_type="application/json; charset=utf-8").status_code == 200


def test_a_caller_gets_json_whatever_it_asks_for(api):
    """A browser's or an old client's Accept header, and DRF's own `?format=`, change nothing."""
    id = send(api)
    for accept in ("text/html", "application/xml", "image/png", "nonsense"):
        answer = api.get(f"/emails/{id}", HTTP_ACCEPT=accept)
        assert answer.status_code == 200
        assert answer["Content-Type"] == "application/json"
    assert api.get("/emails?format=xml").status_code == 200


def test_nothing_redirects(api):
    """A redirect would turn a client's POST into a GET."""
    refuse(api.post("/emails/", FULL), 404, "not_found")
    assert not EmailRequest.objects.exists()


# Looking


def test_an_email_can_be_looked_at(api):
    id = send(api)
    email = EmailRequest.objects.get()

    assert api.get(f"/emails/{id}").json() == {
        "object": "email",
        "id": id,
        "from": "Shop <shop@example.com>",
        "to": ["Moss <moss@example.com>", "jen@example.com"],
        "cc": ["roy@example.com"],
        "bcc": ["douglas@example.com"],
        "reply_to": ["help@example.com"],
        "subject": "Your order",
        "html": "<p>Thank you</p>",
        "text": "Thank you",
        "created_at": email.created_at.isoformat(),
        "scheduled_at": None,
        "last_event": "queued",
        "message_id": f"<{UUID(id).hex}@example.com>",
        "tags": [],
        "state": "queued",
        "priority": "default",
        "recipients": [
            {"address": "moss@example.com", "state": "waiting", "reply": None},
            {"address": "jen@example.com", "state": "waiting", "reply": None},
            {"address": "roy@example.com", "state": "waiting", "reply": None},
            {"address": "douglas@example.com", "state": "waiting", "reply": None},
        ],
        "explanation": "No worker has been seen yet: start one with `manage.py rqworker`. Queued: it is next.",
    }


def test_bodies_and_lists_that_are_absent(api):
    id = send(api, html=None, cc=[], bcc=None, reply_to=None)
    email = api.get(f"/emails/{id}").json()
    assert email["html"] is None
    assert email["cc"] == email["bcc"] == email["reply_to"] == []


def test_every_state_has_an_event_that_the_clients_know():
    assert set(LAST_EVENT) == set(State)
    assert set(LAST_EVENT.values()) <= {
        "queued", "scheduled", "sent", "delivered", "delivery_delayed", "bounced", "complained", "failed", "canceled",
        "suppressed", "opened", "clicked",
    }  # fmt: skip


@pytest.mark.parametrize("id", ["01234567-89ab-7def-8123-456789abcdef", "no-id", "%00", "%F0%9F%93%A7", "a%0Ab"])
def test_an_unknown_email_is_not_found(api, id):
    refuse(api.get(f"/emails/{id}"), 404, "not_found")


# Lists


def ids(answer) -> list[str]:
    assert answer.status_code == 200, answer.content
    body = answer.json()
    assert body["object"] == "list"
    return [item["id"] for item in body["data"]]


def test_the_list_shows_the_newest_first_without_bodies(api):
    first, second = send(api, subject="First"), send(api, subject="Second")
    answer = api.get("/emails")
    assert ids(answer) == [second, first]
    assert answer.json()["has_more"] is False
    newest = answer.json()["data"][0]
    assert newest["subject"] == "Second"
    assert newest["last_event"] == "queued"
    assert not {"html", "text"} & newest.keys()


def test_an_empty_list(api):
    assert api.get("/emails").json() == {"object": "list", "has_more": False, "data": []}


def test_a_list_is_walked_by_pages_in_both_directions(api):
    sent = [send(api) for _ in range(5)][::-1]

    first = api.get("/emails?limit=2")
    assert ids(first) == sent[:2]
    assert first.json()["has_more"] is True
    second = api.get(f"/emails?limit=2&after={sent[1]}")
    assert ids(second) == sent[2:4]
    assert second.json()["has_more"] is True
    last = api.get(f"/emails?limit=2&after={sent[3]}")
    assert ids(last) == sent[4:]
    assert last.json()["has_more"] is False

    back = api.get(f"/emails?limit=2&before={sent[4]}")
    assert ids(back) == sent[2:4]
    assert back.json()["has_more"] is True
    top = api.get(f"/emails?limit=2&before={sent[2]}")
    assert ids(top) == sent[:2]
    assert top.json()["has_more"] is False


def test_a_page_has_twenty_items_unless_told_otherwise(api):
    for _ in range(21):
        send(api)
    assert len(ids(api.get("/emails"))) == 20
    assert len(ids(api.get("/emails?limit=100"))) == 21


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=101",
        "limit=-1",
        "limit=x",
        "limit=",
        "limit=1.5",
        "limit=%D9%A1",  # a digit, but not one of ours
        "limit=00000000100000000000",
        "limit=" + "9" * 5000,
        "after=x",
        "after=",
        "before=%00",
        "after={id}&before={id}",
    ],
)
def test_a_list_says_what_is_wrong_with_its_parameters(api, query):
    query = query.format(id="01234567-89ab-7def-8123-456789abcdef")
    for path in ("/emails", "/sandbox/messages"):
        message = refuse(api.get(f"{path}?{query}"), 422, "invalid_parameter")
        assert query.partition("=")[0] in message


def test_a_page_of_the_list_costs_the_same_whatever_its_length(api, django_assert_num_queries):
    for _ in range(3):
        send(api)
    with django_assert_num_queries(2):  # the page's ids, and its rows
        api.get("/emails?limit=1")
    with django_assert_num_queries(2):
        api.get("/emails")


# Filters


def query(api, **filters) -> list[str]:
    return ids(api.get("/emails", filters))


def test_the_list_is_narrowed_by_recipient(api):
    to, cc = send(api, to="Roy@Example.com", cc=[], bcc=[]), send(api, cc="roy@example.com")
    bcc = send(api, cc=[])
    assert query(api, to="roy@example.com") == [cc, to]
    assert query(api, to="Roy <ROY@example.com>") == [cc, to]
    assert query(api, to="douglas@example.com") == [bcc, cc]
    assert query(api, to="oy@example.com") == query(api, to="roy@example.co") == []
    other = send(api, to="moss@bücher.example")
    assert query(api, to="@xn--bcher-kva.example") == query(api, to="@bücher.example") == [other]
    assert query(api, to="@example.com", limit=2) == [other, bcc]  # whose cc and bcc are there
    assert query(api, to="moss@xn--bcher-kva.example") == [other]


def test_the_list_is_narrowed_by_state_and_tag_and_time(api):
    tagged = send(api, tags=[{"name": "kind", "value": "receipt"}, {"name": "shop", "value": "1"}])
    other = send(api, tags=[{"name": "kind", "value": "reset"}])
    later = send(api, scheduled_at="in 1 hour")
    assert query(api, state="queued") == [other, tagged]
    assert query(api, state="scheduled") == [later]
    assert query(api, tag="kind") == [other, tagged]
    assert query(api, tag="kind:receipt") == query(api, tag="shop") == [tagged]
    assert query(api, tag="kind:") == [other, tagged]
    assert query(api, tag="receipt") == query(api, tag="Kind") == query(api, tag="") == []
    moment = EmailRequest.objects.get(pk=other).created_at
    assert query(api, created_after=moment.isoformat()) == [later]
    assert ids(api.get(f"/emails?created_after={moment.isoformat()}")) == [later]  # the + comes as a space
    assert query(api, created_after="2020-01-01") == [later, other, tagged]
    assert query(api, created_after="0001-01-01T00:00:00Z") == [later, other, tagged]
    assert query(api, created_after="9999-12-31T23:59:59Z") == []
    assert query(api, tag="kind", state="queued", to="roy@example.com", created_after=moment.isoformat()) == []
    assert query(api, tag="kind", state="queued", to="roy@example.com", limit=1, after=other) == [tagged]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("to", ""),
        ("to", "moss"),
        ("to", "@"),
        ("to", "a\0b@example.com"),
        ("to", "a@example.com,b@example.com"),
        ("state", ""),
        ("state", "Sent"),
        ("state", "sent,queued"),
        ("created_after", ""),
        ("created_after", "yesterday"),
        ("created_after", "2026-13-01"),
        ("created_after", "0001-01-01T00:00:00+14:00"),
    ],
)
def test_a_filter_that_cannot_be_meant(api, name, value):
    assert f"`{name}`" in refuse(api.get("/emails", {name: value}), 422, "invalid_parameter")


def test_more_parameters_than_anybody_needs(api):
    refuse(api.get("/emails?" + "&".join(f"a{n}=1" for n in range(2000))), 400, "validation_error")


# Changing one's mind


def test_an_email_that_waits_can_be_taken_back(api):
    id = send(api)
    answer = api.post(f"/emails/{id}/cancel", "", content_type="application/json")
    assert answer.json() == {"object": "email", "id": id}
    assert api.get(f"/emails/{id}").json()["last_event"] == "canceled"
    assert "it is canceled" in refuse(api.post(f"/emails/{id}/cancel", {}), 422, "validation_error")
    refuse(api.post("/emails/no-id/cancel", {}), 404, "not_found")


@pytest.mark.parametrize("scheduled_at", [None, "in 1 hour"])
def test_an_email_that_waits_can_be_moved(api, scheduled_at):
    id = send(api, scheduled_at=scheduled_at)
    moment = timezone.now() + timedelta(hours=3)
    body = {"id": id, "scheduled_at": moment.isoformat()}  # Resend's Python client repeats the id
    answer = api.patch(f"/emails/{id}", body, content_type="application/json")
    assert answer.status_code == 200
    assert answer.json() == {"object": "email", "id": id}
    email = api.get(f"/emails/{id}").json()
    assert (email["last_event"], email["scheduled_at"]) == ("scheduled", moment.isoformat())
    assert EmailRequest.objects.get().due_at == moment
    assert "key tests" in EmailRequest.objects.get().events.last().detail


def test_an_id_is_answered_in_its_usual_spelling(api):
    id = send(api)
    assert api.post(f"/emails/{id.upper()}/cancel").json()["id"] == id


@pytest.mark.parametrize(
    ("body", "name", "shown"),
    [
        ({}, "missing_required_field", "`scheduled_at`"),
        ({"scheduled_at": None}, "missing_required_field", "`scheduled_at`"),
        ({"scheduled_at": ""}, "missing_required_field", "`scheduled_at`"),
        ({"scheduled_at": 5}, "validation_error", "a string"),
        ({"scheduled_at": ["in 1 hour"]}, "validation_error", "a string"),
        ({"scheduled_at": "soon"}, "validation_error", "can't be read"),
        ({"scheduled_at": "2020-01-01T00:00:00Z"}, "validation_error", "past"),
        ({"scheduled_at": "in 31 days"}, "validation_error", "30 days"),
        ({"scheduled_at": "in 1 hour", "subject": "Another"}, "validation_error", "`subject` is not supported"),
        ([], "validation_error", "JSON object"),
    ],
)
def test_a_time_to_which_it_cannot_be_moved(api, body, name, shown):
    id = send(api)
    assert shown in refuse(api.patch(f"/emails/{id}", body, content_type="application/json"), 422, name)
    assert EmailRequest.objects.get().state == "queued"


@pytest.mark.parametrize("state", sorted(set(State) - WAITING))
def test_what_is_on_its_way_or_over_stays_as_it_is(api, state):
    id = send(api)
    worker = Worker.objects.create(name="w", host="here", pid=1)
    held = worker if state in HELD else None
    EmailRequest.objects.update(state=state, due_at=None, worker=held)
    words = f"it is {State(state).label.lower()}"
    body = {"scheduled_at": "in 1 hour"}
    patched = api.patch(f"/emails/{id}", body, content_type="application/json")
    assert words in refuse(patched, 422, "validation_error")
    assert words in refuse(api.post(f"/emails/{id}/cancel"), 422, "validation_error")
    assert EmailRequest.objects.get().state == state
    missing = api.patch("/emails/01234567-89ab-7def-8123-456789abcdef", body, content_type="application/json")
    refuse(missing, 404, "not_found")


# The timeline


def test_the_timeline_of_an_email(api):
    id = send(api)
    api.patch(f"/emails/{id}", {"scheduled_at": "in 1 hour"}, content_type="application/json")
    api.post(f"/emails/{id}/cancel")
    answer = api.get(f"/emails/{id}/events").json()
    assert (answer["object"], answer["has_more"]) == ("list", False)
    assert [event["kind"] for event in answer["data"]] == ["accepted", "scheduled", "canceled"]
    assert answer["data"][0].keys() == {"id", "created_at", "kind", "detail"}
    first, second, third = (event["id"] for event in answer["data"])
    assert ids(api.get(f"/emails/{id}/events?limit=2")) == [first, second]
    assert ids(api.get(f"/emails/{id}/events?after={second}")) == [third]
    for cursor in ("x", "", "1.5", "9" * 5000):
        refuse(api.get(f"/emails/{id}/events?after={cursor}"), 422, "invalid_parameter")
    assert ids(api.get(f"/emails/{id}/events?after={'9' * 30}")) == []
    refuse(api.get("/emails/x/events"), 404, "not_found")


# What goes along


def test_headers_and_tags_come_back_and_headers_go_out(api):
    tags = [{"name": "kind", "value": "receipt"}, {"name": "order_id", "value": "4711-a"}]
    id = send(api, tags=tags, headers={"X-Metadata": '{"order": 4711}', "List-Unsubscribe": "<https://example.com/u>"})
    assert api.get(f"/emails/{id}").json()["tags"] == tags
    raw = EmailRequest.objects.get().raw().decode()
    assert 'X-Metadata: {"order": 4711}' in raw
    assert "List-Unsubscribe: <https://example.com/u>" in raw


def test_a_topic_is_taken_and_has_no_effect(api):
    send(api, topic_id="b6d24b8e-af0b-4c3c-be0c-359bbd97381e")
    send(api, topic_id=None)


@pytest.mark.parametrize("value", ["high", "default", "low"])
def test_priority_picks_the_queue(api, value):
    id = send(api, priority=value)
    assert EmailRequest.objects.get().queue == value
    assert api.get(f"/emails/{id}").json()["priority"] == value


# Trying


def test_a_dry_run_shows_what_would_be_sent_and_stores_nothing(api, django_assert_num_queries):
    api.post("/suppressions", {"email": "jen@example.com"})
    fields = {**FULL, "text": None, "attachments": [{"filename": "a.txt", "content": "SGVsbG8="}]}
    with django_assert_num_queries(1):  # the list of suppressed addresses
        answer = api.post("/emails?dry_run=true", fields)
    assert answer.status_code == 200
    trial = answer.json()
    assert trial["object"] == "dry_run"
    message = message_from_string(trial["raw"], policy=policy.default)
    assert message["To"] == "Moss <moss@example.com>, jen@example.com"
    assert message["Date"] and message["Message-ID"]
    assert [part.get_filename() for part in message.iter_attachments()] == ["a.txt"]
    assert "douglas" not in trial["raw"]  # bcc
    assert trial["recipients"] == ["moss@example.com", "roy@example.com", "douglas@example.com"]
    assert trial["suppressed"] == ["jen@example.com"]
    assert any("no text part" in warning for warning in trial["warnings"])
    assert not EmailRequest.objects.exists()
    assert not Blob.objects.exists()
    refuse(api.post("/emails?dry_run=true", {**fields, "to": "x"}), 422, "validation_error")


@pytest.mark.parametrize("value", ["", "1", "yes", "TRUE", "True"])
def test_what_may_or_may_not_be_a_dry_run_is_refused(api, value):
    """A caller who thinks that this only tries must not send."""
    refuse(api.post(f"/emails?dry_run={value}", FULL), 422, "invalid_parameter")
    assert not EmailRequest.objects.exists()


def test_a_dry_run_that_is_none(api):
    assert api.post("/emails?dry_run=false", FULL).json().keys() == {"id"}


@pytest.mark.parametrize(
    ("fields", "relay", "warning"),
    [
        ({"text": None}, "", "no text part"),
        ({"html": "<p>" + "x" * 110_000}, "", "107 KB"),
        ({"html": '<img src="a.png">'}, "", "1 image has no alt text"),
        ({"html": '<img src="a.png" alt=""> <img> <IMG SRC=x>'}, "", "2 images have no alt text"),
        ({"html": '<a href="http://example.com">x</a>'}, "", "1 link leads to http://"),
        ({"html": '<a href="HTTP://a.example">x</a><a href="http://b.example">'}, "", "2 links lead to http://"),
        ({"html": "<script>x</script>"}, "", "Scripts, forms and frames"),
        ({"text": "See http://example.com"}, "", "The text has links to http://"),
        ({"subject": ""}, "", "The subject is empty"),
        ({}, "smtp://user%40other.example:x@relay.example:25", "login is at other.example"),
    ],
)
def test_warnings_that_an_expert_would_give(api, settings, fields, relay, warning):
    if relay:
        settings.RELAY = Relay.from_url(relay)
    found = api.post("/emails?dry_run=true", {**FULL, **fields}).json()["warnings"]
    assert len(found) == 1
    assert warning in found[0]


@pytest.mark.parametrize("html", ["<" * 10_000, "<!--" * 5_000, "<img " * 5_000, "<![CDATA[", "&#xD800;", "</" * 5_000])
def test_markup_that_is_none_is_looked_at_all_the_same(api, html):
    assert api.post("/emails?dry_run=true", {**FULL, "html": html}).status_code == 200


def test_a_message_that_is_fine_has_no_warnings(api, settings):
    settings.RELAY = Relay.from_url("smtp://shop%40example.com:x@relay.example:25")
    assert api.post("/emails?dry_run=true", FULL).json()["warnings"] == []


# Paths and methods


@pytest.mark.parametrize(
    "path",
    [
        "/emails/a/b",
        "/emails//",
        "/emails/x%0Ay/z",
        "/emails/batch/x",
        "/emails/metrics",
        "/emails/receiving",
        "/emails/receiving/x/attachments/y",
        "/emails/01234567-89ab-7def-8123-456789abcdef/share",
        "/api-keys/a/b",
        "/webhooks",
        "/templates/x/publish",
        "/domains/x/verify",
        "/contacts",
        "/broadcasts",
        "/usage",
        "/sandbox/messages/",
        "/sandbox/messages/x/y",
    ],
)
def test_below_the_apis_names_whatever_does_not_exist_is_json_even_for_browsers(api, path):
    for method in (api.get, api.post, api.put, api.patch, api.delete):
        answer = method(path, HTTP_ACCEPT="text/html")
        assert "There is nothing at /" in refuse(answer, 404, "not_found")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/emails/x/y", "There is nothing at /emails/x/y."),
        ("/domains", "has no such calls yet"),
        ("/templates/welcome", "has no such calls yet"),
        ("/webhooks/1/events", "has no such calls yet"),
        ("/emails/metrics", "has no such calls yet"),
        ("/contacts", "transactional email and nothing else"),
        ("/audiences/1/contacts", "transactional email and nothing else"),
        ("/emails/receiving", "transactional email and nothing else"),
    ],
)
def test_what_a_client_can_call_but_we_do_not_have_says_why(client, path, reason):
    """With or without a key."""
    assert reason in refuse(client.get(path), 404, "not_found")


def test_an_unknown_path_elsewhere_is_json_unless_the_caller_reads_html(client):
    for accept in ("", "*/*", "application/json"):
        refuse(client.get("/nowhere", HTTP_ACCEPT=accept), 404, "not_found")
        refuse(client.post("/nowhere", {}, content_type="application/json", HTTP_ACCEPT=accept), 404, "not_found")
    answer = client.get("/nowhere", HTTP_ACCEPT="text/html,application/xhtml+xml")
    assert answer.status_code == 404
    assert answer["Content-Type"].startswith("text/html")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("put", "/emails"),
        ("delete", "/emails"),
        ("patch", "/emails"),
        ("options", "/emails"),
        ("trace", "/emails"),
        ("post", "/emails/01234567-89ab-7def-8123-456789abcdef"),
        ("delete", "/emails/01234567-89ab-7def-8123-456789abcdef"),
        ("post", "/sandbox/messages"),
        ("delete", "/sandbox/messages/01234567-89ab-7def-8123-456789abcdef.eml"),
    ],
)
def test_a_method_that_a_path_does_not_have(api, method, path):
    answer = getattr(api, method)(path, HTTP_ACCEPT="text/html")
    assert path in refuse(answer, 405, "method_not_allowed")
    assert method.upper() not in answer["Allow"]


def test_a_method_that_nobody_knows(api):
    refuse(api.generic("BREW", "/emails"), 405, "method_not_allowed")


def test_head_answers_like_get_without_a_body(api):
    answer = api.head("/emails")
    assert answer.status_code == 200
    assert answer.content == b""


def test_a_host_name_that_is_not_ours(api):
    message = refuse(api.get("/emails", HTTP_HOST="evil.example"), 400, "validation_error")
    assert "ALLOWED_HOSTS" in message
    assert "evil" not in message


# When something breaks


def test_a_database_that_is_away_is_told_as_such(api, caplog):
    def away(execute, sql, params, many, context):
        raise OperationalError("the server closed the connection")

    with connection.execute_wrapper(away):
        answer = api.post("/emails", FULL)
    assert "try again" in refuse(answer, 503, "application_error")
    assert answer["Retry-After"] == "5"
    assert not EmailRequest.objects.exists()


def test_a_defect_of_ours_is_logged_and_answered_in_shape(api, caplog, settings):
    def broken(execute, sql, params, many, context):
        raise RuntimeError("broken")

    with connection.execute_wrapper(broken):
        answer = api.get("/emails")
    assert "broken" not in refuse(answer, 500, "application_error")
    assert "RuntimeError: broken" in caplog.text
    assert caplog.text.count(answer["request-id"]) == 2  # beside the traceback, and in the request's line


# The sandbox


def keep(*to: str, raw: bytes = b"Subject: Hello\r\n\r\nHello\r\n") -> SandboxMessage:
    return store("shop@example.com", list(to or ["moss@example.com"]), raw)


def test_the_sandbox_lists_what_arrived_newest_first(api):
    first, second = keep("moss@example.com"), keep("Jen@example.com", "roy@example.com")
    answer = api.get("/sandbox/messages")
    assert ids(answer) == [str(second.pk), str(first.pk)]
    assert answer.json()["data"][0] == {
        "id": str(second.pk),
        "envelope_from": "shop@example.com",
        "envelope_to": ["Jen@example.com", "roy@example.com"],
        "subject": "Hello",
        "received_at": second.received_at.isoformat(),
    }


def test_the_sandboxs_list_is_walked_by_pages(api):
    kept = [str(keep("moss@example.com").pk) for _ in range(3)][::-1]
    keep("jen@example.com")
    first = api.get("/sandbox/messages?to=moss@example.com&limit=2")
    assert ids(first) == kept[:2]
    assert first.json()["has_more"] is True
    second = api.get(f"/sandbox/messages?to=moss@example.com&limit=2&after={kept[1]}")
    assert ids(second) == kept[2:]
    assert second.json()["has_more"] is False


@pytest.mark.parametrize(
    ("envelope", "asked"),
    [
        ("moss@example.com", "moss@example.com"),
        ("Moss@Example.COM", "moss@example.com"),
        ("moss@example.com", "MOSS@example.com"),
        ("moss@example.com", "Moss%20<moss@example.com>"),
        ("moss+1@example.com", "moss%2B1@example.com"),
        ("moss@xn--bcher-kva.example", "moss@bücher.example"),
        ("möss@example.com", "möss@example.com"),
        ("postmaster", "postmaster"),
    ],
)
def test_the_sandbox_finds_mail_by_recipient(api, envelope, asked):
    kept = keep("roy@example.com", envelope)
    keep("jen@example.com")
    assert ids(api.get(f"/sandbox/messages?to={asked}")) == [str(kept.pk)]


def test_a_message_to_two_spellings_of_a_mailbox_is_found_once(api):
    kept = keep("Moss@example.com", "moss@example.com")
    assert ids(api.get("/sandbox/messages?to=moss@example.com")) == [str(kept.pk)]


def test_a_recipient_that_got_nothing(api):
    keep("jen@example.com")
    assert ids(api.get("/sandbox/messages?to=moss@example.com")) == []


@pytest.mark.parametrize("to", ["", "%00", "a%00b@example.com", "moss+1@example.com", "%0A"])
def test_a_recipient_that_cannot_be_one(api, to):
    """Among them the address whose + was not written as %2B, and so became a space."""
    assert "`to`" in refuse(api.get(f"/sandbox/messages?to={to}"), 422, "invalid_parameter")


def test_the_very_bytes_of_a_message(api):
    raw = bytes(range(256)) + b"\r\n.\r\nno end"
    kept = keep(raw=raw)
    for accept in ("*/*", "message/rfc822", "text/html"):
        answer = api.get(f"/sandbox/messages/{kept.pk}.eml", HTTP_ACCEPT=accept)
        assert answer.content == raw
        assert answer["Content-Type"] == "message/rfc822"
        assert answer["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("id", ["01234567-89ab-7def-8123-456789abcdef", "x", "%00"])
def test_bytes_that_are_not_there(api, id):
    refuse(api.get(f"/sandbox/messages/{id}.eml"), 404, "not_found")


@pytest.mark.parametrize("path", ["/sandbox/messages", "/sandbox/messages/x.eml", "/emails", "/emails/x"])
def test_nothing_is_shown_without_a_key(client, path):
    refuse(client.get(path), 401, "missing_api_key")
