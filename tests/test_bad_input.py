"""Whatever a caller sends, it gets JSON in the API's one shape, a 4xx, and nothing is stored.

The first half goes through Django's whole stack; the second through the web server that production uses,
by bytes on a socket, since it has a say of its own.
"""

import contextlib
import http.client
import json
import os
import socket
import subprocess

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from emails.drafts import FIELDS
from emails.models import ApiKey, EmailRequest, Event
from mailsite import supervisor
from tests import conftest
from tests.environment import wait_until
from tests.test_api import refuse

pytestmark = pytest.mark.django_db

MINIMAL = {"from": "shop@example.com", "to": "moss@example.com", "subject": "Hello", "text": "Hello"}


@pytest.fixture(autouse=True)
def nothing_is_stored(db):
    yield
    assert not EmailRequest.objects.exists()
    assert not Event.objects.exists()


def refused(api, field: str, value, status: int = 422, name: str = "validation_error") -> str:
    """Sends a good email but for one field; asserts that the refusal names it. Returns the message."""
    message = refuse(api.post("/emails", {**MINIMAL, field: value}), status, name)
    assert f"`{field}`" in message
    return message


# Addresses

MALFORMED = [
    "moss",
    "@example.com",
    "moss@",
    "moss@@example.com",
    "moss@exam ple.com",
    "moss@-example.com",
    "moss@example..com",
    "moss.@example.com",
    "mo ss@example.com",
    "moss@example.com>",
    "<moss@example.com",
    "Moss <moss@example.com> and more",
    "Moss <>",
    "<>",
    "",
    " ",
    "Moss",
    "moss@[127.0.0.1]",
    "moss@xn--zzzz.example",
    "a" * 250 + "@example.com",
    "moss@" + "a" * 64 + ".com",
    "\u202emoss@example.com",
    "moss@exam\u200bple.com",
    "moss＠example.com",
]
LINE_BREAKS = ["\r\n", "\n", "\r", "\u2028", "\u2029", "\x85", "\x0b", "\x0c"]
CONTROLS = [*LINE_BREAKS, "\0", "\x01", "\t", "\x1b", "\x7f"]


@pytest.mark.parametrize("address", MALFORMED)
def test_malformed_addresses(api, address):
    for field in ("to", "cc", "bcc", "reply_to"):
        refused(api, field, [address])
        refused(api, field, ["jen@example.com", address])
    refused(api, "from", address, name="invalid_from_address" if address else "missing_required_field")


@pytest.mark.parametrize(
    "address", ["Mo{}ss <moss@example.com>", '"Mo{}ss" <moss@example.com>', "mo{}ss@example.com", "moss@exam{}ple.com"]
)
def test_line_breaks_and_other_control_characters_in_addresses_and_names(api, address):
    for control in CONTROLS:
        evil = address.format(control + "Bcc: evil@example.com" if control in LINE_BREAKS else control)
        refused(api, "from", evil, name="invalid_from_address")
        for field in ("to", "cc", "bcc", "reply_to"):
            refused(api, field, [evil])


@pytest.mark.parametrize(
    "several",
    [
        "moss@example.com, jen@example.com",
        "moss@example.com; jen@example.com",
        "moss@example.com, Jen <jen@example.com>",
        "Moss <moss@example.com>, Jen <jen@example.com>",
    ],
)
def test_several_addresses_in_one_string(api, several):
    """Taken for one address with a strange name, the first would get nothing, and nobody would know."""
    assert "list" in refused(api, "to", several)
    assert "list" in refused(api, "cc", [several])
    refused(api, "from", several, name="invalid_from_address")


def test_a_name_that_is_too_long(api):
    refused(api, "to", f"{'x' * 321} <moss@example.com>")
    refused(api, "from", f"{'x' * 321} <moss@example.com>", name="invalid_from_address")
    refused(api, "to", "x" * 1_000_000 + "@example.com")


# Recipients and bodies


