"""Behind a proxy: it is believed, nobody else is; and the examples of docs/operating.md work as printed."""

import re
import shutil
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import trustme
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory

from mailsite import env
from mailsite.proxies import ForwardedMiddleware
from tests.conftest import ROOT, missing
from tests.environment import wait_until
from tests.running import Copy, free_port

OPERATING = (ROOT / "docs" / "operating.md").read_text()
PASSWORD = "moss-jen-roy-2026"
STRANGER = "127.0.0.2"  # an address that is not the proxy's, though on this machine


# One request


@pytest.fixture
def seen(settings, monkeypatch) -> Callable[..., HttpRequest]:
    """What the pages get to see of a request that came from an address with some headers."""
    monkeypatch.setenv("PROXIES", "10.0.0.0/8,192.0.2.1,2001:db8::1")
    settings.TRUSTED_PROXIES = env.networks("PROXIES")

    def seen(peer: str, **headers: str) -> HttpRequest:
        names = {f"HTTP_X_FORWARDED_{name.upper()}": value for name, value in headers.items()}
        request = RequestFactory().get("/", REMOTE_ADDR=peer, HTTP_HOST="localhost", **names)
        ForwardedMiddleware(lambda request: HttpResponse())(request)
        return request

    return seen


@pytest.mark.parametrize("proxy", ["10.1.2.3", "192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1"])
def test_a_trusted_proxy_says_who_asks_and_how(seen, proxy):
    request = seen(proxy, proto="https", host="mail.example.com", **{"for": "203.0.113.9"})
    assert (request.META["REMOTE_ADDR"], request.scheme) == ("203.0.113.9", "https")
    assert request.META["HTTP_HOST"] == "mail.example.com"


@pytest.mark.parametrize("peer", ["203.0.113.7", "192.0.2.2", "2001:db8::2", "::ffff:203.0.113.7", ""])
def test_nobody_else_is_heard(seen, peer):
    request = seen(peer, proto="https", host="evil.example", **{"for": "127.0.0.1"})
    assert request.META["REMOTE_ADDR"] == peer.removeprefix("::ffff:")
    assert (request.scheme, request.META["HTTP_HOST"]) == ("http", "localhost")
    assert not any("FORWARDED" in name for name in request.META)


@pytest.mark.parametrize(
    "forwarded, client",
    [
        ("203.0.113.9", "203.0.113.9"),
        ("6.6.6.6, 203.0.113.9", "203.0.113.9"),  # the beginning is the client's own invention
        ("6.6.6.6, 203.0.113.9, 10.0.0.7", "203.0.113.9"),  # through two proxies of ours
        ("10.0.0.7, 10.0.0.8", "10.0.0.7"),
        ("2001:db8::9", "2001:db8::9"),
        ("6.6.6.6, nonsense", "10.1.2.3"),
        ("", "10.1.2.3"),
    ],
)
def test_the_client_is_the_nearest_address_that_is_no_proxy_of_ours(seen, forwarded, client):
    assert seen("10.1.2.3", **{"for": forwarded}).META["REMOTE_ADDR"] == client


@pytest.mark.parametrize("scheme, heard", [("https", "https"), ("http, https", "https"), ("ftp", "http"), ("", "http")])
def test_the_scheme_is_what_the_nearest_proxy_says(seen, scheme, heard):
    assert seen("10.1.2.3", proto=scheme).scheme == heard


# The examples, with a real proxy before a real Mailsite


class Proxied:
    """A Mailsite behind a proxy that listens with TLS at `https://localhost:port`."""

    def __init__(self, folder: Path):
        self.port = free_port()
        self.url = f"https://localhost:{self.port}"
        self.folder = folder
        self.copy = Copy(folder)
        self.copy.environment |= {"PUBLIC_URL": self.url, "TRUSTED_PROXIES": "127.0.0.1", "HSTS_SECONDS": "3600"}
        authority = trustme.CA()
        certificate = authority.issue_cert("localhost")
        self.key, self.chain = folder / "key.pem", folder / "chain.pem"
        certificate.private_key_pem.write_to_path(self.key)
        for pem in certificate.cert_chain_pems:
            pem.write_to_path(self.chain, append=True)
        self.tls = ssl.create_default_context()
        authority.configure_trust(self.tls)

    def start(self, command: list[str]) -> None:
        self.copy.start()
        self.log = self.folder / "proxy.log"
        with self.log.open("wb") as log:
            self.proxy = subprocess.Popen(
                command, cwd=self.folder, env={"HOME": str(self.folder)}, stdout=log, stderr=log
            )
        wait_until(self.answers, "the proxy does not answer")

    def answers(self) -> bool:
        assert self.proxy.poll() is None, self.log.read_text()
        with self.client() as client:
            try:
                return client.get("/health/live").is_success
            except httpx.TransportError:
                return False

    def client(self, url: str = "") -> httpx.Client:
        """A browser's client: at the proxy, or directly at Mailsite's port, where it has no business."""
        transport = httpx.HTTPTransport(verify=self.tls, local_address=STRANGER)
        return httpx.Client(base_url=url or self.url, transport=transport, follow_redirects=True)

    def stop(self) -> None:
        if hasattr(self, "proxy"):
            self.proxy.terminate()
            self.proxy.wait(20)
        self.copy.stop()


