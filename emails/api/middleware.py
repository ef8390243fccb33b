"""What surrounds the API's views: ids and the log's lines for all requests, and the way past the pages' layers."""

import logging
import re
import time
from collections.abc import Callable
from urllib.parse import quote

import uuid_utils.compat as uuid
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import resolve

from emails.api.paths import for_the_log, is_of_the_api
from emails.models import RequestLog
from emails.requestlog import writer
from mailsite import logs

logger = logging.getLogger(__name__)

SANE = re.compile(r"[A-Za-z0-9._:-]{8,128}")


class RequestIdMiddleware:
    """A `request-id` on each answer, and a line in the log for each request that may matter.

    The id is the caller's own, where it sends a sane one under `request-id` or `x-request-id`, else a new one.
    Those that matter are all of the API, and on the pages those that change something or fail: who looks at a
    page leaves no line.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]):
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        began = time.perf_counter()
        given = request.headers.get("request-id") or request.headers.get("x-request-id") or ""
        request.id = given if SANE.fullmatch(given) else str(uuid.uuid7())
        token = logs.request_at_hand.set(request)
        try:
            response = self.get_response(request)
            response["request-id"] = request.id
            looks = request.method in ("GET", "HEAD") and response.status_code < 500
            if is_of_the_api(request.path) or not looks:
                response._has_been_logged = True  # here, and so not by Django once more
                log(request, response, round((time.perf_counter() - began) * 1000))
        finally:
            logs.request_at_hand.reset(token)
        return response


class ApiMiddleware:
    """Takes the API's requests straight to their views: sessions, cookies and the like are for the pages."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]):
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if not is_of_the_api(request.path_info):
            return self.get_response(request)
        view, arguments, named = request.resolver_match = resolve(request.path_info)
        response = view(request, *arguments, **named)
        return response.render() if hasattr(response, "render") else response


def log(request: HttpRequest, response: HttpResponse, milliseconds: int) -> None:
    method, path = quote(request.method), for_the_log(request.path)
    key = getattr(request, "api_key", None)
    client = request.META.get("REMOTE_ADDR", "-")
    logger.info(
        "%s %s %d in %d ms, key %s, from %s, request %s",
        method, path, response.status_code, milliseconds, key.name if key else "-", client, request.id,
        extra={
            "method": method, "path": path, "status": response.status_code, "milliseconds": milliseconds,
            "client": client,
        },
    )  # fmt: skip
    if settings.REQUEST_LOG_DAYS and is_of_the_api(request.path):
        writer.add(
            RequestLog(
                method=method[:16], path=path, status=response.status_code, status_class=response.status_code // 100,
                milliseconds=milliseconds, key=key.name if key else "", request=request.id,
                user_agent=request.headers.get("User-Agent", "").replace("\0", "")[:200],
            )
        )  # fmt: skip