def test_no_recipients(api):
    for nobody in ([], "", None):
        refused(api, "to", nobody, name="missing_required_field")


def test_fifty_one_recipients(api):
    crowd = [f"moss{n}@example.com" for n in range(51)]
    for field in ("to", "cc", "bcc", "reply_to"):
        assert "51" in refused(api, field, crowd)
    message = refuse(
        api.post("/emails", {**MINIMAL, "to": crowd[:20], "cc": crowd[20:40], "bcc": crowd[40:]}),
        422,
        "validation_error",
    )
    assert "51" in message


def test_very_many_recipients_are_refused_at_once(api):
    """Before each of them is looked at, which would take minutes."""
    assert "300000" in refused(api, "to", ["moss@example.com"] * 300_000)


def test_no_body(api):
    for body in ({}, {"text": ""}, {"html": "", "text": None}):
        fields = {name: value for name, value in MINIMAL.items() if name != "text"}
        message = refuse(api.post("/emails", {**fields, **body}), 422, "missing_required_field")
        assert "`html`" in message


@pytest.mark.parametrize("field", ["from", "to", "subject"])
def test_a_missing_field(api, field):
    fields = {name: value for name, value in MINIMAL.items() if name != field}
    assert f"`{field}`" in refuse(api.post("/emails", fields), 422, "missing_required_field")


def test_a_body_that_is_too_large(api):
    answer = api.post("/emails", {**MINIMAL, "html": "x" * 20 * 2**20, "text": "x" * 20 * 2**20 + "x"})
    assert "41943041 bytes" in refuse(answer, 422, "validation_error")


# Text


def test_line_breaks_and_other_control_characters_in_the_subject(api):
    for control in set(CONTROLS) - {"\t"}:
        refused(api, "subject", f"Hello{control}Bcc: evil@example.com")


def test_a_subject_that_is_too_long(api):
    assert "999" in refused(api, "subject", "x" * 999)


@pytest.mark.stores
def test_nul(api):
    for field in ("subject", "text", "html"):
        refused(api, field, "Hello\0")


# Types


@pytest.mark.parametrize("field", FIELDS)
def test_wrong_types(api, field):
    wrong = [0, 1, 1.5, True, False, {"email": ["moss@example.com"]}, [[]], [1], [None], [{}]]
    name = "invalid_attachment" if field == "attachments" else "validation_error"
    for value in [*wrong, *([{}] if field != "headers" else [])]:
        refused(api, field, value, name=name)


@pytest.mark.parametrize("field", ["from", "subject", "text", "html"])
def test_a_list_where_a_string_belongs(api, field):
    refused(api, field, ["Hello"])


# Headers and tags

OURS = [
    "From",
    "To",
    "Cc",
    "Bcc",
    "Subject",
    "Date",
    "Message-ID",
    "MIME-Version",
    "Reply-To",
    "Sender",
    "DKIM-Signature",
]


@pytest.mark.parametrize("name", [*OURS, "Content-Type", "content-transfer-encoding", "CONTENT-X", "message-id", "bCC"])
def test_headers_that_are_ours_are_refused_by_name(api, name):
    assert f"`{name}` is Mailsite's own" in refused(api, "headers", {name: "x"})


@pytest.mark.parametrize("name", ["", " ", "X A", "X:A", "X\r\nBcc", "X\0", "Ü", "x" * 77, "X\u2028"])
def test_what_is_no_headers_name(api, name):
    refused(api, "headers", {name: "x"})


def test_line_breaks_and_other_control_characters_in_headers(api):
    for control in set(CONTROLS) - {"\t"}:
        refused(api, "headers", {"X-Order": f"4711{control}Bcc: evil@example.com"})


@pytest.mark.parametrize("value", [None, 1, 1.5, True, [], ["x"], {}])
def test_a_headers_value_is_a_string(api, value):
    assert "`X-Order` must be a string" in refused(api, "headers", {"X-Order": value})