def example(language: str) -> str:
    return re.search(rf"```{language}\n(.*?)```", OPERATING, re.DOTALL)[1]


def nginx(site: Proxied) -> list[str]:
    server = example("nginx").replace("listen 443", f"listen 127.0.0.1:{site.port}")
    server = server.replace("listen 80;", f"listen unix:{site.folder}/plain;").replace(
        "mail.example.com;", "localhost;"
    )
    server = re.sub(r"/etc/ssl/\S+\.pem", str(site.chain), server)
    server = re.sub(r"/etc/ssl/\S+\.key", str(site.key), server).replace(":8000", f":{site.copy.port}")
    kept = "".join(
        f"{kind}_temp_path {site.folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    configuration = site.folder / "nginx.conf"
    main = f"user root; daemon off; pid {site.folder}/pid; error_log stderr; events {{}}"
    configuration.write_text(f"{main}\nhttp {{ access_log off; {kept}\n{server}}}")
    return [shutil.which("nginx"), "-p", str(site.folder), "-c", str(configuration)]


def caddy(site: Proxied) -> list[str]:
    server = example("caddyfile").replace("mail.example.com {", f"{site.url} {{\ntls {site.chain} {site.key}\n")
    configuration = site.folder / "Caddyfile"
    configuration.write_text("{\nadmin off\nauto_https off\n}\n" + server.replace(":8000", f":{site.copy.port}"))
    return [shutil.which("caddy"), "run", "--config", str(configuration)]


@pytest.fixture(scope="module", params=[nginx, caddy], ids=["nginx", "caddy"])
def site(request, tmp_path_factory) -> Iterator[Proxied]:
    name = request.param.__name__
    if not shutil.which(name):
        missing(request.config, f"NOT TESTED: the {name} example of docs/operating.md, for want of {name}")
    site = Proxied(tmp_path_factory.mktemp(name))
    try:
        site.start(request.param(site))
        yield site
    finally:
        site.stop()


def test_one_logs_in_and_sends_a_form_through_the_proxy(site):
    site.copy.environment |= {"DJANGO_SUPERUSER_PASSWORD": PASSWORD}
    site.copy.manage("createsuperuser", "--no-input", "--username", "moss", "--email", "moss@example.com")
    with site.client() as browser:

        def submit(page: str, action: str, **fields: str) -> httpx.Response:
            token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', browser.get(page).text)[1]
            headers = {"Origin": site.url, "Referer": f"{site.url}{page}"}
            return browser.post(action, data={"csrfmiddlewaretoken": token, **fields}, headers=headers)

        home = submit("/login", "/login", username="moss", password=PASSWORD)
        assert home.is_success and home.url == f"{site.url}/"
        assert all(cookie.secure for cookie in browser.cookies.jar)
        assert home.headers["strict-transport-security"] == "max-age=3600"
        assert f"{site.url}/emails" in submit("/", "/keys").text
        sent = submit(
            "/send", "/send", **{"from": "shop@example.com"}, to="moss@example.com", subject="Hi", text="Hello"
        )
        assert sent.url.path.startswith("/messages/"), sent.text


def test_the_printed_login_link_leads_through_the_proxy(site):
    link = site.copy.manage("login")
    assert link.startswith(site.url)
    with site.client() as browser:
        assert browser.get(link).url == f"{site.url}/"


def test_a_large_mail_goes_through_the_proxy(site):
    with site.client() as client:
        email = {"from": "shop@example.com", "to": "moss@example.com", "subject": "Large", "text": "x" * 3_000_000}
        answer = client.post("/emails", json=email, headers={"Authorization": f"Bearer {site.copy.key}"})
    assert answer.status_code == 200, answer.text


SPOOFED = {
    "X-Forwarded-Proto": "http",
    "X-Forwarded-Host": "evil.example",
    "X_Forwarded_Proto": "http",
    "X_Forwarded_Host": "evil.example",
}


@pytest.mark.parametrize("name", SPOOFED)
def test_what_a_client_sends_through_the_proxy_has_no_effect(site, name):
    with site.client() as client:
        answer = client.get("/login", headers={name: SPOOFED[name]})
    assert answer.status_code == 200
    assert "strict-transport-security" in answer.headers  # so it is known to have come by TLS


def test_what_is_sent_past_the_proxy_has_no_effect(site):
    with site.client(f"http://127.0.0.1:{site.copy.port}") as client:
        forged = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example", "X-Forwarded-For": "127.0.0.1"}
        answer = client.get("/login", headers=forged)
    assert answer.status_code == 200
    assert "strict-transport-security" not in answer.headers
