"""The outermost layer: a `request-id` on each answer, and a line in the log for each request of the API."""

import logging
import re
import time
from collections.abc import Callable
from urllib.parse import quote

import uuid_utils.compat as uuid
from django.http import HttpRequest, HttpResponse

from emails.api.paths import for_the_log, is_of_the_api

logger = logging.getLogger(__name__)

SANE = re.compile(r"[A-Za-z0-9._:-]{8,128}")


class RequestIdMiddleware:
    """The caller's own id, where it sends a sane one under `request-id` or `x-request-id`, else a new one."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]):
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        began = time.perf_counter()
        given = request.headers.get("request-id") or request.headers.get("x-request-id") or ""
        request.id = given if SANE.fullmatch(given) else str(uuid.uuid7())
        response = self.get_response(request)
        response["request-id"] = request.id
        if is_of_the_api(request.path):
            response._has_been_logged = True  # here, and so not by Django once more
            milliseconds = (time.perf_counter() - began) * 1000
            key = getattr(request, "api_key", None)
            logger.info(
                "%s %s %d in %.0f ms, key %s, request %s",
                quote(request.method), for_the_log(request.path), response.status_code, milliseconds,
                key.name if key else "-", request.id,
            )  # fmt: skip
        return response