def test_too_many_or_too_long_headers(api):
    assert "101" in refused(api, "headers", {f"X-{n}": "x" for n in range(101)})
    assert "10001" in refused(api, "headers", {"X-Order": "x " * 5000 + "x"})


@pytest.mark.parametrize(
    "tag",
    [
        {},
        {"name": "a"},
        {"value": "a"},
        {"name": "", "value": "a"},
        {"name": "a", "value": ""},
        {"name": "a b", "value": "c"},
        {"name": "a", "value": "b.c"},
        {"name": "ä", "value": "b"},
        {"name": "a\n", "value": "b"},
        {"name": "x" * 257, "value": "b"},
        {"name": "a", "value": "x" * 257},
        {"name": 1, "value": "b"},
        {"name": "a", "value": None},
        {"name": "a", "value": "b", "colour": "red"},
        "a:b",
        ["a", "b"],
    ],
)
def test_what_is_no_tag(api, tag):
    refused(api, "tags", [{"name": "good", "value": "good"}, tag])


def test_too_many_tags(api):
    assert "51" in refused(api, "tags", [{"name": f"n{n}", "value": "x"} for n in range(51)])
    assert "100000" in refused(api, "tags", [{}] * 100_000)


def test_a_policy_that_does_not_exist(api):
    for value in ("", "x", "RESEND", ["resend"]):
        refused(api, "on_unknown", value)


@pytest.mark.parametrize("field", ["attachments", "headers", "tags"])
def test_a_string_where_a_list_or_an_object_belongs(api, field):
    refused(api, field, "x", name="invalid_attachment" if field == "attachments" else "validation_error")


@pytest.mark.parametrize(
    "field", ["template", "replyTo", "scheduledAt", "react", "sender", "attachment", "", "x" * 5000, "a\nb"]
)
def test_fields_that_are_not_supported_are_refused_by_name(api, field):
    message = refuse(api.post("/emails", {**MINIMAL, field: "x"}), 422, "validation_error")
    assert f"`{field[:70]}" in message
    assert len(message) < 300


def test_a_template_is_refused_with_what_to_do_instead(api):
    message = refused(api, "template", {"id": "welcome", "variables": {}})
    assert "no templates yet" in message and "`html`" in message


# What is no JSON object

JSON = "application/json"


@pytest.mark.parametrize(
    "body",
    [
        "{",
        "{}}",
        "nonsense",
        "{'from': 'a'}",
        '{"from": undefined}',
        '{"a": NaN}',
        '{"a": 1e999}',
        '{"a": ' + "9" * 400 + "}",
        '{"a": ' + "9" * 5000 + "}",
        '{"a": "\\ud800"}',
        '{"a": "\\udc00\\ud800"}',
        b'{"a": "\xed\xa0\x80"}',
        b'{"a": "\xff"}',
        b"\xff\xfe{\x00}\x00",
        b"\xef\xbb\xbf{}",
        b"\0",
        "[" * 100_000 + "]" * 100_000,
        '{"a":' * 100_000 + "1" + "}" * 100_000,
        '{"a": "' + "x" * 100_000,
    ],
    ids=lambda body: repr(body[:20]),
)
def test_invalid_json(api, body):
    assert "not valid JSON" in refuse(api.post("/emails", body, content_type=JSON), 400, "validation_error")


@pytest.mark.parametrize("body", ["[]", "[{}]", '"text"', "1", "0", "1e300", "true", "null", "[1, 2]"])
def test_json_that_is_no_object(api, body):
    assert "JSON object" in refuse(api.post("/emails", body, content_type=JSON), 422, "validation_error")


@pytest.mark.parametrize("body", ["", " ", "\n", "{}"])
def test_an_empty_body(api, body):
    assert "`from`" in refuse(api.post("/emails", body, content_type=JSON), 422, "missing_required_field")


