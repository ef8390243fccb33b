"""What a trusted proxy says about its client is believed, what anybody else says is not even seen."""

import ipaddress
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse

type Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class ForwardedMiddleware:
    """`X-Forwarded-For`, `-Proto` and `-Host` from TRUSTED_PROXIES become the request's own; then they are gone.

    A list is read from its end, which the nearest proxy wrote: its beginning is whatever a client sent.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]):
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        environ = request.META
        addresses, schemes, hosts = (
            [item.strip() for item in environ.pop(f"HTTP_X_FORWARDED_{name}", "").split(",")]
            for name in ("FOR", "PROTO", "HOST")
        )
        peer = address(environ.get("REMOTE_ADDR", ""))
        if peer:
            if is_trusted(peer):
                believe(environ, schemes[-1], hosts[-1])
            environ["REMOTE_ADDR"] = str(client(peer, addresses))
        return self.get_response(request)


def believe(environ: dict[str, Any], scheme: str, host: str) -> None:
    if scheme in ("http", "https"):
        environ["wsgi.url_scheme"] = scheme
    if host:
        environ["HTTP_HOST"] = host  # ALLOWED_HOSTS judges it, as any other


def client(peer: Address, forwarded: list[str]) -> Address:
    """The nearest address that is not one of our proxies; the last one known, where the list makes no sense."""
    while is_trusted(peer) and forwarded and (before := address(forwarded.pop())):
        peer = before
    return peer


def is_trusted(peer: Address) -> bool:
    return any(peer in network for network in settings.TRUSTED_PROXIES)


def address(text: str) -> Address | None:
    """An IP address; an IPv4 one also where a socket for both kinds writes it as `::ffff:192.0.2.1`."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found
