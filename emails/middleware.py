from collections.abc import Callable

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.db import InterfaceError, InternalError, OperationalError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.csp import CSP
from redis.exceptions import RedisError

from emails.api.errors import database_away

INLINE = [CSP.SELF, CSP.UNSAFE_INLINE]


class DashboardMiddleware:
    """Guards django-rq's pages, which let any staff user empty queues and lean on inline scripts.

    They need the model permission `django_rq.admin`, get a softer CSP than all others, and say so in a
    sentence when Redis is away.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]):
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if not is_dashboard(request):
            return self.get_response(request)
        if request.user.is_staff and not request.user.has_perm("django_rq.admin"):
            raise PermissionDenied
        response = self.get_response(request)
        response._csp_config = {**settings.SECURE_CSP, "script-src": INLINE, "style-src": INLINE}
        return response

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        if is_dashboard(request) and isinstance(exception, RedisError):
            return render(request, "redis_away.html", status=503)
        if is_dashboard(request) and isinstance(exception, IndexError):
            return render(request, "404.html", status=404)  # a queue's number that there isn't
        return None


class DatabaseAwayMiddleware:
    """With the database away nothing was stored, and the caller is asked to come again."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]):
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        if isinstance(exception, InterfaceError | InternalError | OperationalError):
            return database_away(request, exception)
        return None


def is_dashboard(request: HttpRequest) -> bool:
    return request.path.startswith(reverse("admin:app_list", args=["django_rq"]))