@pytest.mark.parametrize("number", ["123456789012345678901234567890", "1e300", "-1e308", "9" * 300, "1e-400"])
def test_huge_numbers(api, number):
    for field in FIELDS:
        name = "invalid_attachment" if field == "attachments" else "validation_error"
        body = json.dumps({**MINIMAL, field: None})[:-1] + f', "other": {number}}}'
        answer = api.post("/emails", body.replace(f'"{field}": null, "other"', f'"{field}"'), content_type=JSON)
        assert answer.status_code in (400, 422), body
        refuse(answer, answer.status_code, "validation_error" if answer.status_code == 400 else name)


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ('{"from": "a@example.com", "from": "b@example.com"}', "from"),
        ('{"to": "a@example.com", "subject": "x", "to": "a@example.com"}', "to"),
        ('{"headers": {"X-A": "1", "X-A": "2"}}', "X-A"),
        ('{"tags": [{"name": "a", "value": "b"}, {"name": "a", "name": "b"}]}', "name"),
        ('{"t\\u006f": 1, "to": 2}', "to"),
        ('{"": 1, "": 2}', ""),
        ('{"' + "x" * 5000 + '": 1, "' + "x" * 5000 + '": 2}', "x" * 77),
    ],
)
def test_a_name_that_stands_twice(api, body, name):
    """Parsers disagree which of the two counts; guards before us may have read the other one."""
    for path in ("/emails", "/emails/batch"):
        message = refuse(api.post(path, body, content_type=JSON), 400, "validation_error")
        assert f"the name `{name}" in message and len(message) < 300


@pytest.mark.parametrize("depth", [2, 100, 1000, 1024, 5000])
@pytest.mark.parametrize(("start", "end"), [("[", "]"), ('{"a":', "}")])
def test_deep_nesting(api, depth, start, end):
    body = start * depth + "1" + end * depth
    for field in (None, *FIELDS):
        text = body if field is None else '{"%s": %s}' % (field, body)  # noqa: UP031  braces abound
        answer = api.post("/emails", text, content_type=JSON)
        assert answer.status_code in (400, 422)
        refuse(answer, answer.status_code, answer.json()["name"])


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "text/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/octet-stream",
        "nonsense",
        "",
        ";;;",
    ],
)
def test_a_wrong_content_type(api, content_type):
    answer = api.post("/emails", json.dumps(MINIMAL), content_type=content_type)
    assert "application/json" in refuse(answer, 415, "validation_error")


def test_an_oversized_body(api, settings):
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 2**20
    answer = api.post("/emails", {**MINIMAL, "text": "x" * 2**20})
    assert "at most 1 MB" in refuse(answer, 413, "validation_error")


def test_a_body_without_its_length(api):
    answer = api.post("/emails", MINIMAL, HTTP_TRANSFER_ENCODING="chunked")
    assert "Content-Length" in refuse(answer, 411, "validation_error")


# The key


def test_a_bad_key_is_refused_before_the_body_is_looked_at(client):
    for header, status, name in (("", 401, "missing_api_key"), ("Bearer x", 403, "invalid_api_key")):
        extra = {"HTTP_AUTHORIZATION": header} if header else {}
        refuse(client.post("/emails", "{", JSON, **extra), status, name)
        refuse(client.post("/emails", MINIMAL, "text/plain", **extra), status, name)


# Anything

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.stores
@hypothesis_settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fields=st.dictionaries(st.sampled_from(FIELDS), anything, max_size=len(FIELDS)))
def test_whatever_stands_in_the_fields(api, fields):
    fields.pop("to", None)  # so that none is accepted by chance
    body = json.dumps(fields).encode(errors="replace")
    answer = api.generic("POST", "/emails", body, content_type=JSON)
    assert answer.status_code in (400, 422)
    refuse(answer, answer.status_code, answer.json()["name"])


@hypothesis_settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=200))
def test_whatever_stands_in_the_body(api, body):
    answer = api.generic("POST", "/emails", body, content_type=JSON)
    assert answer.status_code in (400, 422)
    refuse(answer, answer.status_code, answer.json()["name"])


