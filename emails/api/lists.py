"""Lists: one page of rows, asked for by `limit` and by `after` or `before` an item."""

import re
from collections.abc import Callable
from typing import Any

from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from rest_framework.request import Request
from rest_framework.response import Response

from emails.api.errors import invalid_parameter
from emails.search import Keys

LONGEST_PAGE = 100


def page(
    request: Request,
    rows: QuerySet,
    as_json: Callable,
    *,
    keys: Keys | None = None,
    oldest_first: bool = False,
    default: int = 20,
) -> Response:
    """One page, by keyset: the last is as fast as the first. Newest first, unless told otherwise.

    `keys` are those of the rows that are wanted, if not all are; they are read newest first.
    """
    limit = number(request, "limit", default, LONGEST_PAGE)
    after, before = (cursor(request, rows, name) for name in ("after", "before"))
    if after is not None and before is not None:
        raise invalid_parameter("Give `after` or `before`, not both.")
    if keys:
        rows = rows.filter(pk__in=keys.cut(limit + 1, below=after, above=before))
    if after is not None:
        rows = rows.filter(**{"pk__gt" if oldest_first else "pk__lt": after})
    if before is not None:
        rows = rows.filter(**{"pk__lt" if oldest_first else "pk__gt": before})
    forwards = oldest_first == (before is None)  # from an item backwards, rows are read the other way round
    found = list(rows.order_by("pk" if forwards else "-pk")[: limit + 1])
    has_more, found = len(found) > limit, found[:limit]
    if before is not None:
        found.reverse()
    return Response({"object": "list", "has_more": has_more, "data": [as_json(row) for row in found]})


def number(request: Request, name: str, default: int, maximum: int) -> int:
    text = request.query_params.get(name, str(default))
    if not re.fullmatch("[0-9]{1,9}", text) or not 1 <= int(text) <= maximum:
        raise invalid_parameter(f"`{name}` must be a whole number from 1 to {maximum}.")
    return int(text)


def choice(request: Request, name: str, allowed: list[str]) -> str | None:
    if name not in request.query_params:
        return None
    if (text := request.query_params[name]) in allowed:
        return text
    raise invalid_parameter(f"`{name}` must be one of {', '.join(f'`{word}`' for word in allowed)}.")


def cursor(request: Request, rows: QuerySet, name: str) -> Any:
    if name not in request.query_params:
        return None
    try:
        return rows.model._meta.pk.to_python(request.query_params[name])
    except ValidationError:
        raise invalid_parameter(f"`{name}` must be the id of an item of this list.") from None
