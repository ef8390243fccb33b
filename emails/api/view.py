"""What all of the API's views have in common, and how they read a body."""

from contextlib import suppress

from django.http import HttpResponse, UnreadablePostError
from rest_framework.request import Request
from rest_framework.views import APIView

from emails.api import limits
from emails.api.errors import ApiError, unknown_path
from emails.models import ApiKey

CHUNK = 64 * 1024
MAX_UNREAD = 256 * 1024 * 1024


class ApiView(APIView):
    """Answers in JSON, whatever the caller would accept, to a key that may ask this."""

    http_method_names = ["get", "head", "post", "patch", "delete"]
    sending: tuple[str, ...] = ()  # methods that a key for sending only may use

    def initial(self, request: Request, *args, **kwargs) -> None:
        super().initial(request, *args, **kwargs)
        if not self.authentication_classes:
            return  # open to all: the view says why
        key = request._request.api_key = request.auth  # for the log
        self.headers |= limits.take_turn(key)
        forbidden = key.permission == ApiKey.Permission.SENDING and request.method not in self.sending
        if forbidden and request.method in self.allowed_methods:  # else 405 says more
            raise ApiError(401, "restricted_api_key", "This API key may only send emails.")

    def perform_content_negotiation(self, request: Request, force: bool = False) -> tuple:
        renderer = self.get_renderers()[0]
        return renderer, renderer.media_type

    def finalize_response(self, request: Request, response: HttpResponse, *args, **kwargs) -> HttpResponse:
        """Reads what is left of the body: a server that closes with unread bytes takes its answer with it."""
        with suppress(UnreadablePostError):
            for _ in range(MAX_UNREAD // CHUNK):
                if not request._request.read(CHUNK):
                    break
        return super().finalize_response(request, response, *args, **kwargs)


class Unknown(ApiView):
    """Paths below the API's names that don't exist: 404, with or without a key."""

    schema = None  # no part of the description

    def initial(self, request: Request, *args, **kwargs) -> None:
        raise unknown_path(request)


def json_body(request: Request) -> object:
    if "Transfer-Encoding" in request.headers:  # WSGI gives Django no body without its length
        raise ApiError(411, "validation_error", "The body's length is missing: send `Content-Length`, not chunks.")
    return request.data


def json_object(request: Request) -> dict:
    body = json_body(request)
    if not isinstance(body, dict):
        raise ApiError(422, "validation_error", 'The body must be a JSON object, such as {"name": "value"}.')
    return body
