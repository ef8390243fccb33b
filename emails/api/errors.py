"""Every answer that is no success has one shape: `{"statusCode", "name", "message"}`.

The names are Resend's, so that its clients raise the error classes that their users know. A 4xx without
a name of its own is a `validation_error`, whatever is our fault an `application_error`.
"""

import logging

from django.core.exceptions import DisallowedHost, SuspiciousOperation
from django.db import InterfaceError, InternalError, OperationalError, connection
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse, UnreadablePostError
from django.shortcuts import render
from rest_framework import exceptions
from rest_framework.response import Response

from emails.addresses import shortened
from emails.api.paths import for_the_log, nothing_at
from emails.drafts import Invalid

logger = logging.getLogger(__name__)

# Each name that an error may have, and the statuses that it comes with: docs/api.md says when.
NAMES = {
    "validation_error": (400, 411, 413, 415, 422),
    "missing_required_field": (422,),
    "invalid_parameter": (422,),
    "invalid_attachment": (422,),
    "invalid_from_address": (422,),
    "invalid_access": (422,),
    "missing_api_key": (401,),
    "restricted_api_key": (401,),
    "invalid_api_key": (403,),
    "not_found": (404,),
    "method_not_allowed": (405,),
    "invalid_idempotency_key": (400,),
    "invalid_idempotent_request": (409,),
    "concurrent_idempotent_requests": (409,),
    "rate_limit_exceeded": (429,),
    "daily_quota_exceeded": (429,),
    "application_error": (500, 503),
}


class ApiError(Exception):
    """An error for the caller: HTTP status, the contract's name, and a sentence that says what would be right."""

    def __init__(self, status: int, name: str, message: str, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status, self.name, self.message, self.headers = status, name, message, headers or {}

    @property
    def body(self) -> dict:
        return {"statusCode": self.status, "name": self.name, "message": self.message}


def not_found(message: str) -> ApiError:
    return ApiError(404, "not_found", message)


def invalid_parameter(message: str) -> ApiError:
    return ApiError(422, "invalid_parameter", message)


def unknown_path(request: HttpRequest) -> ApiError:
    return not_found(nothing_at(request.path))


def our_fault() -> ApiError:
    return ApiError(500, "application_error", "Something went wrong here. It has been logged.")


def handle(error: Exception, context: dict) -> Response:
    """DRF's exception handler: whatever a view raises becomes an answer in our shape."""
    known = translate(error, context["request"])
    return Response(known.body, status=known.status, headers=known.headers)


def translate(error: Exception, request: HttpRequest) -> ApiError:
    match error:
        case ApiError():
            return error
        case Invalid():
            return ApiError(422, error.problems[0].name, error.problems[0].message)
        case Http404():
            return unknown_path(request)
        case exceptions.MethodNotAllowed():
            message = f"{shortened(request.method)} is not allowed at {shortened(request.path)}."
            return ApiError(405, "method_not_allowed", message)
        case exceptions.UnsupportedMediaType():
            message = "The body must be JSON: send it with the header `Content-Type: application/json`."
            return ApiError(415, "validation_error", message)
        case UnreadablePostError():
            return ApiError(400, "validation_error", "The body ended before it was complete.")
        case SuspiciousOperation():
            return ApiError(400, "validation_error", f"The request can't be understood: {error}")
        case InterfaceError() | InternalError() | OperationalError():
            logger.error("The database failed at %s: %s", of(request), error)
            connection.close_at = 0.0  # with this request: one that was opened read-only would stay so for good
            message = "The database can't be used at the moment: try again in a few seconds."
            return ApiError(503, "application_error", message, {"Retry-After": "5"})
        case _:
            logger.exception("A defect of ours, at %s", of(request))
            return our_fault()


def of(request: HttpRequest) -> str:
    """The request in the log, with the id that its answer names too."""
    return f"{request.method} {for_the_log(request.path)}, request {getattr(request, 'id', '-')}"


# What never reaches one of the API's views: named in mailsite/urls.py.


def page_not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """An unknown path is JSON unless the caller asks for HTML."""
    if wants_html(request):
        return render(request, "404.html", status=404)
    return as_json(unknown_path(request))


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    message = "The request can't be understood."
    if isinstance(exception, DisallowedHost):
        message = "This server does not answer to the host name of the request: ALLOWED_HOSTS lists those it does."
    return as_json(ApiError(400, "validation_error", message))


def server_error(request: HttpRequest) -> HttpResponse:
    if wants_html(request):
        return render(request, "500.html", status=500)
    return as_json(our_fault())


def database_away(request: HttpRequest, exception: Exception) -> HttpResponse:
    """For the pages; it asks nothing of the database."""
    known = translate(exception, request)
    response = render(request, "503.html", status=503) if wants_html(request) else as_json(known)
    for name, value in known.headers.items():
        response[name] = value
    return response


def wants_html(request: HttpRequest) -> bool:
    return "text/html" in request.headers.get("Accept", "")


def as_json(error: ApiError) -> JsonResponse:
    return JsonResponse(error.body, status=error.status)
