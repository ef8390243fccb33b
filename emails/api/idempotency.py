"""`Idempotency-Key`: a request that may be sent again."""

import hashlib

import orjson
from rest_framework.request import Request
from rest_framework.response import Response

from emails.api.errors import ApiError
from emails.models import IdempotencyKey, Once, OnceConflict


def idempotency_key(request: Request) -> Once | None:
    """What `Idempotency-Key` asks for: the same key and the same body store their emails once within 24 hours."""
    if (key := request.headers.get("Idempotency-Key")) is None:
        return None
    if not 1 <= len(key) <= 256 or not key.isprintable():
        message = "The header `Idempotency-Key` must have 1 to 256 printable characters."
        raise ApiError(400, "invalid_idempotency_key", message)
    digest = hashlib.sha256(orjson.dumps(request.data, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return Once(request.auth, key, digest)


def first_use(once: Once | None) -> IdempotencyKey | None:
    """The key's earlier use, if there was one: its answer holds, even if its time has passed meanwhile."""
    try:
        return once.first_use() if once else None
    except OnceConflict as conflict:
        raise conflicted(conflict) from None


def replayed(body: dict) -> Response:
    return Response(body, headers={"idempotent-replayed": "true"})


def conflicted(conflict: OnceConflict) -> ApiError:
    if conflict.concurrent:
        message = "The first request with this `Idempotency-Key` is still being stored: try again."
        return ApiError(409, "concurrent_idempotent_requests", message)
    message = "This `Idempotency-Key` was used within the last 24 hours for another body."
    return ApiError(409, "invalid_idempotent_request", message)