# Through the real web server


class Server:
    """The web server with the options of mailsite/supervisor.py, on the tests' stores."""

    def __init__(self, log, **environment: str):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.log = log
        command = supervisor.web(("127.0.0.1", self.port)).command
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=conftest.ROOT,
                env={**os.environ, "DATABASE_URL": conftest.test_database_url(), **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        wait_until(self.answers, f"the web server did not start: {log.read_text()}")

    def answers(self) -> bool:
        try:
            return self.ask("GET", "/health/live").status == 200
        except OSError:
            return False

    def ask(self, method: str, path: str, body=None, **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(method, path, body, headers, encode_chunked="Transfer-Encoding" in headers)
        answer = connection.getresponse()
        answer.content = answer.read()
        connection.close()
        return answer

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


@pytest.fixture
def server(transactional_db, tmp_path):
    server = Server(tmp_path / "web.log")
    yield server
    server.stop()


def refused_by(answer: http.client.HTTPResponse, status: int, name: str) -> str:
    assert answer.status == status, answer.content
    assert answer.getheader("Content-Type") == "application/json"
    body = json.loads(answer.content)
    assert (body["statusCode"], body["name"]) == (status, name)
    return body["message"]


@pytest.mark.django_db(transaction=True)
def test_the_web_server_answers_in_the_same_shape(server):
    key = {"Authorization": f"Bearer {ApiKey.create('tests')[1]}"}
    post = {**key, "Content-Type": "application/json"}

    def chunks():
        yield json.dumps(MINIMAL).encode()

    chunked = server.ask("POST", "/emails", chunks(), **post, **{"Transfer-Encoding": "chunked"})
    assert "Content-Length" in refused_by(chunked, 411, "validation_error")
    refused_by(server.ask("POST", "/emails", b"", **post), 422, "missing_required_field")
    refused_by(server.ask("POST", "/emails", b"{", **post), 400, "validation_error")
    refused_by(server.ask("POST", "/emails", b"from=x", **key), 415, "validation_error")
    refused_by(server.ask("POST", "/emails", b"{}", **{"Content-Type": "application/json"}), 401, "missing_api_key")
    refused_by(server.ask("POST", "/emails", b"{}", Authorization="Bearer x"), 403, "invalid_api_key")
    refused_by(server.ask("POST", "/emails", b"{}", Authorization="Bearer \xff"), 401, "missing_api_key")
    refused_by(server.ask("GET", "/emails/%00", **key), 404, "not_found")
    refused_by(server.ask("GET", "/emails/../emails", **key, Accept="text/html"), 404, "not_found")
    refused_by(server.ask("GET", "/%ff%fe%00", **key), 404, "not_found")
    refused_by(server.ask("GET", "/sandbox/messages?to=%00", **key), 422, "invalid_parameter")
    refused_by(server.ask("OPTIONS", "/emails", **key), 405, "method_not_allowed")
    refused_by(server.ask("BREW", "/emails", **key), 405, "method_not_allowed")
    refused_by(server.ask("GET", "/emails", **key, Host="evil.example"), 400, "validation_error")
    assert server.ask("GET", "/emails", b"{}", **post).status == 200  # the Python client sends a body with GET

    head = server.ask("HEAD", "/emails", **key)
    assert (head.status, head.content, head.getheader("Content-Type")) == (200, b"", "application/json")

    for body, status in (
        (b"[" * 100_000, 400),
        (b'{"a":' * 5_000 + b"1" + b"}" * 5_000, 400),
        (b'{"a":' * 1_000 + b"1" + b"}" * 1_000, 422),
        (b'{"from": "a@example.com", "from": "b@example.com"}', 400),
        (b'{"subject": "\\ud800"}', 400),
        (b'{"subject": "\xed\xa0\x80"}', 400),
        (json.dumps({**MINIMAL, "text": "\0"}).encode(), 422),
        (b'{"to": ' + b"9" * 5_000 + b"}", 400),
        (b'{"to": 1e308}', 422),
        (b"null", 422),
    ):
        for path in ("/emails", "/emails/batch"):
            answer = server.ask("POST", path, body, **post)
            if path == "/emails":
                assert answer.status == status, body[:50]
            assert answer.status in (400, 422), body[:50]
            refused_by(answer, answer.status, json.loads(answer.content)["name"])

    # An answer given before the body is read must reach a caller that is still writing.
    fifty = b'{"text": "' + b"x" * 50_000_000 + b'"}'
    assert "at most 45 MB" in refused_by(server.ask("POST", "/emails", fifty, **post), 413, "validation_error")
    large = b'{"text": "' + b"x" * (80 * 2**20) + b'"}'
    refused_by(server.ask("POST", "/emails", large, **post), 413, "validation_error")
    refused_by(server.ask("POST", "/emails", large, **{"Content-Type": "application/json"}), 401, "missing_api_key")
    refused_by(server.ask("POST", "/emails/batch/x", large, **post), 404, "not_found")
    refused_by(server.ask("PATCH", "/emails", large, **post), 405, "method_not_allowed")
    assert not EmailRequest.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_bytes_that_no_client_library_would_send(server):
    """Whatever the web server refuses by itself, it does so with a 4xx, without HTML, and goes on."""
    key = ApiKey.create("tests")[1]

    def exchange(request: str) -> str:
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as caller:
            answer = b""
            with contextlib.suppress(OSError):  # a server that has heard enough hangs up
                caller.sendall(request.replace("\n", "\r\n").encode())
                while part := caller.recv(65536):
                    answer += part
            return answer.decode()

    many = "".join(f"X-{n}: x\n" for n in range(100))
    good = f"Host: localhost\nAuthorization: Bearer {key}\nContent-Type: application/json\nConnection: close\n"
    without_length = exchange(f"POST /emails HTTP/1.1\n{good}\n" + json.dumps(MINIMAL))
    assert without_length.startswith("HTTP/1.1 422 ")
    assert '"missing_required_field"' in without_length
    for request in (
        f"POST /emails HTTP/1.1\n{good}Content-Length: nonsense\n\n{{}}",
        f"POST /emails HTTP/1.1\n{good}Content-Length: -1\n\n{{}}",
        f"POST /emails HTTP/1.1\n{good}Content-Length: 2\nContent-Length: 3\n\n{{}}",
        f"POST /emails HTTP/1.1\n{good}Transfer-Encoding: chunked\n\nno chunk\n",
        "nonsense\n\n",
        "GET /emails HTTP/9.9\n\n",
        f"GET /{'x' * 100_000} HTTP/1.1\n{good}\n",
        f"GET /emails HTTP/1.1\n{good}{many}\n",
        f"GET /emails HTTP/1.1\n{good}X : x\n\n",
        f"GET /emails HTTP/1.1\n{good}X: \0\n\n",
        f"GET /emails HTTP/1.1\n{good}X: {'x' * 1_000_000}\n\n",
    ):
        answer = exchange(request)
        assert answer == "" or answer.split()[1][0] == "4", (request[:200], answer[:200])
        assert "<html" not in answer.lower()
    assert server.ask("GET", "/emails", Authorization=f"Bearer {key}").status == 200
    assert "Traceback" not in server.log.read_text()


@pytest.mark.django_db(transaction=True)
def test_a_body_that_ends_early_stops_nobody(server):
    """A caller that hangs up in the middle of its body is forgotten; the next one is served."""
    key = ApiKey.create("tests")[1]
    head = f"POST /emails HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n"
    head += "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
    for _ in range(8):  # more than the server has threads
        with socket.create_connection(("127.0.0.1", server.port)) as caller:
            caller.sendall(head.encode() + b'{"from":')
    refused_by(server.ask("GET", "/emails"), 401, "missing_api_key")
    assert not EmailRequest.objects.exists()
    assert "Traceback" not in server.log.read_text()
