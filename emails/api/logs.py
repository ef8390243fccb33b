"""The request log: which requests the API had, and how it answered them. Bodies are not kept."""

from rest_framework.request import Request
from rest_framework.response import Response

from emails.addresses import shortened
from emails.api import description as api
from emails.api.description import described
from emails.api.errors import not_found
from emails.api.lists import page
from emails.api.view import ApiView
from emails.models import RequestLog
from emails.search import as_uuid


class Logs(ApiView):
    @described("listLogs", "List the requests", "LogPage", parameters=api.PAGE)
    def get(self, request: Request) -> Response:
        """The requests of all keys, newest first. One appears within about a second after its answer."""
        return page(request, RequestLog.objects.all(), as_json)


class OneLog(ApiView):
    @described("getLog", "Look at a request", "Log", parameters=[api.in_path("id", "The entry's id.")])
    def get(self, request: Request, id: str) -> Response:
        """One request. `request_body` and `response_body` are null: bodies are not kept."""
        row = RequestLog.objects.filter(pk=uuid).first() if (uuid := as_uuid(id)) else None
        if not row:
            raise not_found(f"There is no request {shortened(id)} in the log.")
        return Response({"object": "log", **as_json(row), "request_body": None, "response_body": None})


def as_json(row: RequestLog) -> dict:
    return {
        "id": str(row.pk),
        "created_at": row.created_at.isoformat(),
        "endpoint": row.path,
        "method": row.method,
        "response_status": row.status,
        "user_agent": row.user_agent,
        "request_id": row.request,
        "key": row.key or None,
        "milliseconds": row.milliseconds,
    }
